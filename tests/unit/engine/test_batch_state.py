"""A cursor's state as its batches see it."""

import asyncio
from collections.abc import Mapping, Sequence

from pspf.engine.batch_state import BatchState, StoreState
from pspf.records import STATE, EntryPlace, split_state_key
from pspf.state.memory import MemoryStateStore


class Stored:
    """What the broker holds; it can be made to answer late."""

    def __init__(self) -> None:
        self.state: dict[bytes, dict[str, bytes]] = {}
        self.asked: list[list[bytes]] = []
        """The record keys that each read was for."""
        self.read_values = 0
        self.answers = asyncio.Event()
        self.answers.set()

    async def read(self, places: Sequence[EntryPlace]) -> Mapping[EntryPlace, bytes]:
        wanted = {place: split_state_key(place[1]) for place in places}
        assert {namespace for namespace, _ in places} == {STATE}
        self.asked.append(sorted({key for key, _ in wanted.values()}))
        self.read_values += len(places)
        found = {place: self.state.get(key, {}).get(name) for place, (key, name) in wanted.items()}
        await self.answers.wait()
        return {place: value for place, value in found.items() if value is not None}

    def commit(self, state: BatchState) -> None:
        for (key, name), value in state.get_changes().items():
            if value is None:
                self.state.get(key, {}).pop(name, None)
            else:
                self.state.setdefault(key, {})[name] = value
        state.settle()


async def test_the_keys_of_a_batch_are_read_together_and_once() -> None:
    stored = Stored()
    state = BatchState(stored.read, 100)
    state.begin([b"a", b"b", None, b"a"])
    await state.load(b"a", "n")
    assert state.is_loaded(b"b", "n")
    state.begin([b"b", b"c"])
    await state.load(b"c", "n")
    assert stored.asked == [[b"a", b"b"], [b"c"]]


async def test_what_is_committed_is_in_the_cache_as_in_the_broker() -> None:
    stored = Stored()
    state = BatchState(stored.read, 100)
    state.begin([b"a"])
    await state.load(b"a", "n")
    await state.load(b"a", "gone")
    state.merge(b"a", {"n": b"1", "gone": b"2"})
    state.merge(b"a", {"gone": None})
    state.merge(b"b", {"n": b"3"})  # not read before
    assert state.get(b"a", "gone") is None
    stored.commit(state)
    assert state.get(b"a", "n") == b"1"
    assert state.get(b"a", "gone") is None
    assert not state.is_loaded(b"b", "n")
    state.begin([b"b"])
    await state.load(b"b", "n")
    assert state.get(b"b", "n") == b"3"


async def test_the_keys_not_used_for_longest_are_forgotten() -> None:
    stored = Stored()
    state = BatchState(stored.read, 2)
    for key in (b"a", b"b", b"a", b"c"):
        state.begin([key])
        if not state.is_loaded(key, "n"):
            await state.load(key, "n")
        stored.commit(state)
    assert [state.is_loaded(key, "n") for key in (b"a", b"b", b"c")] == [True, False, True]


async def test_the_names_of_a_handler_are_read_together_once_a_batch() -> None:
    stored = Stored()
    state = BatchState(stored.read, 100)
    state.begin([b"a"])
    for name in ("n", "m"):
        await state.load(b"a", name)
    stored.commit(state)
    state.begin([b"b", b"c"])
    await state.load(b"c", "m")
    assert all(state.is_loaded(key, name) for key in (b"b", b"c") for name in ("n", "m"))
    assert stored.asked == [[b"a"], [b"a"], [b"b", b"c"]]


async def test_of_a_key_with_many_names_is_read_what_is_asked_for() -> None:
    stored = Stored()
    stored.state[b"a"] = {f"n-{number}": b"1" for number in range(10_000)}
    state = BatchState(stored.read, 100)
    state.begin([b"a"])
    await state.load(b"a", "n-7")
    assert state.get(b"a", "n-7") == b"1"
    assert stored.read_values == 1


async def test_a_new_name_for_each_record_is_not_read_for_all_keys_of_the_batch() -> None:
    stored = Stored()
    state = BatchState(stored.read, 100_000)
    keys = [b"%d" % number for number in range(1_000)]
    state.begin(keys)
    for number, key in enumerate(keys):
        await state.load(key, f"n-{number}")
    assert stored.read_values < 10 * len(keys)


async def test_that_there_is_nothing_is_remembered() -> None:
    stored = Stored()
    state = BatchState(stored.read, 100)
    for _ in range(2):
        state.begin([b"a"])
        if not state.is_loaded(b"a", "n"):
            await state.load(b"a", "n")
        assert state.get(b"a", "n") is None
        stored.commit(state)
    assert stored.read_values == 1


async def test_the_cache_is_bounded_in_values_whatever_keys_they_are_of() -> None:
    stored = Stored()
    state = BatchState(stored.read, 3)
    state.begin([b"a"])
    for number in range(5):
        await state.load(b"a", f"n-{number}")
    stored.commit(state)
    assert [state.is_loaded(b"a", f"n-{number}") for number in range(5)] == [False, False, True, True, True]


async def test_an_answer_that_comes_after_the_commit_is_not_believed() -> None:
    stored = Stored()
    stored.state[b"a"] = {"n": b"1"}
    state = BatchState(stored.read, 100)
    state.begin([b"a"])
    stored.answers.clear()
    late = asyncio.create_task(state.load(b"a", "n"))
    await asyncio.sleep(0)
    state.merge(b"a", {"n": b"2"})
    stored.commit(state)
    stored.answers.set()
    await late
    assert not state.is_loaded(b"a", "n")
    await state.load(b"a", "n")
    assert state.get(b"a", "n") == b"2"


async def test_a_users_store_is_read_anew_for_each_batch_and_written_before_the_commit() -> None:
    async with MemoryStateStore() as store:
        state = StoreState(store, "h")
        state.begin([b"a"])
        await state.load(b"a", "n")
        assert state.get(b"a", "n") is None
        state.merge(b"a", {"n": b"1", "m": b"2"})
        state.merge(b"a", {"m": None})
        assert state.get_changes() == {}
        await state.write()
        state.settle()
        await store.put("h/a/n", 7)
        state.begin([b"a"])
        await state.load(b"a", "n")
        assert state.get(b"a", "n") == b"7"
        assert await store.get("h/a/m") is None
