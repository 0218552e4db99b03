"""Fork server: a process with one thread, which forks worker processes."""
