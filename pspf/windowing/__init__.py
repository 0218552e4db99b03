"""Windowed aggregation as pure logic: event time in, changes and results out; no I/O and no clock.

operator_definition.py  what of an operator's definition others need to know
event_time.py which time and grouping key a record has
folds.py      how states grow, merge and are stored
table.py      the states in memory, the changes since the last commit, and which slots are not loaded whole
spans.py      tumbling and sliding windows: which are open, which are due
sessions.py   the sessions of each key, and which are due
progress.py   the watermark and what else an operator remembers beside states
results.py    results and late records, as they are stored
"""
