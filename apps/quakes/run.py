"""The main job on real data, with the commands that a user types: `python -m apps.quakes.run [FOLDER]`.

Makes a broker file of its own afresh in the folder (.pspf/run of the project), and ends with
`N events, lag L`; exit 1 where a count is not the file's or something is left to do.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from apps.quakes.models import ALERT_MAGNITUDE
from apps.quakes.reports import DAILY, STRONGEST, SWARMS

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "apps" / "quakes" / "data" / "quakes.ndjson"
FOLDER = ROOT / ".pspf" / "run"
QUARTERS = range(0, 24, 6)
BAD_RECORD = {
    "net": "zz",
    "code": "0001",
    "mag": 9.9,
    "place": "nowhere",
    "lon": 500.0,
    "lat": 123.4,
    "depth": 10.0,
}


@dataclass(frozen=True, slots=True)
class Found:
    """What the broker has after the job: statistics by network, alerts, dead letters, lag of all groups.

    `daily`, `strongest` and `swarms` are results of windows.
    """

    networks: Mapping[str, Mapping[str, Any]]
    alerts: Sequence[Mapping[str, Any]]
    daily: Sequence[Mapping[str, Any]]
    strongest: Sequence[Mapping[str, Any]]
    swarms: Sequence[Mapping[str, Any]]
    dead_letters: Sequence[Mapping[str, Any]]
    lag: int | None

    @property
    def events(self) -> int:
        """Earthquakes that were counted."""
        return sum(stats["count"] for stats in self.networks.values())


class Pspf:
    """The `pspf` command on one broker file, whatever the shell has set for other ones."""

    def __init__(self, broker: Path) -> None:
        self._backend = f"sqlite:///{quote(str(broker))}"
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PSPF_", "VALKEY_"))
        }

    def run(self, *arguments: str) -> str:
        """Run one command, shown as a user would type it; return what it wrote to stdout.

        Raises:
            SystemExit: It failed.
        """
        print("$ pspf", *(f"'{a}'" if " " in a else a for a in arguments), flush=True)
        command = [sys.executable, "-m", "pspf", *arguments, "--backend", self._backend]
        # Its talk goes to our stderr, which is the user's.
        done = subprocess.run(command, cwd=ROOT, env=self._environment, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            print(done.stdout, end="")
            raise SystemExit(f"pspf {arguments[0]} ended with exit code {done.returncode}")
        return done.stdout

    def tail(self, topic: str) -> list[dict[str, Any]]:
        """Return the events of a topic."""
        return [json.loads(line)["event"] for line in self.run("tail", topic, "--jsonl").splitlines()]


def main(folder: Path) -> int:
    """Run the job; return the exit code."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    broker = folder / "broker.db"
    pspf = Pspf(broker)
    started = time.monotonic()
    print(pspf.run("emit", "quakes", f"@{DATA.relative_to(ROOT)}"), end="")
    print(pspf.run("emit", "quakes-raw", json.dumps(BAD_RECORD)), end="")
    print(pspf.run("worker", "apps.quakes:stream", "--burst", "--final"), end="")
    print(pspf.run("groups", "inspect"))
    print(f"the three took {time.monotonic() - started:.1f} s; the broker's file stays: {broker}\n")
    found = read_found(pspf)
    show(found)
    wrong = find_differences(found)
    for difference in wrong:
        print(f"wrong: {difference}", file=sys.stderr)
    print(f"{found.events} events, lag {'?' if found.lag is None else found.lag}")
    return 1 if wrong else 0


def read_found(pspf: Pspf) -> Found:
    """Ask the broker what came of it."""
    state = json.loads(pspf.run("state", "list", "quakes.statistics", "--name", "stats", "--json"))["state"]
    dead_letters = json.loads(pspf.run("dlq", "list", "--json"))["dead_letters"]
    lags = [group["lag"] for group in json.loads(pspf.run("groups", "inspect", "--json"))["groups"]]
    networks = {entry["key"]: entry["value"] for entry in state}
    return Found(
        networks,
        pspf.tail("quake-alerts"),
        pspf.tail(DAILY),
        pspf.tail(STRONGEST),
        pspf.tail(SWARMS),
        dead_letters,
        None if None in lags else sum(lags),
    )


