"""The examples of docs/schedules.md, run as they stand there."""

import re
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from pspf.clock import ManualClock
from pspf.testing import StreamTester

PAGE: Final = Path(__file__).parents[2] / "docs" / "schedules.md"


def run_block(number: int) -> dict[str, Any]:
    """Run a Python block of the page, and return its names."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "shop"}
    exec(blocks[number], names)  # noqa: S102 (the page is ours)
    return names


async def test_the_schedules_of_the_page_tick() -> None:
    names = run_block(0)
    begin = datetime(2026, 7, 1, 5, 59, 45, tzinfo=ZoneInfo("Europe/Berlin"))
    async with StreamTester(names["stream"], clock=ManualClock(int(begin.timestamp()) * 1_000)) as tester:
        await tester.advance("30s")
        assert [each["at"] for each in await tester.outputs("refreshes")] == [
            "2026-07-01T03:59:50+00:00",
            "2026-07-01T04:00:00+00:00",
            "2026-07-01T04:00:10+00:00",
        ]
        (report,) = await tester.outputs("reports")
        assert (report["day"], report["number"]) == ("2026-07-01", 1)
        assert await tester.state("shop.report", "shop.report", "reports") == 1
