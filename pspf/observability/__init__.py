"""Metrics, snapshots and traces of a worker. Opens no port."""
