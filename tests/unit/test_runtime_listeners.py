"""What a worker listens on and with which token, from its options and its settings."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pspf.errors import ConfigurationError
from pspf.runtime.app.options import WorkerRequest
from pspf.runtime.app.plan import WorkerOptions
from pspf.runtime.control.listeners import Listeners, open_listeners
from pspf.settings import settings

TOKEN = "a-token-of-16-characters-or-more"
LOCAL = "127.0.0.1:0"
ALL = "0.0.0.0:0"

Setting = Callable[[str, str], None]


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Setting]:
    """Set a variable for this test; the suite's own `off` is taken back."""

    def put(name: str, value: str) -> None:
        monkeypatch.setenv(name, value)
        settings.reload()

    put("PSPF_ADMIN", "")
    yield put
    monkeypatch.undo()
    settings.reload()


@contextmanager
def front(*, burst: bool = False, **asked: object) -> Iterator[Listeners]:
    request = WorkerRequest("app:stream", Path(), WorkerOptions(burst=burst), **asked)  # type: ignore[arg-type]
    made = open_listeners(request)
    yield made
    made.close()


def test_a_token_of_nobody_s_is_random_and_shown_in_the_address(setting: Setting) -> None:
    with front(admin=LOCAL) as first, front(admin=LOCAL) as second:
        (line,) = first.describe()
        assert line.endswith(f"/#token={first.token}")
        assert first.token != second.token
        assert first.token not in repr(first)


@pytest.mark.parametrize("where", ["option", "PSPF_ADMIN_TOKEN_FILE", "PSPF_ADMIN_TOKEN"])
def test_a_configured_token_is_taken_and_not_shown(where: str, setting: Setting, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    if where != "option":
        setting(where, TOKEN if where == "PSPF_ADMIN_TOKEN" else str(file))
    with front(admin=ALL, token_file=file if where == "option" else None) as made:
        assert made.token == TOKEN
        assert TOKEN not in "".join(made.describe())


def test_beyond_loopback_there_has_to_be_one(setting: Setting) -> None:
    with pytest.raises(ConfigurationError, match="needs a token of yours"), front(admin=ALL):
        pass


def test_metrics_beyond_loopback_need_none(setting: Setting) -> None:
    with front(admin="off", metrics=ALL) as made:
        (line,) = made.describe()
        assert line.startswith("metrics: http://")
        assert made.admin is None


def test_a_burst_has_an_admin_only_where_it_is_asked_for(setting: Setting) -> None:
    with front(burst=True) as silent, front(burst=True, admin=LOCAL) as asked:
        assert silent.all == []
        assert asked.admin is not None


def test_an_option_comes_before_the_environment(setting: Setting) -> None:
    setting("PSPF_ADMIN", LOCAL)
    with front(admin="off") as made:
        assert made.all == []


def test_a_port_for_prometheus_adds_a_listener(setting: Setting) -> None:
    setting("PSPF_ADMIN", "off")
    setting("PSPF_PROMETHEUS_PORT", "0")
    with front() as made:
        assert made.admin is None
        assert made.metrics is not None


def test_where_the_second_port_is_taken_the_first_is_given_back(setting: Setting) -> None:
    with front(admin=LOCAL) as other:
        assert other.admin is not None
        taken = f"127.0.0.1:{other.admin.port}"
        with pytest.raises(ConfigurationError, match="--metrics"), front(admin=LOCAL, metrics=taken):
            pass
