"""Import of new code beside the old, which runs on until the new code works."""

import selectors
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pspf.errors import PSPFError
from pspf.runtime.app.plan import AppPlan, ChildSpec
from pspf.runtime.forkserver.client import Failed, ForkServer, ForkServerLost
from pspf.runtime.status.exit_status import error_from
from pspf.runtime.supervision.process import Spawner, now_ms

_SLOW_MS: Final = 10_000


@dataclass(frozen=True, slots=True)
class App:
    """The app to run: `make_specs` turns a plan, also a reloaded one, into processes.

    Raises ConfigurationError where the command line does not fit the plan any more.
    """

    target: str
    folder: Path
    make_specs: Callable[[AppPlan], Sequence[ChildSpec]]
    backend: str | None = None


class Loading:
    """At most one import at a time: the last that was asked for; one that is under way then is dropped.

    The result is logged; where it worked, `take_over` gets what to run and the app server it comes from, None
    where each process has to import it by itself.
    """

    def __init__(
        self,
        app: App,
        spawner: Spawner,
        selector: selectors.BaseSelector,
        tell: Callable[[str], None],
        take_over: Callable[[Sequence[ChildSpec], ForkServer | None], None],
    ) -> None:
        self._app = app
        self._spawner = spawner
        self._selector = selector
        self._tell = tell
        self._take_over = take_over
        self._app_server: ForkServer | None = None
        self._why = ""
        self._slow_at_ms: int | None = None

    def begin(self, why: str) -> bool:
        """Import the app; return whether anything here can."""
        self.drop()
        app_server = self._spawner.load(self._app.target, self._app.folder, self._app.backend)
        if app_server is None:
            return False
        self._app_server, self._why, self._slow_at_ms = app_server, why, now_ms() + _SLOW_MS
        self._selector.register(app_server, selectors.EVENT_READ, self._take_answer)
        return True

    def drop(self) -> None:
        """Cancel the running import."""
        if self._app_server is not None:
            self._selector.unregister(self._app_server)
            self._app_server.close()
            self._app_server = self._slow_at_ms = None

    def tell_if_slow(self) -> None:
        """Log once that an import takes long."""
        if self._slow_at_ms is not None and now_ms() > self._slow_at_ms:
            self._slow_at_ms = None
            self._tell(f"{self._why}: the new code is still being imported after {_SLOW_MS // 1000} s; the old goes on")

    def _take_answer(self) -> bool:
        app_server, self._app_server, self._slow_at_ms = self._app_server, None, None
        assert app_server is not None
        self._selector.unregister(app_server)
        try:
            answer = app_server.answer()
            if isinstance(answer, Failed):
                raise error_from(answer.kind, answer.message)
            specs = self._app.make_specs(answer.plan)
        except (ForkServerLost, PSPFError) as error:
            lines = [line for line in str(error).splitlines() if not line.startswith("  -v ")]
            self._tell("\n".join([f"{self._why}: not reloaded, the old code goes on", *lines]))
            app_server.close()
        else:
            self._tell(f"{self._why}: the new code is loaded; each process ends its batch and starts again")
            self._take_over(specs, app_server if answer.why_not_shared is None else None)
            if answer.why_not_shared is not None:
                app_server.close()
        return True  # it is unregistered by now
