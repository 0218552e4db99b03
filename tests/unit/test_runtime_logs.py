"""How the lines of a worker's log look, whatever is in them."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from pspf.engine.batch_outcome import Failure
from pspf.engine.failure_log import FailureLog
from pspf.records import Record
from pspf.runtime.worker.logs import FORMATS, configure_logging, make_talk
from pspf.subscription import RetryPolicy, Subscription, inspect_handler

EVIL = "a\nERROR forged\x1b[31m\x07\r\x85\u2028\u202e\ud800 'quoted\" \\"


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What is logged, by a logger that is put back as it was."""
    logger = logging.getLogger("pspf")
    before = logger.level, logger.propagate, logger.handlers[:]
    logger.handlers.clear()
    yield lambda: capsys.readouterr().err
    logger.level, logger.propagate, logger.handlers[:] = before


@pytest.mark.parametrize("log_format", FORMATS)
def test_no_text_can_forge_a_line_or_reach_the_terminal(log_format: str, stderr: Callable[[], str]) -> None:
    configure_logging("INFO", log_format)
    logging.getLogger("pspf.x").warning("from outside: %s", EVIL, extra={"topic": EVIL})
    written = stderr()
    assert not any(line.startswith("ERROR") for line in written.splitlines())
    assert all(character.isprintable() or character == "\n" for character in written)
    assert log_format == "rich" or len(written.splitlines()) == {"json": 1, "plain": 2}[log_format]


def test_a_line_of_json_has_its_fields(stderr: Callable[[], str]) -> None:
    configure_logging("INFO", "json")
    logging.getLogger("pspf.x").warning("%d records", 3, extra={"topic": "orders", "partition": 1, "none": None})
    line = json.loads(stderr())
    assert line.pop("ts").endswith("Z")
    assert line.pop("pid") > 0
    assert line == {
        "level": "WARNING",
        "logger": "pspf.x",
        "message": "3 records",
        "topic": "orders",
        "partition": 1,
        "none": None,
    }


def test_a_traceback_stays_in_its_line_of_json(stderr: Callable[[], str]) -> None:
    configure_logging("INFO", "json")
    try:
        raise ValueError("bad\nERROR forged")
    except ValueError:
        logging.getLogger("pspf.x").exception("it failed")
    (line,) = stderr().splitlines()
    assert "ValueError: bad\nERROR forged" in json.loads(line)["exception"]


def test_very_long_text_is_cut(stderr: Callable[[], str]) -> None:
    configure_logging("INFO", "plain")
    logging.getLogger("pspf.x").warning("x" * 1_000_000)
    assert len(stderr()) < 40_000


def test_a_failure_s_lines_have_topic_partition_id_handler_and_attempt(stderr: Callable[[], str]) -> None:
    async def handle(event): ...  # type: ignore[no-untyped-def]

    configure_logging("INFO", "json")
    subscription = Subscription("orders", "billing", inspect_handler(handle, "charge"), own_retry=RetryPolicy(3))
    record = Record("orders", 2, 7, b"k", b"{}", None, 0)
    try:
        raise KeyError("no account")
    except KeyError as raised:
        error = raised
    narrator = FailureLog(subscription)
    narrator.tell([Failure(record, error, 1, 200, "no\naccount"), Failure(record, error, 3, None, "no account")], ())
    first, again, dead = map(json.loads, stderr().splitlines())
    for line, attempt in ((first, 1), (again, 1), (dead, 3)):
        assert {name: line[name] for name in ("topic", "partition", "id", "group", "handler", "attempt")} == {
            "topic": "orders",
            "partition": 2,
            "id": "2:7",
            "group": "billing",
            "handler": "charge",
            "attempt": attempt,
        }
    assert "orders 2 2:7 in charge: attempt 1/3" in first["message"]
    assert (again["error_type"], again["error"], again["retry_ms"]) == ("KeyError", "no\\naccount", 200)
    assert "dead after attempt 3/3" in dead["message"]


def test_what_a_worker_says_is_json_too_where_the_log_is() -> None:
    said: list[str] = []
    make_talk("json", said.append)("handled 3, failed 0, dead 0, lag 0")
    make_talk("plain", said.append)("as it is")
    assert json.loads(said[0])["message"] == "handled 3, failed 0, dead 0, lag 0"
    assert json.loads(said[0])["logger"] == "pspf.worker"
    assert said[1] == "as it is"


def test_the_user_s_own_logging_is_left_alone() -> None:
    script = (
        "import logging\n"
        "logging.basicConfig(format='mine %(message)s')\n"
        "from pspf.runtime.worker.logs import configure_logging\n"
        "root = logging.getLogger()\n"
        "before = root.level, root.handlers[:]\n"
        "configure_logging('DEBUG', 'json')\n"
        "assert (root.level, root.handlers) == before\n"
        "logging.getLogger('app').warning('hello')\n"
        "logging.getLogger('app').info('not shown')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == "mine hello\n"


def test_handlers_that_the_user_gave_our_loggers_stay_the_only_ones(stderr: Callable[[], str]) -> None:
    logger = logging.getLogger("pspf")
    mine = logging.NullHandler()
    logger.addHandler(mine)
    configure_logging("INFO", "json")
    assert logger.handlers == [mine]
