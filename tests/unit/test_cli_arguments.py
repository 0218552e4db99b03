"""Arguments as `ps` shows them: as long as they were, without passwords."""

import pytest

from pspf.cli.arguments import hide_words


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("valkey://app:hunter2@h:1/0", "valkey://app:*******@h:1/0"),
        ("valkey://app:h@h:1/0", "valkey://app:*@h:1/0"),
        ("valkeys://:hun?t#e/r%@2@h/0", "valkeys://*****************"),
        ("redis:app:hunter2@h:1", "redis://***@h:1******"),
        ("app:hunter2@h:1", "***************"),
        ("@", "*"),
        ("valkey://h:1/0?pwd=hunter2", "valkey://h:1/0?pwd=*******"),
        ("sqlite:///a.db?synchronous=FULL", "sqlite:///a.db?synchronous=FULL"),
    ],
)
@pytest.mark.parametrize("form", ["pspf\0worker\0--backend\0{}\0", "pspf\0worker\0--backend={}\0--burst\0"])
def test_the_value_of_backend_is_shown_without_its_password(form: str, given: str, shown: str) -> None:
    hidden = hide_words(form.format(given).encode()).decode()
    assert len(hidden) == len(form.format(given))
    assert hidden.count("\0") == form.count("\0")
    assert "hunter2" not in hidden
    if "redis:app" not in given and "?t#" not in given:
        assert hidden == form.format(shown)


def test_other_arguments_stay_as_they_are() -> None:
    given = b'pspf\0emit\0orders\0{"to": "a@b"}\0\xff\0--backend\0'
    assert hide_words(given) == given
