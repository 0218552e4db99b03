"""A week of earthquakes: statistics per network, alerts, reports by windows, and a feed with a bad record.

pspf emit quakes @apps/quakes/data/quakes.ndjson
pspf worker apps.quakes:stream --burst --final
pspf groups inspect
"""

from apps.quakes.reports import stream

__all__ = ["stream"]
