"""The windows' benchmark by bytewax, with recovery: `python -m benchmarks.peers_bytewax aggregate '{...}'`.

In both ways the source gives 1,000 bids at a time, decoded with msgspec; an epoch, and with it a snapshot for recovery,
is a second long, where PSPF commits each batch; results are counted, not written anywhere.

aggregate           tuned: a stateful step instead of windows, which folds a key's bids of a batch at once and closes
                    a key's window at its next bid behind it. It knows no watermark and no late event
aggregate_windows   its own windows, as its documentation has them: an event clock and `fold_window`. The clock goes on
                    with the system's while a key has no event, so it waits for a minute: else bids are late
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import apsw
import bytewax.operators as op
import bytewax.operators.windowing as win
import msgspec
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main

from benchmarks.windows_actors import COMMIT, StructBid

EPOCH = timedelta(seconds=1)
Window = tuple[int, int, int]
"""Its number, how many bids it has, and the highest."""


class Log(StatefulSourcePartition[tuple[str, StructBid], int]):
    """The bids in a broker file, from a place on; the place is what recovery remembers."""

    def __init__(self, path: str, total: int, resume: int | None) -> None:
        self._connection: Any = apsw.Connection(path)
        self._decode = msgspec.json.Decoder(StructBid).decode
        self._left = total
        self._place = resume or 0

    def next_batch(self) -> Iterable[tuple[str, StructBid]]:
        rows = self._connection.execute(
            "SELECT place, value FROM records WHERE place > ? ORDER BY place LIMIT ?",
            (self._place, min(COMMIT, self._left)),
        ).fetchall()
        if not rows:
            raise StopIteration
        self._place = rows[-1][0]
        self._left -= len(rows)
        bids = [self._decode(value) for _, value in rows]
        return [(bid.key, bid) for bid in bids]

    def snapshot(self) -> int:
        return self._place

    def close(self) -> None:
        self._connection.close()


class Source(FixedPartitionedSource[tuple[str, StructBid], int]):
    """One partition: the broker file."""

    def __init__(self, path: str, total: int) -> None:
        self._path, self._total = path, total

    def list_parts(self) -> list[str]:
        return ["bids"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Log:
        return Log(self._path, self._total, resume_state)


class Hot(op.StatefulBatchLogic[StructBid, Window, Window | None]):
    """The open window of a key."""

    def __init__(self, size_ms: int, resume: Window | None) -> None:
        self._size_ms = size_ms
        self._open = resume

    def on_batch(self, values: list[StructBid]) -> tuple[Iterable[Window], bool]:
        closed: list[Window] = []
        window = self._open
        for bid in values:
            number = int(bid.timestamp.timestamp() * 1_000) // self._size_ms
            if window is not None and window[0] == number:
                window = number, window[1] + 1, max(window[2], bid.price)
            else:
                if window is not None:
                    closed.append(window)
                window = number, 1, bid.price
        self._open = window
        return closed, False

    def on_eof(self) -> tuple[Iterable[Window], bool]:
        return [] if self._open is None else [self._open], True

    def snapshot(self) -> Window | None:
        return self._open


class Tally(StatelessSinkPartition[tuple[str, Window]]):
    """Counts the results, but for those of the last window, which only the end of the input has closed."""

    def __init__(self, last_window: int) -> None:
        self.results = self.counted = 0
        self._last_window = last_window

    def write_batch(self, items: list[tuple[str, Window]]) -> None:
        for _, (window, bids, _) in items:
            if window < self._last_window:
                self.results += 1
                self.counted += bids


class Sink(DynamicSink[tuple[str, Window]]):
    """Gives the one worker the tally."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Tally:
        return self._tally


Step = Callable[[op.KeyedStream[StructBid], int], op.KeyedStream[Window]]
"""From bids by key to what their windows of so many ms come to."""


def aggregate(*, path: str, total: int, group: str, sizes_ms: list[int]) -> dict[str, Any]:
    """Count and max of tumbling windows by a step of one's own."""
    return _run(
        lambda bids, size_ms: op.stateful_batch("hot", bids, lambda resume: Hot(size_ms, resume)),
        path,
        total,
        group,
        *sizes_ms,
    )


def aggregate_windows(*, path: str, total: int, group: str, sizes_ms: list[int]) -> dict[str, Any]:
    """Count and max of tumbling windows by bytewax's own."""
    return _run(_fold_window, path, total, group, *sizes_ms)


def _fold_window(bids: op.KeyedStream[StructBid], size_ms: int) -> op.KeyedStream[Window]:
    clock = win.EventClock(lambda bid: bid.timestamp, wait_for_system_duration=timedelta(minutes=1))
    windower = win.TumblingWindower(length=timedelta(milliseconds=size_ms), align_to=datetime(1970, 1, 1, tzinfo=UTC))
    windows = win.fold_window(
        "hot",
        bids,
        clock,
        windower,
        lambda: (0, 0),
        lambda state, bid: (state[0] + 1, max(state[1], bid.price)),
        lambda one, other: (one[0] + other[0], max(one[1], other[1])),
        ordered=False,  # else it keeps all events of the minute that it waits
    )
    return op.map_value("flat", windows.down, lambda closed: (closed[0], *closed[1]))


def _run(step: Step, path: str, total: int, group: str, size_ms: int) -> dict[str, Any]:
    """Run a dataflow of one worker."""
    log: Any = apsw.Connection(path)
    [(last,)] = log.execute("SELECT value FROM records ORDER BY place LIMIT 1 OFFSET ?", (total - 1,)).fetchall()
    log.close()
    last_ms = int(msgspec.json.decode(last, type=StructBid).timestamp.timestamp() * 1_000)
    tally = Tally(last_ms // size_ms)
    with tempfile.TemporaryDirectory(prefix=f"{group}-", dir=Path(path).parent) as folder:
        init_db_dir(Path(folder), 1)
        cpu, started = time.process_time(), time.perf_counter()
        flow = Dataflow(group)
        bids = op.input("bids", flow, Source(path, total))
        op.output("out", step(bids, size_ms), Sink(tally))
        run_main(flow, epoch_interval=EPOCH, recovery_config=RecoveryConfig(folder))
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "results": tally.results, "counted": tally.counted}


if __name__ == "__main__":
    actors = {actor.__name__: actor for actor in (aggregate, aggregate_windows)}
    print(json.dumps(actors[sys.argv[1]](**json.loads(sys.argv[2]))))
