"""Session ids: one format on every broker."""

import os
import re
import secrets
import socket


def make_session_id(name: str | None) -> str:
    """Return `host-pid-random`, with only characters that any tool shows as they are; `name` replaces the host's."""
    host = re.sub(r"[^A-Za-z0-9._-]", "_", name or socket.gethostname())[:60]
    return f"{host}-{os.getpid()}-{secrets.token_hex(3)}"
