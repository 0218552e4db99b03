"""The contract between PSPF and a broker, in parts. `tests/conformance` is the same contract, executable.

    backend.py      StreamingBackend: one topic and one group on a broker, as users name them
    broker.py       Broker: opening and closing it; with the log and the inspection it is one object per process
    log.py          Log: topics, append, read
    inspection.py   Inspection: how far groups are, dead letters, remembered values, windows
    membership.py   Session: one worker's membership; what it holds is nobody else's while it lives
    assigned.py     AssignedCursors: the ordered cursors that a session is given, until they are revoked
    cursors.py      Consumer: one cursor in a worker's hands, poll and commit
    operations.py   Operations: seek, drop, trim, delete: what an administrator may do
    roster.py       Roster: which workers there are, what they say of themselves, what they are asked
    capabilities.py  Capabilities: what a broker can do; what an app needs of it is asked once, at start
    limits.py, values.py

Every method may raise `BackendUnavailable`: wait, then call again.
"""
