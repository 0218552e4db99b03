"""A week of earthquakes: statistics per network, alerts, and a feed with a bad record.

pspf emit quakes @apps/quakes/data/quakes.ndjson
pspf worker apps.quakes:stream --burst
pspf groups inspect
"""

from apps.quakes.handlers import stream

__all__ = ["stream"]
