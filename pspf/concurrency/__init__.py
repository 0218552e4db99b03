"""Threads, tasks and locks: a failure in one is always logged."""
