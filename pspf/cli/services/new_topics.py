"""Notice of a topic that an emit makes: names the nearest other topic, as the name may be mistyped."""

from pspf.cli.parsing import near
from pspf.connectors.contract.broker import Broker
from pspf.errors import NotFound


async def describe_new(broker: Broker, topic: str) -> str | None:
    """Return what to say once an emit has made `topic`; None where it exists already."""
    try:
        await broker.read_topic(topic)
    except NotFound:
        others = [info.topic for info in await broker.list_topics()]
        return f"topic {topic!r} is new, with one partition{near(topic, others)}"
    return None
