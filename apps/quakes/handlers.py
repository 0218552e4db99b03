"""The handlers: one remembers, one warns, one cleans a feed."""

from apps.quakes.models import ALERT_MAGNITUDE, NetworkStats, Quake, QuakeAlert, RawQuake
from pspf import Context, RetryPolicy, Stream

stream = Stream(topic="quakes", group="quakes")


@stream.subscribe("quakes", ordering="key", name="quakes.statistics")
async def statistics(quake: Quake, ctx: Context) -> None:
    """Keep statistics per network: the state belongs to the record's key."""
    known = NetworkStats.model_validate(await ctx.state.get("stats", {}))
    await ctx.state.put("stats", known.with_quake(quake).model_dump())


@stream.subscribe("quakes", group="alerts", name="quakes.alert")
async def alert(quake: Quake, ctx: Context) -> None:
    """Emit an alert for a strong earthquake, exactly once: it is part of the commit."""
    if quake.magnitude is not None and quake.magnitude >= ALERT_MAGNITUDE:
        warning = QuakeAlert(magnitude=quake.magnitude, place=quake.place, quake_id=quake.event_id)
        ctx.emit(warning, topic="quake-alerts", key=quake.key)


@stream.subscribe("quakes-raw", retry=RetryPolicy(max_attempts=2, initial_ms=100), name="quakes.clean")
async def clean(raw: RawQuake, ctx: Context) -> None:
    """Pass a network's own report on as a `Quake`; one that can't be is retried once, then a dead letter."""
    if not (-90 <= raw.lat <= 90 and -180 <= raw.lon <= 180):
        raise ValueError(f"no place on Earth: latitude {raw.lat}, longitude {raw.lon}")
    quake = Quake(
        event_id=f"{raw.net}{raw.code}",
        timestamp=raw.timestamp,
        key=raw.net,
        magnitude=raw.mag,
        place=raw.place,
        longitude=raw.lon,
        latitude=raw.lat,
        depth_km=raw.depth,
    )
    ctx.emit(quake, topic="quakes")
