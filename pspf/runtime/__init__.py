"""Running apps: `supervisor` (processes and signals), `worker` (one process's tasks), `loader`, `burst`."""
