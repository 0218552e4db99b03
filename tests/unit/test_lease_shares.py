"""How the members of a group divide partitions."""

import pytest

from pspf.connectors.leases.shares import share_of


@pytest.mark.parametrize("members", range(1, 9))
@pytest.mark.parametrize("partitions", [0, 1, 3, 16])
def test_the_shares_of_all_members_are_even_and_cover_all_partitions(members: int, partitions: int) -> None:
    names = [f"worker-{n}" for n in range(members)]
    shares = [share_of(names, name, partitions) for name in names]
    assert sum(shares) == partitions
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True)


def test_who_is_no_member_has_no_share() -> None:
    assert share_of(["a"], "b", 4) == 0
    assert share_of([], "b", 4) == 0
