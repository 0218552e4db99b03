"""Project settings: `[tool.pspf]` of the nearest pyproject.toml."""

import tomllib
from pathlib import Path

from pspf.cli.exit_codes import UsageError
from pspf.errors import ConfigurationError


def find_app(app: str | None, *, folder: Path | None = None) -> tuple[str, Path]:
    """Return the app to load and the folder that its module is looked for in.

    Without `app` it is `[tool.pspf] app` of the nearest pyproject.toml, upwards from `folder`
    (the working directory), and its module lies beside that file.

    Raises:
        UsageError: None was given and none is configured.
        ConfigurationError: The pyproject.toml can't be read.
    """
    start = (folder or Path.cwd()).resolve()
    if app:
        return app, start
    for parent in (start, *start.parents):
        file = parent / "pyproject.toml"
        if file.is_file():
            configured = _read_app(file)
            if configured is None:
                break
            return configured, parent
    raise UsageError(
        'which app? give MODULE:OBJECT, or write into pyproject.toml:\n    [tool.pspf]\n    app = "app:stream"'
    )


def _read_app(file: Path) -> str | None:
    try:
        tool = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {}).get("pspf", {})
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{file}: {error}") from error
    app = tool.get("app") if isinstance(tool, dict) else None
    if app is not None and not isinstance(app, str):
        raise ConfigurationError(f'{file}: [tool.pspf] app is text such as "app:stream", not {app!r}')
    return app
