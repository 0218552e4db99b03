"""The windows: what each network counted by day, the strongest of each six hours, swarms.

Their results go to topics of their own. The catalogue is in order, but a network's own feed may lag behind:
windows wait for an hour of event time before they close.
"""

from apps.quakes.handlers import stream
from apps.quakes.models import Quake, Swarm
from pspf import Count, Max, SessionWindow, SlidingWindow, TopN, TumblingWindow

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS

DAILY = "quakes-daily"
STRONGEST = "quakes-strongest"
SWARMS = "quake-swarms"

__all__ = ["DAILY", "STRONGEST", "SWARMS", "region", "stream"]


def world(quake: Quake) -> str:
    """Return the key that all quakes share."""
    return "world"


def region(quake: Quake) -> str:
    """Return the state or country of `5km NW of The Geysers, California`, the whole place where it names none."""
    return quake.place.rpartition(", ")[2]


stream.window(
    "quakes",
    TumblingWindow(24 * HOUR_MS),
    watermark_delay_ms=HOUR_MS,
    emit="final",
    to=DAILY,
    name="quakes.daily",
    schema=Quake,
)({"count": Count(), "strongest": Max("magnitude")})

stream.window(
    "quakes",
    SlidingWindow(6 * HOUR_MS, HOUR_MS),
    watermark_delay_ms=HOUR_MS,
    key=world,
    emit="final",
    to=STRONGEST,
    name="quakes.strongest",
    schema=Quake,
)(TopN("magnitude", 1, keep="place"))


@stream.window(
    "quakes",
    SessionWindow(30 * MINUTE_MS),
    watermark_delay_ms=HOUR_MS,
    key=region,
    emit="final",
    to=SWARMS,
    merge=Swarm.merged,
    name="quakes.swarms",
)
async def swarm(quake: Quake, known: Swarm | None) -> Swarm:
    """Put a quake to those of its region that were no half hour before it."""
    return Swarm.merged(known or Swarm(), Swarm.of(quake))
