"""Gate of a process's batches: they run together, and one alone that may have ended an earlier process."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import SystemRandom
from typing import Final

_random: Final = SystemRandom()  # not drawn alike after a fork, or where the app seeds


def _tell_nobody(text: str) -> None:
    pass


async def _do_nothing() -> None:
    pass


class SoloGate:
    """Lets batches run together, and now and then one alone; a call that does not end delays no other batch for ever.

    A batch that waits to be alone keeps new ones from starting for `hold_s`. Where others still run then, new ones
    start for `rest_s`, before they are held again; after `wait_s` it runs beside those that are left. Once a batch has
    been alone for `alone_s`, others that wait start beside it. Of several that wait to be alone the first is drawn by
    lot within `chance_s`, so that one that hangs is not the first in every process. Belongs to no event loop.
    """

    def __init__(
        self,
        *,
        hold_s: float = 1.0,
        rest_s: float = 4.0,
        wait_s: float = 15.0,
        alone_s: float = 5.0,
        chance_s: float = 0.0,
    ) -> None:
        self._hold_s = hold_s
        self._rest_s = rest_s
        self._wait_s = wait_s
        self._alone_s = alone_s
        self._chance_s = chance_s
        self._running = 0
        self._alone: object | None = None
        self._waiting_alone = 0
        self._waiting_together = 0
        self._open_until_s = 0.0
        """Until when the others may start, though somebody waits to be alone."""
        self._waiters: set[asyncio.Future[None]] = set()

    @asynccontextmanager
    async def together(self) -> AsyncIterator[bool]:
        """Run beside others; waits while one runs alone or is about to. Gives whether nothing is known of others."""
        self._waiting_together += 1
        self._tell_all()
        try:
            while self._is_closed:
                await self._change(None)
        finally:
            self._waiting_together -= 1
        self._running += 1
        try:
            yield True
        finally:
            self._running -= 1
            self._tell_all()

    @asynccontextmanager
    async def alone(
        self, tell: Callable[[str], None] = _tell_nobody, before_others: Callable[[], Awaitable[None]] = _do_nothing
    ) -> AsyncIterator[bool]:
        """Run while nothing else does, as far as that is to be had; gives whether nothing else does.

        `tell` gets to know where it is not. `before_others` is done before the others join.
        """
        if self._chance_s:
            await asyncio.sleep(_random.uniform(0, self._chance_s))
        me = object()
        self._waiting_alone += 1
        self._tell_all()
        try:
            is_alone = await self._wait_for_turn(tell)
            self._alone = me
        finally:
            self._waiting_alone -= 1
            self._tell_all()  # one that was cancelled lets the others go on
        self._running += 1
        begun_s = time.monotonic()
        joining = asyncio.create_task(self._let_join(me, tell, before_others))
        try:
            yield is_alone
        finally:
            joining.cancel()
            self._running -= 1
            if self._alone is me:
                self._alone = None
                took_s = time.monotonic() - begun_s
                if took_s > self._hold_s:  # the others have waited as long: now it is their turn
                    self._open_until_s = time.monotonic() + took_s
            self._tell_all()

    @property
    def _is_closed(self) -> bool:
        return self._alone is not None or (self._waiting_alone > 0 and time.monotonic() >= self._open_until_s)

    async def _wait_for_turn(self, tell: Callable[[str], None]) -> bool:
        """Return when it is one's turn: True where nothing else runs."""
        begun_s = time.monotonic()
        has_told = False
        while self._alone is not None or self._running or (self._waiting_together and not self._is_closed):
            now_s = time.monotonic()
            if self._alone is not None:
                await self._change(None)
                continue
            if now_s >= begun_s + self._wait_s:
                tell(f"runs beside {self._running} that did not end in {now_s - begun_s:.0f} s")
                return False
            held_until_s = max(begun_s, self._open_until_s) + self._hold_s
            if now_s >= held_until_s:
                self._open_until_s = now_s + self._rest_s
                self._tell_all()
                if not has_told:
                    has_told = True
                    tell(f"waits for {self._running} that are under way to end; the others go on meanwhile")
            next_s = self._open_until_s if now_s >= held_until_s else held_until_s
            await self._change(min(next_s, begun_s + self._wait_s) - now_s)
        return True

    async def _let_join(
        self, me: object, tell: Callable[[str], None], before_others: Callable[[], Awaitable[None]]
    ) -> None:
        begun_s = time.monotonic()
        await asyncio.sleep(self._alone_s)
        while not self._waiting_together and not self._waiting_alone:
            await self._change(None)
        try:
            await before_others()
        finally:
            if self._alone is me:
                self._alone = None
                self._open_until_s = time.monotonic() + self._rest_s
                tell(f"has run alone for {time.monotonic() - begun_s:.0f} s; the others go on beside it")
                self._tell_all()

    async def _change(self, timeout_s: float | None) -> None:
        """Return when something has changed, or the time is up."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=timeout_s)
        finally:
            self._waiters.discard(waiter)

    def _tell_all(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
