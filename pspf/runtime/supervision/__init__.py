"""Supervision of worker processes: slots, restarts, the watchdog, reloads."""
