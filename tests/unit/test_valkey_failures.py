"""What a server's error means to the caller, and which servers are met at all."""

import pytest
from redis import exceptions

from pspf.cli.exit_codes import ExitCode, code_of
from pspf.connectors.valkey.connection.checks import parse_info, read_version, refuse_unfit
from pspf.connectors.valkey.connection.failures import (
    GroupGone,
    NotPermitted,
    ReplyError,
    is_no_script,
    translate,
    translate_connect,
)
from pspf.errors import BackendCorrupt, BackendUnavailable, ConfigurationError, DiskFull, NotAvailable

TABLE = {
    "LOADING Redis is loading the dataset in memory": BackendUnavailable,
    "BUSY Redis is busy running a script.": BackendUnavailable,
    "READONLY You can't write against a read only replica.": BackendUnavailable,
    "MASTERDOWN Link with MASTER is down": BackendUnavailable,
    "NOREPLICAS Not enough good replicas to write.": BackendUnavailable,
    "TRYAGAIN Multiple keys request during rehashing of slot": BackendUnavailable,
    "CLUSTERDOWN The cluster is down": BackendUnavailable,
    "OOM command not allowed when used memory > 'maxmemory'. script: " + "a" * 40 + ", on @user_script:1.": DiskFull,
    "MISCONF Redis is configured to save RDB snapshots": DiskFull,
    "NOAUTH Authentication required.": NotPermitted,
    "WRONGPASS invalid username-password pair or user is disabled.": NotPermitted,
    "NOPERM User app has no permissions to run the 'xadd' command": NotPermitted,
    "ERR The user executing the script can't run this command or subcommand script: " + "a" * 40: NotPermitted,
    "NOGROUP No such key 'orders' or consumer group 'g'": GroupGone,
    "UNBLOCKED the stream key no longer exists": GroupGone,
    "WRONGTYPE Operation against a key holding the wrong kind of value": BackendCorrupt,
    "MOVED 3999 127.0.0.1:6381": NotAvailable,
}


@pytest.mark.parametrize("text", TABLE)
def test_an_error_is_sorted_by_what_the_caller_has_to_do(text: str) -> None:
    error = translate(ReplyError(text), "valkey://h:1/0", "script append")
    assert type(error) is TABLE[text]
    assert "valkey://h:1/0: script append: " in str(error)
    assert "aaaa" not in str(error)


def test_what_the_table_does_not_name_is_a_mistake_of_ours() -> None:
    error = ReplyError("ERR wrong number of arguments for 'xadd' command")
    assert translate(error, "valkey://h:1/0", "XADD") is error


def test_an_unknown_script_is_seen() -> None:
    assert is_no_script(ReplyError("NOSCRIPT No matching script. Please use EVAL."))
    assert not is_no_script(b"NOSCRIPT")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (exceptions.AuthenticationError("invalid username-password pair"), NotPermitted),
        (exceptions.NoPermissionError("this user has no permissions"), NotPermitted),
        (exceptions.ResponseError("DB index is out of range"), NotAvailable),
        (exceptions.BusyLoadingError("loading"), BackendUnavailable),
        (exceptions.ConnectionError("Error 111 connecting to h:1"), BackendUnavailable),
        (exceptions.TimeoutError("Timeout connecting to server"), BackendUnavailable),
        (OSError("no route"), BackendUnavailable),
    ],
)
def test_an_error_while_connecting_is_sorted_too(error: Exception, kind: type[Exception]) -> None:
    assert type(translate_connect(error, "valkey://h:1/0")) is kind


def test_who_is_not_let_in_has_an_exit_code_of_its_own() -> None:
    assert code_of(translate(ReplyError("NOPERM no"), "valkey://h:1/0", "XADD")) is ExitCode.NOT_PERMITTED
    assert code_of(translate_connect(exceptions.AuthenticationError("no"), "valkey://h:1/0")) is ExitCode.NOT_PERMITTED


REDIS = b"# Server\r\nredis_version:%b\r\nredis_mode:%b\r\n# Memory\r\nmaxmemory_policy:%b\r\n"


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"redis_version:7.0.15\r\n", ("Redis", "7.0.15")),
        (b"redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\n", ("Valkey", "9.1.2")),
        (b"redis_version:7.2.4\r\nserver_name:valkey\r\n", ("Valkey", "7.2.4")),
    ],
)
def test_a_server_says_what_it_is(raw: bytes, found: tuple[str, str]) -> None:
    assert read_version(parse_info(raw)) == found


@pytest.mark.parametrize("version", [b"7.0.0", b"7.0.15", b"7.2.4", b"8.0.1", b"10.0.0"])
def test_redis_from_7_0_on_is_met(version: bytes) -> None:
    refuse_unfit("h", parse_info(REDIS % (version, b"standalone", b"noeviction")))


@pytest.mark.parametrize("version", [b"6.2.14", b"5.0.0", b"6.9.240"])
def test_an_older_server_is_refused_with_the_reason(version: bytes) -> None:
    with pytest.raises(NotAvailable, match=rf"Redis {version.decode()}; PSPF needs Redis 7\.0"):
        refuse_unfit("h", parse_info(REDIS % (version, b"standalone", b"noeviction")))


def test_a_node_of_a_cluster_is_refused() -> None:
    with pytest.raises(NotAvailable, match="Cluster"):
        refuse_unfit("h", parse_info(REDIS % (b"7.2.0", b"cluster", b"noeviction")))


@pytest.mark.parametrize("policy", [b"allkeys-lru", b"allkeys-lfu", b"allkeys-random"])
def test_a_server_that_throws_events_away_is_refused(policy: bytes) -> None:
    with pytest.raises(ConfigurationError, match=f"{policy.decode()}.*noeviction"):
        refuse_unfit("h", parse_info(REDIS % (b"7.2.0", b"standalone", policy)))
