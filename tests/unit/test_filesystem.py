"""Which file system a path is on, from what the kernel says."""

from pathlib import Path

import pytest

from pspf.connectors.sqlite.filesystem import FileSystem, find_filesystem

MOUNTS = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:25 / /mnt/share\\040one rw,relatime shared:1 - nfs4 server:/x rw
31 22 0:26 / /mnt rw - xfs /dev/sdb rw
32 22 0:27 / /tmp rw - tmpfs tmpfs rw
33 31 0:28 / /mnt/host rw - 9p host rw
34 33 0:29 / /mnt/host rw - cifs //server/x rw
a line of nonsense
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/broker.db", "ext4"),
        ("/mnt/share one/broker.db", "nfs4"),
        ("/mnt/shared/broker.db", "xfs"),
        ("/tmp/x/broker.db", "tmpfs"),
        ("/mnt/host/broker.db", "cifs"),
    ],
)
def test_the_nearest_mount_counts_and_the_latest_of_one_place(path: str, kind: str) -> None:
    assert find_filesystem(Path(path), MOUNTS).kind == kind


def test_what_the_kernel_does_not_say_is_unknown() -> None:
    found = find_filesystem(Path("/x"), "")
    assert (found.kind, found.is_network, found.is_volatile, found.is_foreign) == ("unknown", False, False, False)


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs"])
def test_network_file_systems_are_told(kind: str) -> None:
    assert FileSystem(kind, "/x").is_network
