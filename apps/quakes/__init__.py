"""A week of earthquakes: statistics per network, alerts, and a feed with a bad record.

pspf emit quakes @apps/quakes/data/quakes.ndjson
pspf worker apps.quakes:stream --burst
pspf groups inspect
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pspf import Stream

__all__ = ["stream"]


def __getattr__(name: str) -> "Stream":
    # Deferred, because making a Stream asks the settings for a broker, and `apps.quakes.run` is to
    # start whatever they say: it names a broker of its own. An app without a script like that
    # writes `from shop.handlers import stream`.
    if name != "stream":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from apps.quakes.handlers import stream

    return stream
