"""Settings from environment variables: the only reader of the environment.

`settings` reads them when the first one is asked for; no file is read. `PSPF_LEASE_MS=5000` is
`settings.LEASE_MS`, `VALKEY_HOST=db` is `settings.valkey.HOST`; an empty variable counts as unset.
What can be set is in `pspf.settings.model`, imported on first use: pydantic-settings takes 0.2 s.
"""

import os
import re
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pspf.settings.model import Settings, ValkeySettings, describe_settings, load_settings

__all__ = [
    "LazySettings",
    "Settings",
    "ValkeySettings",
    "describe_settings",
    "hide_password",
    "hide_passwords",
    "load_settings",
    "settings",
]

_MODELS: Final = "pspf.settings.model"
_HIDDEN: Final = "***"
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_PLACE: Final = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s/?#@:\[\]]*)(:\d*)?([/?][^#]*)?")
_OPTION: Final = re.compile(r"[?&][A-Za-z_]+=")
_USER: Final = re.compile(r"[A-Za-z0-9._-]*:")
_OF_SERVERS: Final = ("valkey", "valkeys", "redis", "rediss")
_URL_IN_TEXT: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[A-Za-z0-9._-]*:)[^\s'\"]+@")
_SHOWN: Final = ("db=", "ssl_", "synchronous=")
"""Options of a URL whose values are no secrets: one with another name may be anything, a mistyped password too."""


def hide_password(url: str) -> str:
    """Return `url` without secrets: before its last @ at most a plain user name stays; other text is hidden."""
    scheme, colon, rest = url.partition("://")
    if not colon or not _SCHEME.fullmatch(scheme):
        scheme, colon, rest = url.partition(":")
        if "@" not in url:
            return url
        return f"{scheme}://{_HIDDEN}@{rest.rpartition('@')[2]}" if scheme in _OF_SERVERS else _HIDDEN
    secret, at, place = rest.rpartition("@")
    if not at:
        return f"{scheme}://{_hide_options(rest)}"
    # An @ in an option may end a secret of its own: then nothing tells where the place is.
    if not _PLACE.fullmatch(place) or _OPTION.search(secret):
        return f"{scheme}://{_HIDDEN}"
    is_known = scheme.partition("+")[0] in _OF_SERVERS and not re.search("[/?#]", secret)
    user = _USER.match(secret) if is_known else None
    return f"{scheme}://{user[0] if user else ''}{_HIDDEN}@{_hide_options(place)}"


def _hide_options(rest: str) -> str:
    path, question, query = rest.partition("?")
    pairs = [
        pair if "=" not in pair or pair.startswith(_SHOWN) else f"{pair.partition('=')[0]}={_HIDDEN}"
        for pair in query.split("&")
    ]
    return f"{path}?{'&'.join(pairs)}" if question else path


def hide_passwords(text: str) -> str:
    """Return text with what stands before the @ of URLs in it hidden: errors of libraries may quote them."""
    return _URL_IN_TEXT.sub(rf"\1{_HIDDEN}@", text) if "://" in text and "@" in text else text


if TYPE_CHECKING:

    class LazySettings(Settings):
        """`Settings` that are read on first use."""

        def reload(self) -> None:
            """Read the environment again, now."""
else:

    class LazySettings:
        """`Settings` that are read on first use."""

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_") or name not in import_module(_MODELS).Settings.model_fields:
                raise AttributeError(f"no setting {name!r}")
            self.reload()
            return self.__dict__[name]

        def reload(self) -> None:
            """Read the environment again, now."""
            loaded = import_module(_MODELS).load_settings(os.environ)
            self.__dict__.update(dict(loaded))
            self.__dict__["_given"] = loaded.model_fields_set

        def is_set(self, name: str) -> bool:
            """Whether a setting was given, and is no default."""
            if "_given" not in self.__dict__:
                self.reload()
            return name in self.__dict__["_given"]

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_MODELS), name)


settings: Final = LazySettings()
"""Settings from the environment."""
