"""The fork server: a process with one thread that forks worker processes."""
