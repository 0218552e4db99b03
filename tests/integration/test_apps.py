"""The example apps do what their pages say."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support import forks

ROOT = Path(__file__).parents[2]
DATA = ROOT / "apps" / "quakes" / "data" / "quakes.ndjson"


def run(*command: str, cwd: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def rows_of(text: str) -> dict[str, list[str]]:
    """Return the words of each longer line, by the first."""
    return {words[0]: words for line in text.splitlines() if len(words := line.split()) > 4}


def test_the_main_job_counts_a_week_of_earthquakes_whatever_the_shell_has_set(tmp_path: Path) -> None:
    done = run(
        "-m", "apps.quakes.run", str(tmp_path / "run"), cwd=ROOT, PSPF_BACKEND="valkey://nowhere", PSPF_TAIL_COUNT="1"
    )
    assert done.returncode == 0, done
    assert done.stdout.splitlines()[-1] == "1707 events, lag 0"
    quakes = [json.loads(line) for line in DATA.read_text().splitlines()]
    statistics, _, by_day = done.stdout.partition("by day")
    rows = rows_of(statistics)
    days = rows_of(by_day)
    for network, count in Counter(quake["key"] for quake in quakes).items():
        assert int(rows[network][1]) == count == sum(map(int, days[network][1:]))


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text('[tool.pspf]\napp = "apps.orders:stream"\n')
    return tmp_path


def test_an_order_that_met_a_closed_bank_is_charged_after_its_replay(desk: Path) -> None:
    def pspf(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = forks.run(*arguments, folder=desk, environment=environment, timeout_s=120)
        assert done.returncode == 0, done
        return done.stdout.decode()

    pspf("emit", "orders", '{"order_id": 1, "amount": 12.5}', "-k", "ada")
    (desk / "bank.closed").touch()
    pspf("emit", "orders", '{"order_id": 2, "amount": 7.5, "card": "stolen"}', "-k", "bob")
    pspf("emit", "orders", '{"order_id": 3, "amount": -1}', "-k", "cid")
    pspf("worker", "--burst")
    letters = json.loads(pspf("dlq", "list", "--json"))["dead_letters"]
    assert {(x["original_id"], x["error_type"].rpartition(".")[2], x["attempts"]) for x in letters} == {
        ("1", "BankClosed", 3),
        ("2", "CardRefused", 1),
        ("3", "SchemaError", 1),
    }
    (desk / "bank.closed").unlink()
    assert pspf("dlq", "replay", "orders", "--error", "BankClosed") == "1 replayed\n"
    assert "receipt for order 1: 12.50, in total 12.50" in pspf("worker", "--burst")
    assert pspf("state", "get", "orders.bill", "ada", "total") == "12.5\n"
    assert len(json.loads(pspf("dlq", "list", "--json"))["dead_letters"]) == 2
