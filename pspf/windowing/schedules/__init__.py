"""Schedules, as values: the times of their ticks, and which of them run. No I/O.

times.py     the times of `every` and of a cron expression
schedule.py  a schedule: its times, and what becomes of ticks that were missed
tick.py      what the function of a schedule gets
"""

from pspf.windowing.schedules.tick import Tick

__all__ = ["Tick"]
