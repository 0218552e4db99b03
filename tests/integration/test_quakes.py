"""The windows of the example app come to what DuckDB computes from the same file."""

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from apps.quakes import stream
from apps.quakes.reports import DAILY, STRONGEST, SWARMS
from pspf.testing import StreamTester
from tests.process.commands import QUAKES

QUAKE = f"""
CREATE VIEW quakes AS
SELECT epoch_ms("timestamp"::TIMESTAMPTZ) AS ms, key, magnitude, place, list_last(string_split(place, ', ')) AS region
FROM read_json('{QUAKES}', format = 'newline_delimited', columns = {{
    "timestamp": 'VARCHAR', key: 'VARCHAR', magnitude: 'DOUBLE', place: 'VARCHAR'}})
"""
PER_NETWORK_AND_DAY = """
SELECT key, ms // 86400000 * 86400000, count(*), max(magnitude) FROM quakes GROUP BY ALL
"""
STRONGEST_OF_SIX_HOURS = """
SELECT start, max(magnitude)
FROM quakes, unnest(range(ms // 3600000 - 5, ms // 3600000 + 1)) AS hours(hour), unnest([hour * 3600000]) AS s(start)
GROUP BY start
"""
SESSIONS_OF_HALF_AN_HOUR = """
WITH gaps AS (
    SELECT *, ms - lag(ms) OVER (PARTITION BY region ORDER BY ms) > 1800000 AS is_new FROM quakes
), numbered AS (
    SELECT *, count(*) FILTER (is_new) OVER (PARTITION BY region ORDER BY ms ROWS UNBOUNDED PRECEDING) AS number
    FROM gaps
)
SELECT region, min(ms), max(ms) + 1800000, count(*), max(magnitude) FROM numbered GROUP BY region, number
"""


def by_duckdb(query: str) -> set[tuple[Any, ...]]:
    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'")
        database.execute(QUAKE)
        return set(database.execute(query).fetchall())


def value_of(result: Mapping[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(result["value"][name] for name in names)


async def test_all_windows_come_to_what_duckdb_computes() -> None:
    lines: Sequence[bytes] = QUAKES.read_bytes().splitlines()
    async with StreamTester(stream, settle_timeout_ms=300_000) as tester:
        await tester.send_many("quakes", lines, key="as the file has it")
        await tester.finish()
        daily = await tester.outputs(DAILY)
        strongest = await tester.outputs(STRONGEST)
        swarms = await tester.outputs(SWARMS)
        assert await tester.late("quakes") == []
    found = {(each["key"], each["window_start_ms"], *value_of(each, "count", "strongest")) for each in daily}
    assert found == by_duckdb(PER_NETWORK_AND_DAY)
    assert {(each["window_start_ms"], each["value"][0][0]) for each in strongest} == by_duckdb(STRONGEST_OF_SIX_HOURS)
    assert {
        (each["key"], each["window_start_ms"], each["window_end_ms"], *value_of(each, "count", "strongest"))
        for each in swarms
    } == by_duckdb(SESSIONS_OF_HALF_AN_HOUR)
    assert (len(daily), len(swarms)) == (len(found), 706)
