"""`pspf topics`: what topics there are, one in detail, a new one."""

from typing import Annotated

import typer

from pspf.cli.console import format_span, say, write, write_json, write_table
from pspf.cli.exits import UsageError
from pspf.cli.grammar import parse_span_ms
from pspf.cli.options import AsJson, Backend, Command, Verbose, examples, make_app

app = make_app(
    "Topics of the broker.",
    "pspf topics list",
    "pspf topics inspect orders --json",
    "pspf topics create orders --partitions 16 --retention 7d",
)


@app.command("list", cls=Command, epilog=examples("pspf topics list", "pspf topics list --json"))
def list_topics(backend: Backend = None, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """List all topics with their size."""
    from pspf.cli import brokers

    async def work() -> None:
        async with brokers.open_broker(backend) as broker:
            infos = await broker.list_topics()
        if as_json:
            write_json(
                {
                    "topics": [
                        {"topic": t.topic, "partitions": t.partitions, "records": t.records, "bytes": t.size_bytes}
                        for t in infos
                    ]
                }
            )
            return
        rows = [(t.topic, t.partitions, t.records, t.size_bytes, _retention(t.retention_ms)) for t in infos]
        write_table(("topic", "partitions", "records", "bytes", "retention"), rows, empty=f"no topics in {broker.name}")

    brokers.run(work())


@app.command(cls=Command, epilog=examples("pspf topics inspect orders", "pspf topics inspect orders-dlq --json"))
def inspect(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic.")],
    backend: Backend = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Show one topic, partition by partition."""
    from pspf.cli import brokers
    from pspf.records import format_id

    async def work() -> None:
        async with brokers.open_broker(backend) as broker:
            await brokers.read_topic_info(broker, topic)
            found, partitions = await broker.read_topic(topic)
        bounds = [
            (p, format_id(p.partition, p.first) if p.records else None, format_id(p.partition, p.next))
            for p in partitions
        ]
        if as_json:
            write_json(
                {
                    "topic": found.topic,
                    "records": found.records,
                    "bytes": found.size_bytes,
                    "retention_ms": found.retention_ms,
                    "partitions": [
                        {"partition": p.partition, "records": p.records, "first": first, "next": after}
                        for p, first, after in bounds
                    ],
                }
            )
            return
        size = "?" if found.size_bytes is None else f"{found.size_bytes:,}"
        say(f"{found.topic}: {found.records:,} records, {size} bytes, retention {_retention(found.retention_ms)}")
        write_table(
            ("partition", "records", "first", "next"),
            [(p.partition, p.records, first, after) for p, first, after in bounds],
        )

    brokers.run(work())


@app.command(
    cls=Command,
    epilog=examples(
        "pspf topics create orders --partitions 16",
        "pspf topics create audit --retention forever",
        "pspf topics create work --retention consumed",
    ),
)
def create(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="Its name: A-Z a-z 0-9 . _ -")],
    partitions: Annotated[
        int | None, typer.Option("--partitions", "-p", min=1, max=100_000, help="How many; fixed for ever.")
    ] = None,
    retention: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN", help="How long records stay: 7d, forever, or consumed (until all groups are done)."
        ),
    ] = None,
    backend: Backend = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Make a topic; one that is there already with as many partitions is left as it is."""
    from pspf.cli import brokers

    retention_ms = None if retention is None else parse_retention_ms(retention)

    async def work() -> None:
        async with brokers.open_broker(backend) as broker:
            created = await broker.create_topic(topic, partitions=partitions, retention_ms=retention_ms)
            found, _ = await broker.read_topic(topic)
        if as_json:
            write_json({"topic": topic, "partitions": found.partitions, "created": created})
        else:
            write(f"{topic} {'created' if created else 'is there already'}, partitions: {found.partitions}")

    brokers.run(work())


def parse_retention_ms(text: str) -> int:
    """Return a topic's retention in milliseconds.

    Raises:
        UsageError: It is neither a span nor `forever` nor `consumed`, or a span of nothing.
    """
    from pspf.connectors.base import FOREVER

    if text in ("forever", "consumed"):
        return FOREVER if text == "forever" else 0
    retention_ms = parse_span_ms(text)
    if retention_ms == 0:
        raise UsageError(f"--retention {text}: to keep records only until all groups are done, write consumed")
    return retention_ms


def _retention(retention_ms: int) -> str:
    if retention_ms == 0:
        return "consumed"
    return "forever" if retention_ms < 0 else format_span(retention_ms)
