"""Order per key while records fail, against a model that does it the slow way."""

from collections import defaultdict
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pspf.engine.key_order import KeyOrder, Verdict
from pspf.records import Record, Retry

NOW = 1_000


def record(offset: int, key: str | None = "a", attempts: int = 0) -> Record:
    return Record("t", 0, offset, None if key is None else key.encode(), b"{}", None, 0, attempts)


def row(offset: int, key: str | None = "a", *, due_ms: int | None = NOW, attempts: int = 0) -> Retry:
    return Retry(offset, None if key is None else key.encode(), attempts, due_ms)


def test_a_new_record_runs_unless_one_of_its_key_is_not_done() -> None:
    held = KeyOrder([row(3, "a", due_ms=NOW + 1)], 5)
    assert held.admit(record(5, "a"), NOW) is Verdict.HOLD
    assert held.admit(record(6, "b"), NOW) is Verdict.RUN
    assert held.admit(record(7, None), NOW) is Verdict.RUN


def test_a_record_from_before_the_position_that_is_not_held_is_done() -> None:
    assert KeyOrder([], 5).admit(record(4), NOW) is Verdict.SKIP


def test_a_record_waits_for_its_time_and_for_its_turn() -> None:
    held = KeyOrder([row(1, due_ms=NOW), row(2, due_ms=NOW), row(3, "b", due_ms=NOW + 1), row(4, "c", due_ms=None)], 5)
    assert held.admit(record(1), NOW) is Verdict.RUN
    assert held.admit(record(2), NOW) is Verdict.SKIP
    assert held.admit(record(3, "b"), NOW) is Verdict.SKIP
    assert held.admit(record(4, "c"), NOW) is Verdict.SKIP


def test_a_record_that_has_failed_since_it_was_read_does_not_run_with_its_old_attempts() -> None:
    held = KeyOrder([row(1, attempts=1)], 5)
    assert held.admit(record(1, attempts=0), NOW) is Verdict.SKIP
    assert held.admit(record(1, attempts=1), NOW) is Verdict.RUN


def test_when_the_first_of_a_key_is_done_the_others_are_due() -> None:
    held = KeyOrder([row(1), row(2, due_ms=None), row(3, due_ms=None), row(4, "b", due_ms=None)], 5)
    held.settle(record(1), NOW + 5)
    assert held.take_changes() == (row(2, due_ms=NOW + 4), row(3, due_ms=NOW + 5))
    assert held.admit(record(2), NOW + 5) is Verdict.RUN


def test_many_records_of_a_key_are_let_go_in_steps_each_due_before_the_next_one() -> None:
    held = KeyOrder([row(1), *[row(offset, due_ms=None) for offset in range(2, 3_002)]], 3_002)
    held.settle(record(1), NOW + 5)
    dues = [(change.offset, change.due_ms) for change in held.take_changes()]
    assert [offset for offset, _ in dues] == list(range(2, 302))
    assert [due_ms for _, due_ms in dues] == list(range(NOW + 5 - 299, NOW + 6))
    for offset in range(2, 301):
        held.settle(record(offset), NOW + 6)
    assert held.take_changes() == ()
    held.settle(record(301), NOW + 7)
    assert len(held.take_changes()) == 300


def test_when_the_first_of_a_key_fails_the_others_are_not_due_any_more() -> None:
    held = KeyOrder([row(1), row(2), row(3)], 5)
    held.put_off(record(1), 1, NOW + 9, "no")
    assert sorted(held.take_changes(), key=lambda change: change.offset) == [
        replace(row(1, due_ms=NOW + 9, attempts=1), error="no"),
        row(2, due_ms=None),
        row(3, due_ms=None),
    ]
    assert held.take_changes() == ()


def test_a_record_put_off_behind_another_of_its_key_is_not_due_before_it() -> None:
    held = KeyOrder([row(1, due_ms=NOW + 100)], 2)
    held.put_off(record(2), 0, NOW, "not started")
    assert [(change.offset, change.due_ms) for change in held.take_changes()] == [(2, None)]


def test_a_record_that_is_due_before_the_first_of_its_key_is_put_right_when_the_cursor_is_taken() -> None:
    """A dead letter replayed behind a failing record: the broker would give it again and again."""
    held = KeyOrder([row(1, due_ms=NOW + 100), row(2, due_ms=NOW)], 3)
    assert [(change.offset, change.due_ms) for change in held.take_changes()] == [(2, None)]


class Cursor:
    """A broker's side of one cursor, as simple as can be: what is unread, what is kept beside the position."""

    def __init__(self, keys: list[str | None]) -> None:
        self.keys = keys
        self.rows: dict[int, Retry] = {}
        self.position = 0

    def read(self, now_ms: int, limit: int) -> list[Record]:
        due = sorted(r.offset for r in self.rows.values() if r.due_ms is not None and r.due_ms <= now_ms)[:limit]
        new = range(self.position, min(len(self.keys), self.position + limit - len(due)))
        attempts = {offset: kept.attempts for offset, kept in self.rows.items()}
        return [record(offset, self.keys[offset], attempts.get(offset, 0)) for offset in [*due, *new]]

    def commit(self, done: list[int], changes: tuple[Retry, ...], position: int) -> None:
        for offset in done:
            self.rows.pop(offset, None)
        self.rows.update((change.offset, change) for change in changes)
        self.position = position


@given(
    keys=st.lists(st.sampled_from(["a", "b", None]), max_size=14),
    data=st.data(),
    limit=st.integers(1, 6),
    reads_ahead=st.booleans(),
)
def test_every_record_is_done_once_in_the_order_of_its_key_however_they_fail(
    keys: list[str | None], data: st.DataObject, limit: int, reads_ahead: bool
) -> None:
    cursor = Cursor(keys)
    held = KeyOrder([], 0)
    fails_left = dict(enumerate(data.draw(st.lists(st.integers(0, 2), min_size=len(keys), max_size=len(keys)))))
    done: dict[str | None, list[int]] = defaultdict(list)
    attempts: dict[int, list[int]] = defaultdict(list)
    now_ms = NOW
    stale: list[Record] = []
    for _ in range(400):
        if cursor.position == len(keys) and not cursor.rows:
            break
        batch = stale or cursor.read(now_ms, limit)
        ahead = [r for r in cursor.read(now_ms, limit) if r.offset < cursor.position] if reads_ahead else []
        stale = ahead if not stale else []
        settled: list[int] = []
        for each in batch:
            verdict = held.admit(each, now_ms)
            if verdict is Verdict.HOLD:
                held.hold(each)
            if verdict is not Verdict.RUN:
                continue
            attempts[each.offset].append(each.attempts)
            if fails_left[each.offset]:
                fails_left[each.offset] -= 1
                held.put_off(each, each.attempts + 1, now_ms + data.draw(st.integers(0, 3)), "no")
            else:
                done[cursor.keys[each.offset]].append(each.offset)
                settled.append(each.offset)
                held.settle(each, now_ms)
        held.position = max([held.position, *[each.offset + 1 for each in batch]])
        cursor.commit(settled, held.take_changes(), held.position)
        if data.draw(st.booleans()):  # another owner takes the cursor over
            held = KeyOrder(list(cursor.rows.values()), cursor.position)
            stale = []
        now_ms += 1
    for key in {"a", "b"} & done.keys():
        assert done[key] == [offset for offset, other in enumerate(keys) if other == key]
    assert sorted(offset for offsets in done.values() for offset in offsets) == list(range(len(keys)))
    assert all(counted == list(range(len(counted))) for counted in attempts.values())
    assert len(held) == 0
