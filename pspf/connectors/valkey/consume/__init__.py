"""Consuming from a server: sessions, both modes, commits, liveness."""
