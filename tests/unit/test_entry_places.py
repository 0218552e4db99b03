"""Namespaces and keys of entries: the order of keys is that of what they are made of, and nothing is lost."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pspf.errors import BackendCorrupt
from pspf.records import (
    STATE,
    EntryKind,
    before_state,
    kind_of,
    make_namespace,
    split_namespace,
    split_state_key,
    state_key,
    state_prefix,
)

kinds = st.integers(0, 127)
slots = st.integers(-(1 << 55), (1 << 55) - 1)
record_keys = st.lists(st.sampled_from([b"\0", b"\1", b"\xff", b"a", b"ab"]) | st.binary(max_size=3), max_size=4).map(
    b"".join
)
names = st.text(st.sampled_from("\0\1aü\uffff\U0001f600"), max_size=3) | st.text(max_size=5)
places = st.tuples(record_keys, names)


@given(kinds, slots)
def test_a_namespace_is_a_number_of_64_bits_that_tells_kind_and_slot(kind: int, slot: int) -> None:
    namespace = make_namespace(kind, slot)
    assert -(1 << 63) <= namespace < 1 << 63
    assert split_namespace(namespace) == (kind, slot)
    assert kind_of(namespace) == kind


@given(slots)
def test_a_window_is_the_namespace_of_its_start(slot: int) -> None:
    assert make_namespace(EntryKind.WINDOWS, slot) == slot


@given(st.lists(st.tuples(kinds, slots), max_size=8))
def test_namespaces_are_in_order_of_kind_and_slot(pairs: list[tuple[int, int]]) -> None:
    assert sorted(pairs) == [split_namespace(each) for each in sorted(make_namespace(*pair) for pair in pairs)]


@pytest.mark.parametrize(("kind", "slot"), [(-1, 0), (128, 0), (0, 1 << 55), (0, -(1 << 55) - 1)])
def test_what_does_not_fit_is_no_namespace(kind: int, slot: int) -> None:
    with pytest.raises(ValueError, match="no namespace"):
        make_namespace(kind, slot)


def test_the_numbers_that_are_stored_never_change() -> None:
    assert (EntryKind.WINDOWS, EntryKind.STATE, STATE) == (0, 1, 72_057_594_037_927_936)
    assert state_key(b"a\0b", "ü") == b"a\0\xffb\0\1\xc3\xbc"


@given(places)
def test_a_key_of_state_is_read_as_it_was_written(place: tuple[bytes, str]) -> None:
    assert split_state_key(state_key(*place)) == place


@given(st.lists(places, max_size=8))
def test_keys_of_state_are_in_order_of_record_key_and_name(found: list[tuple[bytes, str]]) -> None:
    assert [split_state_key(key) for key in sorted(state_key(*place) for place in found)] == sorted(found)


@given(record_keys, st.lists(places, max_size=8))
def test_all_names_of_a_record_key_are_one_range_behind_its_prefix(
    record_key: bytes, found: list[tuple[bytes, str]]
) -> None:
    stored = sorted(state_key(*place) for place in [*found, (record_key, ""), (record_key, "a")])
    mine = [key for key in stored if key.startswith(state_prefix(record_key))]
    assert {split_state_key(key)[0] for key in mine} == {record_key}
    behind = [key for key in stored if key > before_state(record_key)]
    assert behind[: len(mine)] == mine
    assert len(mine) == sum(split_state_key(key)[0] == record_key for key in stored)


@pytest.mark.parametrize("key", [b"", b"a", b"a\0", b"a\0\xff", b"a\0\1\xff"])
def test_another_key_is_no_key_of_state(key: bytes) -> None:
    with pytest.raises(BackendCorrupt, match="no key of a stored value"):
        split_state_key(key)
