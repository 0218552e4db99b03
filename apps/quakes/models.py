"""The events: what the seismic networks report, what we say about it, what we remember."""

from pydantic import BaseModel

from pspf import BaseEvent

ALERT_MAGNITUDE = 4.5
"""From here on people hear of it."""


class Quake(BaseEvent):
    """One earthquake; `key` is the network that located it. Depth in kilometres, negative above sea level."""

    magnitude: float | None = None
    magnitude_type: str | None = None
    place: str
    longitude: float
    latitude: float
    depth_km: float | None = None


class RawQuake(BaseEvent):
    """A report as a network's own feed writes it, not checked."""

    net: str
    code: str
    mag: float
    place: str
    lon: float
    lat: float
    depth: float


class QuakeAlert(BaseEvent):
    """An earthquake that people should hear of."""

    magnitude: float
    place: str
    quake_id: str


class NetworkStats(BaseModel):
    """What is remembered of a network. `measured` counts the quakes whose depth is known."""

    count: int = 0
    strongest: float | None = None
    strongest_place: str | None = None
    measured: int = 0
    mean_depth_km: float = 0.0

    def with_quake(self, quake: Quake) -> "NetworkStats":
        """Return the statistics with one more earthquake; the mean moves by its share (Welford, 1962)."""
        changed = self.model_copy(update={"count": self.count + 1})
        if quake.magnitude is not None and (self.strongest is None or quake.magnitude > self.strongest):
            changed.strongest, changed.strongest_place = quake.magnitude, quake.place
        if quake.depth_km is not None:
            changed.measured = self.measured + 1
            changed.mean_depth_km = self.mean_depth_km + (quake.depth_km - self.mean_depth_km) / changed.measured
        return changed


class Swarm(BaseModel):
    """Quakes of a region that followed one another."""

    count: int = 0
    strongest: float | None = None

    @classmethod
    def of(cls, quake: Quake) -> "Swarm":
        """Return one quake as a swarm."""
        return cls(count=1, strongest=quake.magnitude)

    def merged(self, other: "Swarm") -> "Swarm":
        """Return both as one."""
        known = [each for each in (self.strongest, other.strongest) if each is not None]
        return Swarm(count=self.count + other.count, strongest=max(known, default=None))
