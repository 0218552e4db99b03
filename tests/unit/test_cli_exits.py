"""Errors become exit codes and at most six lines."""

import pytest

from pspf import errors
from pspf.cli.exit_codes import ExitCode, Interrupted, UsageError, code_of, explain


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.AppNotFound("x"), 3),
        (errors.ConfigurationError("x"), 2),
        (errors.NotAvailable("x"), 2),
        (errors.SchemaError("x"), 2),
        (UsageError("x"), 2),
        (errors.NotFound("x"), 6),
        (errors.Refused("x"), 7),
        (errors.BackendUnavailable("x"), 4),
        (errors.DiskFull("x"), 4),
        (errors.EmitIncomplete("x", []), 8),
        (errors.BackendCorrupt("x"), 1),
        (TimeoutError("x"), 9),
        (PermissionError("x"), 5),
        (Interrupted(), 130),
        (RuntimeError("x"), 1),
    ],
)
def test_each_error_has_its_code(error: Exception, code: int) -> None:
    assert code_of(error) == code


def test_a_broker_that_refuses_access_is_not_one_that_is_down() -> None:
    error = errors.BackendUnavailable("no")
    error.__cause__ = PermissionError("no")
    assert code_of(error) is ExitCode.NOT_PERMITTED


@pytest.mark.parametrize("kind", [errors.ConfigurationError, RuntimeError])
def test_an_error_is_at_most_six_lines(kind: type[Exception]) -> None:
    text = explain(kind("\n".join("x" * 1000 for _ in range(20))))
    assert len(text.splitlines()) == 6
    assert max(map(len, text.splitlines())) <= 400
    assert "Traceback" not in text


def test_the_traceback_comes_when_asked_for() -> None:
    with pytest.raises(errors.NotFound) as caught:
        raise errors.NotFound("x")
    assert "Traceback" in explain(caught.value, verbose=True)
