"""The definition of a handler's timers: their function, and how event time goes on for them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pspf.windowing.schedules.schedule import Schedule


@dataclass(frozen=True, slots=True)
class TimerDefinition:
    """The function that the timers of a handler call, and its policies. Times are milliseconds.

    `model` is what the payload is read as, None: as JSON has it. The watermark stays `watermark_delay_ms` behind the
    latest event time; with `idle_timeout_ms` it follows the clock once nothing new was read for so long. A time that is
    more than `max_future_ms` ahead of the clock does not move it. With `schedule` its ticks are timers, too.
    """

    function: Callable[..., Any]
    takes_context: bool
    is_async: bool
    model: Any = None
    watermark_delay_ms: int = 0
    idle_timeout_ms: int | None = None
    max_future_ms: int | None = None
    schedule: Schedule | None = None
