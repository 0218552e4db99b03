"""Timers of an ordered handler, beside its records.

executor.py  runs the handler's records, and its timers before, between and after them
firing.py    calls the function of one timer
watermark.py the event time that timers wait for
"""
