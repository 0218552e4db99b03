"""File systems: SQLite's locks and shared memory work on local ones only."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pspf.loggers import get_logger

logger = get_logger(__name__)

# fmt: off
_NETWORK: Final = frozenset((
    "nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "ocfs2",
    "gfs2", "ncpfs", "davfs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone",
    "fuse.davfs", "fuse.juicefs",
))
# fmt: on
_FOREIGN: Final = frozenset(("9p", "virtiofs", "drvfs", "vboxsf", "fuse.vmhgfs-fuse", "fuse.osxfs", "fuse.grpcfuse"))
_VOLATILE: Final = frozenset(("tmpfs", "ramfs"))
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A mounted file system; `kind` is what the kernel calls it, `unknown` where the kernel does not say."""

    kind: str
    mount: str

    @property
    def is_network(self) -> bool:
        """Whether several hosts may see it, and locks between them can't be relied on."""
        return self.kind in _NETWORK

    @property
    def is_foreign(self) -> bool:
        """Whether it is another system's, as a virtual machine or a container sees its host's."""
        return self.kind in _FOREIGN

    @property
    def is_volatile(self) -> bool:
        """Whether it ends with the machine."""
        return self.kind in _VOLATILE


def find_filesystem(path: Path, mounts: str | None = None) -> FileSystem:
    """Return the file system of a path; `mounts` is text like /proc/self/mountinfo's, by default what it says."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return FileSystem("unknown", "?")
    resolved = path.resolve()
    found = FileSystem("unknown", "?")
    depth = 0
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split(maxsplit=1)[:1]
        if len(fields) < 5 or not kind:
            continue
        mount = Path(_OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4]))
        if resolved.is_relative_to(mount) and len(mount.parts) >= depth:  # a later mount hides an earlier one
            found, depth = FileSystem(kind[0], str(mount)), len(mount.parts)
    return found


def warn_of_network(name: str, system: FileSystem) -> None:
    """Log a warning where a broker's file is on a network."""
    if system.is_network:
        logger.warning(
            "%s is on %s: locks don't hold between hosts; use a local disk, or records are lost", name, system.kind
        )
