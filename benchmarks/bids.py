"""The events of the windows' benchmarks: bids at auctions, 227 bytes of JSON each, in the order of their time."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pspf import BaseEvent

TOPIC = "bids"
BID_BYTES = 227
BEGIN_MS = 1_767_225_600_000
"""The time of the first bid: 2026-01-01, which is where a window begins."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SEED = 20_260_101


class Bid(BaseEvent):
    """A bid; its key is the auction."""

    auction: int
    bidder: int
    price: int
    channel: str
    url: str


@dataclass(frozen=True, slots=True)
class Bids:
    """Which bids: `total` of them, `per_second` in a second of event time, on `keys` auctions.

    The first `keys` bids are one on each auction, so that all are live from there on; the rest are random.
    """

    total: int
    keys: int
    per_second: int

    def time_ms(self, number: int) -> int:
        """Return the event time of a bid."""
        return BEGIN_MS + number * 1_000 // self.per_second

    def facts(self) -> Iterator[tuple[int, int, int]]:
        """Give (event time, auction, price) of each."""
        rng = random.Random(_SEED)
        first = rng.sample(range(self.keys), self.keys)
        for number in range(self.total):
            auction = first[number] if number < self.keys else rng.randrange(self.keys)
            yield self.time_ms(number), auction, rng.randrange(1_000_000, 10_000_000)

    def payloads(self) -> Iterator[tuple[bytes, bytes]]:
        """Give (key, JSON) of each."""
        for number, (time_ms, auction, price) in enumerate(self.facts()):
            key = f"auction-{auction:06}"
            at = (_EPOCH + timedelta(milliseconds=time_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            head = (
                f'{{"event_type":"Bid","timestamp":"{at}","key":"{key}","auction":{1_000_000 + auction},'
                f'"bidder":{1_000_000 + number},"price":{price},"channel":"channel-{number % 100:02}","url":"https://'
            )
            yield key.encode(), f'{head}auctions.example/{"x" * (BID_BYTES - len(head) - 19)}"}}'.encode()
