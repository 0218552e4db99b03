"""Timers of ordered handlers, as values: what is stored of them, and which of them are due. No I/O.

timer.py       what the function of a timer gets
definition.py  the function of a handler's timers, and how event time goes on for them
rows.py        a timer as it is stored
table.py       the timers of one cursor, in order of their due times
"""

from pspf.windowing.timers.timer import Timer

__all__ = ["Timer"]
