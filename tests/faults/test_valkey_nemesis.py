"""Three workers, and a nemesis that kills, stops, cuts and delays them throughout: the result is one undisturbed pass.

`make faults` sends 20,000 events; `PSPF_SEED` repeats the nemesis' choices.
"""

import asyncio
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from pspf.connectors.contract.limits import Limits
from pspf.errors import BackendUnavailable, EmitUnknown
from tests.faults.runs import RUNS, SECONDS, SEED, TOPIC, Event, Run, ServerPlace, check_exactly_once, make_events
from tests.faults.valkey import Site, scripts
from tests.support.forks import Fork
from tests.support.proxy import Loss, Proxy, named
from tests.support.servers import Server
from tests.support.waiting import wait_until

EVENTS: Final = 2_000 if RUNS <= 2 else 20_000
KEYS: Final = 50
PARTITIONS: Final = 4
WORKERS: Final = 3
PER_SECOND: Final = 200
"""How many events are emitted; the nemesis acts as long as that lasts."""
BATCH: Final = 20
PEACE_S: Final = 60
"""How long the workers may take when the nemesis is gone."""


class Nemesis:
    """Does something to a worker or to the way to the server, again and again."""

    def __init__(self, run: Run, proxy: Proxy, rng: random.Random) -> None:
        self.done: Counter[str] = Counter()
        self.workers = [run.start(burst=False) for _ in range(WORKERS)]
        self._run = run
        self._proxy = proxy
        self._rng = rng
        self._deeds: list[Callable[[], float]] = [
            self.kill,
            self.kill,
            self.stop_for_a_while,
            self.cut,
            self.cut,
            self.lose_replies,
            self.lose_requests,
            self.darken,
            self.refuse,
            self.delay,
        ]

    def act(self, until: threading.Event) -> None:
        """Act until told to stop, and leave everything in order."""
        while not until.wait(self._rng.uniform(0.1, 0.6)):
            deed = self._rng.choice(self._deeds)
            self.done[deed.__name__] += 1
            until.wait(deed())
            self._appease()

    def _appease(self) -> None:
        self._proxy.lighten()
        self._proxy.latency_s = 0
        for worker in self.workers:
            worker.send_signal(signal.SIGCONT)

    def _pick(self) -> Fork:
        return self._rng.choice(self.workers)

    def kill(self) -> float:
        worker = self._pick()
        worker.kill()
        worker.wait()
        self.workers[self.workers.index(worker)] = self._run.start(burst=False)
        return 0.5

    def stop_for_a_while(self) -> float:
        self._pick().send_signal(signal.SIGSTOP)
        return self._rng.uniform(0.2, 4)  # shorter and longer than a lease

    def cut(self) -> float:
        self._proxy.cut()
        return 0

    def lose_replies(self) -> float:
        picks = self._rng.choice([scripts("commit_ordered"), scripts("commit_shared"), named("XREADGROUP", "XRANGE")])
        self._proxy.lose(picks, self._rng.choice([Loss.REPLY, Loss.ANSWER]), nth=self._rng.randint(1, 5))
        return 0

    def lose_requests(self) -> float:
        self._proxy.lose(named("EVALSHA", "XREADGROUP", "XRANGE"), Loss.REQUEST, nth=self._rng.randint(1, 5))
        return 0

    def darken(self) -> float:
        self._proxy.darken()
        return self._rng.uniform(0.2, 4)

    def refuse(self) -> float:
        self._proxy.refuse()
        threading.Event().wait(self._rng.uniform(0.1, 1))
        self._proxy.accept()
        return 0

    def delay(self) -> float:
        self._proxy.latency_s = self._rng.uniform(0.01, 0.2)
        return 1


async def emit_all(site: Site, events: list[Event]) -> None:
    """Emit steadily through the proxy; what may have been lost is sent again under its id."""
    async with site.broker(Limits()) as broker:
        for start in range(0, len(events), BATCH):
            records = [event.as_record()._replace(event_id=f"e{event.n}") for event in events[start : start + BATCH]]
            while True:
                try:
                    await broker.append(TOPIC, records)
                    break
                except (BackendUnavailable, EmitUnknown):
                    await asyncio.sleep(0.1)
            await asyncio.sleep(BATCH / PER_SECOND)


@pytest.mark.parametrize("name", ["valkey", "redis"] if RUNS > 2 else ["valkey"])
async def test_whatever_happens_everything_takes_effect_exactly_once(
    own_server: Callable[..., Server], tmp_path: Path, name: str
) -> None:
    print(f"PSPF_SEED={SEED}")
    events = make_events(EVENTS, KEYS)
    server = own_server(name)
    with Proxy(server.port) as proxy:
        site = Site(server, proxy)
        run = Run(tmp_path, ServerPlace(server, proxy=proxy), partitions=PARTITIONS)
        await run.fill([])
        nemesis = Nemesis(run, proxy, random.Random(SEED))
        peace = threading.Event()
        acting = asyncio.create_task(asyncio.to_thread(nemesis.act, peace))
        try:
            await emit_all(site, events)
            peace.set()
            await acting
            print(dict(nemesis.done))
            await site.finish(within_ms=PEACE_S * 1_000)
            for worker in nemesis.workers:
                worker.terminate()
            codes = [await asyncio.to_thread(worker.wait, SECONDS) for worker in nemesis.workers]
            assert codes == [0] * WORKERS, run.tail_of_log()
        except BaseException:
            print(run.tail_of_log())
            raise
        finally:
            peace.set()
            await asyncio.wait([acting])
            for worker in nemesis.workers:
                worker.kill()
                worker.wait()
        async with run.open() as broker:
            await check_exactly_once(broker, events)
        run.check()
        await wait_until(lambda: _is_tidy(site), timeout_ms=20_000)


async def _is_tidy(site: Site) -> bool:
    """Whether no lease and no connection of a worker is left behind."""
    with site.server.client(decode_responses=True) as client:
        return not [key for key in client.scan_iter(count=1_000) if ":live:" in key]
