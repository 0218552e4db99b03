"""Shares of the members of an ordered handler: how many partitions each may hold, and which ones it gives back."""

from collections.abc import Collection, Iterable, Mapping, Sequence


def share_of(members: Sequence[str], own: str, partitions: int) -> int:
    """Return how many of `partitions` are this member's: evenly, the first members get the remainder."""
    if own not in members:
        return 0
    whole, remainder = divmod(partitions, len(members))
    return whole + (members.index(own) < remainder)


def choose_given_back(held_since_ms: Mapping[int, float], share: int, now_ms: float, hold_ms: float) -> list[int]:
    """Return the partitions beyond the share: the newest, of these the ones that were held for `hold_ms`.

    Members would else trade them in a loop.
    """
    newest = sorted(held_since_ms, key=lambda partition: held_since_ms[partition], reverse=True)
    beyond = newest[: max(0, len(newest) - share)]
    return [partition for partition in beyond if now_ms - held_since_ms[partition] >= hold_ms]


class UnreadPartitions:
    """The partitions that stay free, and since when."""

    def __init__(self, longest_ms: float) -> None:
        self.longest_ms = longest_ms
        """How long one may be free until it counts as unread."""
        self._since_ms: dict[int, float] = {}

    def update(self, free: Iterable[int], held: Collection[int], now_ms: float) -> tuple[int, ...]:
        """Note what is free now; return what has been free for too long, in order."""
        self._since_ms = {
            partition: self._since_ms.get(partition, now_ms) for partition in free if partition not in held
        }
        return tuple(
            partition for partition, since_ms in self._since_ms.items() if now_ms - since_ms >= self.longest_ms
        )
