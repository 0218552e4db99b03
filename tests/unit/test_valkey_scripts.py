"""Scripts of a server: sent by hash, or with their text to a server that keeps none."""

import time

import pytest

from pspf.connectors.valkey.connection import scripts
from pspf.connectors.valkey.connection.scripts import SentScripts, load_script

COUNT = load_script("count")
SCAN = load_script("survey")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1_000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def is_by_hash(sent: SentScripts, script: scripts.Script) -> bool:
    return sent.command(script, [], [])[0] == "EVALSHA"


def test_a_server_that_lost_its_scripts_once_is_asked_by_hash_again(clock: list[float]) -> None:
    sent = SentScripts()
    for _ in range(3):  # SCRIPT FLUSH or a restart, now and then
        sent.missed(COUNT)
        sent.missed(SCAN)
        assert is_by_hash(sent, COUNT)
        clock[0] += 11


def test_a_server_that_keeps_no_script_gets_texts_for_a_minute(clock: list[float]) -> None:
    sent = SentScripts()
    sent.missed(COUNT)
    clock[0] += 1
    sent.missed(COUNT)
    assert not is_by_hash(sent, COUNT)
    assert not is_by_hash(sent, SCAN)
    clock[0] += 59
    assert not is_by_hash(sent, COUNT)
    clock[0] += 2
    assert is_by_hash(sent, COUNT)
