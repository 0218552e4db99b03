"""`pspf version` and `pspf config show`: versions of packages, and settings in force."""

import typer

from pspf.cli.command import Invocation, command, make_app
from pspf.cli.console import write, write_json, write_table

app = typer.Typer()
config = make_app("Settings in force.", "pspf config show", "pspf config show --json")

_PACKAGES = (
    *("apsw", "hiredis", "orjson", "prometheus-client", "pydantic", "pydantic-settings", "redis", "rich", "starlette"),
    *("typer", "uvicorn", "uvloop", "watchfiles", "opentelemetry-api"),
)


@command(app, "pspf version", "pspf version --json", has_backend=False)
def version(call: Invocation) -> None:
    """Print the versions of everything that matters."""
    versions = read_versions()
    if call.as_json:
        write_json(versions)
        return
    width = max(len(name) for name in versions)
    for name, found in versions.items():
        write(f"{name.ljust(width)}  {found or 'not installed'}")


def read_versions() -> dict[str, str | None]:
    """Return versions by name; None where a package is not installed."""
    import platform
    from importlib import metadata

    from pspf import __version__

    def installed(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    return {
        "pspf": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: installed(name) for name in _PACKAGES},
    }


@config.callback()
def _config() -> None:
    """Settings in force."""


@command(config, "pspf config show", "PSPF_LEASE_MS=5000 pspf config show", name="show", has_backend=False)
def show_config(call: Invocation) -> None:
    """Print the settings in force; secrets are hidden."""
    from pspf.settings import describe_settings, settings

    values = describe_settings(settings)
    if call.as_json:
        write_json(values)
    else:
        write_table(("setting", "value"), [(name, str(value)) for name, value in values.items()])
