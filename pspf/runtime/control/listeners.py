"""Listeners of a worker: sockets, token, the lines that name them, and the admin process behind them."""

import os
import re
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pspf.errors import ConfigurationError
from pspf.observability.snapshots import AdminSpec, HandlerShape
from pspf.runtime.app.loader import LoadedApp
from pspf.runtime.app.options import WorkerRequest
from pspf.runtime.control.admin_process import AdminThread, Control
from pspf.runtime.control.ports import OFF, Address, Listener, bind, parse_address
from pspf.settings import settings

_TOKEN: Final = re.compile(r"[\x21-\x7e]{16,200}")
_TOKEN_BYTES: Final = 24


@dataclass(frozen=True, slots=True)
class Listeners:
    """Sockets of a worker, if any. A token that was not configured `is_random`, and shown once."""

    admin: Listener | None
    metrics: Listener | None
    is_random: bool
    token: str = field(repr=False)

    @property
    def all(self) -> list[Listener]:
        """The sockets that there are."""
        return [listener for listener in (self.admin, self.metrics) if listener is not None]

    def describe(self, log_format: str = "plain") -> Iterator[str]:
        """Yield the lines that a worker starts with; as log lines, which are kept and sent on, without the token."""
        if self.admin is not None:
            asked = self.admin.address.port
            taken = "" if asked in (0, self.admin.port) else f" (port {asked} is taken)"
            token = f"#token={self.token}" if self.is_random and log_format != "json" else ""
            hint = "; to control it set PSPF_ADMIN_TOKEN" if self.is_random and not token else ""
            yield f"dashboard: {self.admin.url}{token}{taken}{hint}"
        if self.metrics is not None:
            yield f"metrics: {self.metrics.url}metrics"

    def close(self) -> None:
        """Give the ports back."""
        for listener in self.all:
            listener.close()


def open_listeners(request: WorkerRequest) -> Listeners:
    """Bind what was asked for, or by default; a burst has an admin only where it was asked for.

    Raises:
        ConfigurationError: A port is taken, an address is malformed, or there is no token where one is needed.
    """
    admin_address, metrics_address = _admin_address(request), _metrics_address(request)
    file = request.token_file or settings.ADMIN_TOKEN_FILE
    configured = _read_token(None if file is None else Path(file))
    if admin_address is not None and not admin_address.is_loopback and configured is None:
        raise ConfigurationError(
            f"--admin {admin_address.host}:{admin_address.port}: others than this machine could get there,"
            " and that needs a token of yours\n"
            "  use --admin-token-file FILE or PSPF_ADMIN_TOKEN, or listen on 127.0.0.1"
        )
    admin = None if admin_address is None else bind("--admin", admin_address)
    try:
        metrics = None if metrics_address is None else bind("--metrics", metrics_address)
    except ConfigurationError:
        if admin is not None:
            admin.close()
        raise
    return Listeners(admin, metrics, configured is None, configured or secrets.token_urlsafe(_TOKEN_BYTES))


def _admin_address(request: WorkerRequest) -> Address | None:
    text = request.admin or settings.ADMIN
    if text is None and request.options.burst:
        return None
    if text is None:
        return Address(settings.ADMIN_HOST, settings.ADMIN_PORT, settings.is_set("ADMIN_PORT"))
    if text.strip().lower() == OFF:
        return None
    return parse_address("--admin", text, host=settings.ADMIN_HOST, port=settings.ADMIN_PORT)


def _metrics_address(request: WorkerRequest) -> Address | None:
    text = request.metrics or settings.METRICS
    if text is None and settings.is_set("PROMETHEUS_PORT"):
        return Address(settings.ADMIN_HOST, settings.PROMETHEUS_PORT, is_asked=True)
    if text is None or text.strip().lower() == OFF:
        return None
    return parse_address("--metrics", text, host=settings.ADMIN_HOST, port=settings.PROMETHEUS_PORT)


def _read_token(path: Path | None) -> str | None:
    if path is None:
        secret = settings.ADMIN_TOKEN
        source, token = "PSPF_ADMIN_TOKEN", None if secret is None else secret.get_secret_value()
    else:
        source = f"--admin-token-file {path}"
        try:
            token = path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ConfigurationError(f"{source}: {reason}") from None
    if token is not None and not _TOKEN.fullmatch(token):
        raise ConfigurationError(f"{source}: a token is 16 to 200 visible ASCII characters; try: openssl rand -hex 24")
    return token


@contextmanager
def showing(
    listeners: Listeners,
    loaded: LoadedApp,
    handlers: Sequence[HandlerShape],
    control: Control,
    *,
    worker: str,
    log_format: str,
) -> Iterator[AdminThread | None]:
    """Run the admin while the block runs; None where there is nothing to listen on."""
    if not listeners.all:
        yield None
        return
    broker = loaded.stream.broker
    spec = AdminSpec(
        worker=worker,
        host=socket.gethostname(),
        pid=os.getpid(),
        app=loaded.target,
        started_ms=time.time_ns() // 1_000_000,
        broker=broker.name,
        backend=broker.secret_url,
        admin_fd=None if listeners.admin is None else listeners.admin.socket.fileno(),
        metrics_fd=None if listeners.metrics is None else listeners.metrics.socket.fileno(),
        is_exposed=listeners.admin is not None and not listeners.admin.address.is_loopback,
        is_metrics_exposed=listeners.metrics is not None and not listeners.metrics.address.is_loopback,
        hosts=_names(),
        token=listeners.token,
        level="INFO",
        log_format=log_format,
    )
    try:
        with AdminThread(spec, control, handlers, [listener.socket for listener in listeners.all]) as thread:
            yield thread
    finally:
        listeners.close()


def _names() -> tuple[str, ...]:
    """Return what else this host may be called by."""
    own = socket.gethostname().lower()
    given = (name.strip().lower() for name in (settings.ADMIN_HOSTS or "").split(","))
    return (own, *(name for name in given if name))
