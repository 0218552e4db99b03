"""The inputs of a handler of several topics: one cursor a topic, which are read as one and committed as one.

places.py    numbers of records in the order in which they are handled, in the place of their offsets
merge.py     the earliest event time first, each topic in its own order; no I/O
times.py     the event time of a record that is not decoded yet
consumer.py  MergedConsumer: polls of several cursors as one, one commit for all of them
taking.py    taking the other cursors for the owner of the home, which has the entries
"""
