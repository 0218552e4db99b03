"""The settings, from environment variables: the only reader of the environment.

`settings` reads them when the first one is asked for; no file is read. `PSPF_LEASE_MS=5000` is
`settings.LEASE_MS`, `VALKEY_HOST=db` is `settings.valkey.HOST`; an empty variable counts as unset.
What can be set is in `pspf.settings_model`, imported on first use: pydantic-settings takes 0.2 s.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from pspf.settings_model import Settings, ValkeySettings, describe_settings, load_settings

__all__ = [
    "LazySettings",
    "Settings",
    "ValkeySettings",
    "describe_settings",
    "hide_password",
    "load_settings",
    "settings",
]

_MODELS: Final = "pspf.settings_model"
_HIDDEN: Final = "***"
_SHOWN: Final = ("db=", "ssl_", "synchronous=")
"""Options of a URL whose values are no secrets: one with another name may be anything, a mistyped password too."""


def hide_password(url: str) -> str:
    """Return `url` without its password, for logs and errors; text that is no URL is cut at the last @."""
    try:
        parts = urlsplit(url)
        netloc, query = parts.netloc, parts.query
    except ValueError:
        return f"{_HIDDEN}@{url.rpartition('@')[2]}" if "@" in url else url
    if "@" in netloc:
        user, _, host = netloc.rpartition("@")
        user, colon, _ = user.partition(":")
        netloc = f"{user}:{_HIDDEN}@{host}" if colon else f"{user}@{host}"
    elif "@" in parts.path:  # a password with a slash, or a URL without its //
        scheme = f"{parts.scheme}://" if parts.scheme else ""
        return f"{scheme}{_HIDDEN}@{url.rpartition('@')[2]}"
    query = "&".join(
        pair if "=" not in pair or pair.startswith(_SHOWN) else f"{pair.partition('=')[0]}={_HIDDEN}"
        for pair in query.split("&")
    )
    # Not urlunsplit alone: it turns sqlite:///x into sqlite:/x for schemes that it doesn't know.
    if parts.scheme and not netloc and url.startswith(f"{parts.scheme}://"):
        return f"{parts.scheme}://{parts.path}" + (f"?{query}" if query else "")
    return urlunsplit((parts.scheme, netloc, parts.path, query, ""))


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
