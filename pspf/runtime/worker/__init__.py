"""A worker process: its tasks, heartbeat, monitor and shutdown."""
