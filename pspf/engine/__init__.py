"""The processing loop: polls a cursor, decodes, calls handlers, commits."""
