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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from apps.quakes.models import ALERT_MAGNITUDE

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "apps" / "quakes" / "data" / "quakes.ndjson"
FOLDER = ROOT / ".pspf" / "run"
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
    """What the broker has after the job: statistics by network, alerts, dead letters, lag of all groups."""

    networks: Mapping[str, Mapping[str, Any]]
    alerts: Sequence[Mapping[str, Any]]
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


def main(folder: Path) -> int:
    """Run the job; return the exit code."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    broker = folder / "broker.db"
    pspf = Pspf(broker)
    started = time.monotonic()
    print(pspf.run("emit", "quakes", f"@{DATA.relative_to(ROOT)}"), end="")
    print(pspf.run("emit", "quakes-raw", json.dumps(BAD_RECORD)), end="")
    print(pspf.run("worker", "apps.quakes:stream", "--burst"), end="")
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
    alerts = [json.loads(line)["event"] for line in pspf.run("tail", "quake-alerts", "--jsonl").splitlines()]
    dead_letters = json.loads(pspf.run("dlq", "list", "--json"))["dead_letters"]
    lags = [group["lag"] for group in json.loads(pspf.run("groups", "inspect", "--json"))["groups"]]
    networks = {entry["key"]: entry["value"] for entry in state}
    return Found(networks, alerts, dead_letters, None if None in lags else sum(lags))


def find_differences(found: Found) -> list[str]:
    """Return how what was found differs from what the file says, counted here without PSPF."""
    quakes = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    strong = sorted(q["event_id"] for q in quakes if (q["magnitude"] or 0) >= ALERT_MAGNITUDE)
    checks = {
        "events per network": (
            {network: stats["count"] for network, stats in found.networks.items()},
            dict(Counter(quake["key"] for quake in quakes)),
        ),
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
    print(f"\ndead letters: {len(found.dead_letters)}")
    for letter in found.dead_letters:
        print(f"  {letter['handler']}, {letter['attempts']} attempts: {letter['error_type']}: {letter['error']}")
    print()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else FOLDER))
