"""Error replies of a server, in one table by what the caller has to do."""

import re
from collections.abc import Sequence
from typing import Final

import hiredis
from redis import exceptions

from pspf.errors import BackendCorrupt, BackendUnavailable, DiskFull, NotAvailable

ReplyError = hiredis.ReplyError
"""An error that the server answered. What no line of the table names is a mistake of ours, raised as it is."""


class OutcomeUnknown(BackendUnavailable):
    """The connection broke, or the time was up, after the request may have left: it may have run, or run later."""


class ReplyTooLarge(BackendUnavailable):
    """A reply was larger than there is room for; the command has run: ask for less."""


class NotPermitted(BackendUnavailable):
    """The user, its password or what it may do is not enough. Waits like the others: passwords are rotated."""


class GroupGone(BackendUnavailable):
    """The stream or its consumer group is gone (FLUSHALL, DEL): make it again."""


_WAIT: Final = frozenset(
    "LOADING BUSY READONLY TRYAGAIN CLUSTERDOWN MASTERDOWN NOREPLICAS UNKILLABLE NOTBUSY NOSCRIPT EXECABORT".split()  # noqa: SIM905 (a table of words reads better)
)
_NO_PRIMARY: Final = ("READONLY", "MASTERDOWN", "LOADING")
_DEMOTED: Final = "instance state changed"
"""Part of the error of a blocked read whose server becomes a replica."""
_FULL: Final = frozenset({"OOM", "MISCONF"})
_PERMIT: Final = frozenset({"NOAUTH", "WRONGPASS", "NOPERM"})
_GROUP: Final = frozenset({"NOGROUP", "UNBLOCKED"})
_CLUSTER: Final = frozenset({"MOVED", "ASK", "CROSSSLOT"})
_IN_SCRIPT: Final = re.compile(
    r"ACL failure in script|The user executing the script can't|can't run this command|can't access"
)
_TRACE: Final = re.compile(r",? script: [0-9a-f]{40}.*$", re.DOTALL)


def is_no_script(reply: object) -> bool:
    """Tell whether a reply says that the server does not know a script: nothing of it ran."""
    return isinstance(reply, ReplyError) and str(reply).startswith("NOSCRIPT")


def is_of_no_primary(replies: Sequence[object]) -> bool:
    """Tell whether a server says in one of its replies that it is no primary, or not yet.

    After a failover behind a name or a proxy the connections that stand lead to the old primary, and new
    ones to the new one.
    """
    for reply in replies:
        if isinstance(reply, ReplyError):
            text = str(reply)
            if text.startswith(_NO_PRIMARY) or _DEMOTED in text:
                return True
    return False


def translate(error: ReplyError, name: str, doing: str) -> Exception:
    """Return what PSPF raises for a server's error; `doing` is the command or the script.

    The result names the server, the command and what the server said, and never an argument.
    """
    text = _TRACE.sub("", str(error))
    word = text.split(" ", 1)[0]
    message = f"{name}: {doing}: {text}"
    if word in _PERMIT or _IN_SCRIPT.search(text):
        return _not_permitted(message)
    if word in _FULL:
        return DiskFull(message)
    if word in _GROUP and _DEMOTED not in text:
        return GroupGone(message)
    if word in _WAIT or "-LOADING" in text or _DEMOTED in text:
        return BackendUnavailable(message)
    if "last possible ID" in text:
        return BackendCorrupt(f"{message}; nothing can be appended to a stream whose last id is the highest: remove it")
    if word == "WRONGTYPE":
        return BackendCorrupt(f"{message}; a key that PSPF uses holds something else")
    if word in _CLUSTER:
        return NotAvailable(f"{message}; the server is part of a Cluster, which this version does not have")
    return error


def translate_connect(error: Exception, name: str) -> Exception:
    """Return what PSPF raises for redis-py's error while it connects."""
    if isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError):
        return _not_permitted(f"{name}: {error}")
    text = str(error)
    if isinstance(error, exceptions.ResponseError):
        word = text.split(" ", 1)[0]
        if word in _PERMIT:
            return _not_permitted(f"{name}: {text}")
        if "DB index" in text or "invalid DB" in text:
            return NotAvailable(f"{name}: {text}; the server has fewer logical databases")
    return BackendUnavailable(f"{name}: {text}" if text else f"{name}: {type(error).__name__}")


def _not_permitted(message: str) -> NotPermitted:
    error = NotPermitted(message)
    error.__cause__ = PermissionError(message)  # the command line's exit code goes by it
    return error
