"""The admin process: from the configuration on its stdin to the end of its worker."""

import asyncio
import gc
import logging
import os
import signal
import socket
from contextlib import AsyncExitStack, suppress
from typing import Final

from pspf.admin.app import make_app, make_metrics_app
from pspf.admin.broker import BrokerDesk
from pspf.admin.context import AdminContext
from pspf.admin.link import WorkerLink
from pspf.admin.server import serving
from pspf.errors import PSPFError
from pspf.loggers import get_logger
from pspf.runtime.worker.logs import configure_logging
from pspf.runtime.worker.prctl import name_process

_NICENESS: Final = 5
"""A flood of requests takes little from handlers on the same cores."""
_CLOSE_S: Final = 1.0


def main() -> int:
    """Serve until the worker is gone; return the exit code."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a signal to the whole process group: the worker still drains
    name_process("pspf-admin")
    os.nice(_NICENESS)
    # Taken off stdin, so that nothing that reads from there takes the worker's words.
    connection = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    asyncio.run(_run(connection))
    return 0


async def _run(connection: socket.socket) -> None:
    link = await WorkerLink.open(connection)
    if link is None:
        return
    spec = link.spec
    configure_logging(spec.level, spec.log_format)
    _log_uvicorn_as_ours()
    broker = BrokerDesk(spec.backend, spec.broker)
    desk = AdminContext(link, broker)
    gc.freeze()
    async with AsyncExitStack() as stack:
        for app, descriptor in ((make_app(desk), spec.admin_fd), (make_metrics_app(desk), spec.metrics_fd)):
            if descriptor is not None:
                await stack.enter_async_context(serving(app, socket.socket(fileno=descriptor)))
        with suppress(ConnectionError):
            await link.run()
    with suppress(PSPFError, TimeoutError):
        async with asyncio.timeout(_CLOSE_S):
            await broker.close()


def _log_uvicorn_as_ours() -> None:
    """Have uvicorn log errors as PSPF does, and nothing of what clients send."""
    uvicorn_logger = logging.getLogger("uvicorn.error")
    uvicorn_logger.handlers = list(get_logger("pspf").handlers)
    uvicorn_logger.propagate = False
    uvicorn_logger.setLevel(logging.ERROR)
    logging.getLogger("uvicorn.access").disabled = True
