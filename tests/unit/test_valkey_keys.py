"""The names of keys: apart from each other, and in one hash slot per partition."""

from hypothesis import given
from hypothesis import strategies as st

from pspf.connectors.valkey.connection.scripts import load_script
from pspf.connectors.valkey.log.keys import PartitionKeys, stream_name


def hash_tag(key: bytes) -> bytes:
    """Return what a Cluster hashes: what stands between the first { and the } behind it, else all."""
    start = key.find(b"{")
    end = key.find(b"}", start)
    return key[start + 1 : end] if start >= 0 and end > start + 1 else key


def test_a_topic_of_one_partition_is_the_stream_of_its_name() -> None:
    assert stream_name("orders", 0, 1) == b"orders"
    assert stream_name("orders", 3, 16) == b"orders:3"


@given(st.text(), st.integers())
def test_all_keys_of_a_partition_are_in_the_slot_of_its_stream(handler: str, namespace: int) -> None:
    keys = PartitionKeys(b"orders:3")
    cursor = keys.cursor("billing", handler)
    every = [keys.meta, keys.cursors, keys.sessions, keys.floors, keys.live("s"), *keys.dedup()]
    every += [cursor.meta, cursor.due, cursor.retry, cursor.spaces]
    every += [cursor.entries(namespace), cursor.order(namespace)]
    assert {hash_tag(name) for name in every} == {hash_tag(b"orders:3")}
    assert len(set(every)) == len(every)


@given(st.text(min_size=1), st.integers(), st.text(min_size=1), st.integers())
def test_entries_of_two_handlers_or_namespaces_are_apart(
    handler: str, namespace: int, other: str, other_namespace: int
) -> None:
    keys = PartitionKeys(b"orders")
    one, two = keys.cursor("g", handler).entries(namespace), keys.cursor("g", other).entries(other_namespace)
    assert (one == two) == ((handler, namespace) == (other, other_namespace))


def test_a_shared_cursor_is_the_consumer_group_of_its_name() -> None:
    keys = PartitionKeys(b"orders")
    assert keys.cursor("billing", None).group_name == b"billing"
    assert keys.cursor("billing", "app.total").group_name == b"billing/app.total"
    assert keys.cursor("billing", None).registry_field == b"billing\0"


def test_a_script_is_called_by_the_hash_of_its_text() -> None:
    script = load_script("append")
    assert script.text.startswith("-- Stands before every script.")
    assert script.command([b"k"], ["a", 1]) == ("EVALSHA", script.sha, 1, b"k", "a", 1)
    assert script.command_with_text([b"k"], []) == ("EVAL", script.text, 1, b"k")
    assert len(script.sha) == 40
