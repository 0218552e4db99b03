"""Runtime of apps: processes, signals, the fork server, and the tasks of one worker process."""
