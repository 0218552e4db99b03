"""The admin: HTTP endpoints for health, metrics, status and control, in a process beside the worker."""
