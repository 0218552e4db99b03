"""Operators: keyed state over the records of a cursor, and what is due at some time.

operator.py   the protocol that an operator fulfils
host.py       runs an operator on a cursor; its parts: sections, admission, budget, late, results, entries, source
context.py    the parts that the host gives to its operator
registry.py   which operator runs a definition, how it is described and viewed

time_windows.py     tumbling and sliding windows; its parts: span_state, span_closing, span_updates
session_windows.py  sessions
shuffle.py          the sender of a shuffle
growth.py, window_results.py  how states of windows grow, and what they come to
"""