def find_differences(found: Found) -> list[str]:
    """Return how what was found differs from what the file says, counted here without PSPF."""
    quakes = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    strong = sorted(q["event_id"] for q in quakes if (q["magnitude"] or 0) >= ALERT_MAGNITUDE)
    checks = {
        "events per network": (
            {network: stats["count"] for network, stats in found.networks.items()},
            dict(Counter(quake["key"] for quake in quakes)),
        ),
        "events per day": (
            sum_by((str(day_of(result)), result["value"]["count"]) for result in found.daily),
            dict(Counter(quake["timestamp"][:10] for quake in quakes)),
        ),
        "events in swarms": (sum(result["value"]["count"] for result in found.swarms), len(quakes)),
        "alerts": (sorted(alert["quake_id"] for alert in found.alerts), strong),
        "dead letters": (len(found.dead_letters), 1),
        "lag": (found.lag, 0),
    }
    return [f"{what}: found {got}, expected {expected}" for what, (got, expected) in checks.items() if got != expected]


def show(found: Found) -> None:
    """Print what was found."""
    print(f"\n{'network':<8} {'count':>6} {'strongest':>9} {'mean depth':>11}  where")
    for network, stats in sorted(found.networks.items(), key=lambda item: -item[1]["count"]):
        strongest = "-" if stats["strongest"] is None else f"{stats['strongest']:.1f}"
        depth = f"{stats['mean_depth_km']:.1f} km" if stats["measured"] else "-"
        print(f"{network:<8} {stats['count']:>6} {strongest:>9} {depth:>11}  {stats['strongest_place'] or '-'}")
    print(f"\nalerts (magnitude {ALERT_MAGNITUDE} or more): {len(found.alerts)}, the strongest:")
    for alert in sorted(found.alerts, key=lambda alert: -alert["magnitude"])[:3]:
        print(f"  {alert['magnitude']:.1f}  {alert['place']}")
    show_windows(found)
    print(f"\ndead letters: {len(found.dead_letters)}")
    for letter in found.dead_letters:
        print(f"  {letter['handler']}, {letter['attempts']} attempts: {letter['error_type']}: {letter['error']}")
    print()


def show_windows(found: Found) -> None:
    """Print what the windows have come to."""
    counts = {(day_of(result), result["key"]): result["value"]["count"] for result in found.daily}
    days = sorted({day for day, _ in counts})
    totals = sum_by((network, count) for (_, network), count in counts.items())
    print(f"\n{'by day':<8}" + "".join(f"{day:%d %b}".rjust(8) for day in days))
    for network in sorted(totals, key=lambda network: -totals[network]):
        print(f"{network:<8}" + "".join(f"{counts.get((day, network), 0):>8}" for day in days))
    show_strongest(found)
    print(f"\nswarms (no half hour without a quake in a region): {len(found.swarms)}, the largest:")
    for result in sorted(found.swarms, key=lambda result: -result["value"]["count"])[:5]:
        begin, end = time_of(result, "window_start_ms"), time_of(result, "window_end_ms")
        count, strongest = result["value"]["count"], result["value"]["strongest"]
        print(f"  {count:>4} in {result['key']}, {begin:%d %b %H:%M} to {end:%d %b %H:%M}, up to {strongest:.1f}")


def show_strongest(found: Found) -> None:
    """Print the windows that start every six hours, a day a line, and where the day's strongest was."""
    print(f"\n{'strongest':<10}" + "".join(f"{hour:02}-{hour + 6:02}".rjust(8) for hour in QUARTERS))
    by_start = {time_of(result, "window_start_ms"): result["value"][0] for result in found.strongest}
    for day in sorted({start.replace(hour=0) for start in by_start}):
        quarters = [by_start.get(day.replace(hour=hour)) for hour in QUARTERS]
        known = [quarter for quarter in quarters if quarter is not None]
        if known:
            magnitudes = "".join("-".rjust(8) if quarter is None else f"{quarter[0]:8.1f}" for quarter in quarters)
            print(f"{day:%d %b}    {magnitudes}  {max(known)[1]}")


def sum_by(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return the sums by name."""
    sums: Counter[str] = Counter()
    for name, count in pairs:
        sums[name] += count
    return dict(sums)


def time_of(result: Mapping[str, Any], field: str) -> datetime:
    """Return one of a window's times."""
    return datetime.fromtimestamp(result[field] / 1000, UTC)


def day_of(result: Mapping[str, Any]) -> date:
    """Return the day on which a window starts."""
    return time_of(result, "window_start_ms").date()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else FOLDER))
