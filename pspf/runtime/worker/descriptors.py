"""Limit of open file descriptors of a process."""

import resource


def raise_descriptor_limit() -> int:
    """Raise the soft limit to the hard one, and return it: a partition on a server takes a connection of its own.

    The soft limit is 1,024 on most systems, for the sake of programs that use select(); the hard one is what
    the operator allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):  # an unlimited hard limit above what the kernel takes
            return soft
    return hard
