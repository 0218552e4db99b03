"""`pspf windows`: open windows of windowed handlers."""

from typing import Annotated

import typer

from pspf.cli.command import Invocation, command, make_app
from pspf.cli.console import format_time, say, shorten, write_json, write_table

app = make_app(
    "Open windows, with the watermark that closes them.",
    "pspf windows list",
    "pspf windows list --handler app.hot --key k1 --json",
)


@command(app, "pspf windows list", "pspf windows list --topic bids -n 20 --json", name="list")
async def list_windows(
    call: Invocation,
    topic: Annotated[str | None, typer.Option("--topic", "-t", help="Only this topic's.")] = None,
    group: Annotated[str | None, typer.Option("--group", "-g", help="Only this group's.")] = None,
    handler: Annotated[
        str | None, typer.Option("--handler", help="Only this handler's: its name, or the last part of it.")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", "-k", help="Only this grouping key.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, metavar="N", help="At most so many.")] = 100,
    also_closed: Annotated[
        bool, typer.Option("--all", help="Also closed ones that can still be read (retention_ms).")
    ] = False,
) -> None:
    """List open windows: handler, partition, key, start, end, watermark, value."""
    from pspf.cli.services.stored_values import find_handler
    from pspf.engine.open_windows import each_window, find_windows
    from pspf.records import as_text

    async with call.open_broker() as broker:
        full = None if handler is None else await find_handler(broker, handler)
        cursors = await find_windows(broker, handler=full, group=group, topic=topic)
        found = []
        for cursor in cursors:
            async for window in each_window(broker, cursor, key=key, also_closed=also_closed):
                found.append((cursor, window))
                if len(found) > count:
                    break
            if len(found) > count:
                break
    shown = found[:count]
    if call.as_json:
        windows = [cursor.as_json_window(window) for cursor, window in shown]
        more = len(found) > count
        write_json({"windows": windows, "cursors": [cursor.as_json() for cursor in cursors], "more": more})
    else:
        headers = ("handler", "partition", "key", "start", "end", "watermark", "value")
        rows = [
            (
                cursor.cursor.handler,
                f"{cursor.cursor.topic}:{cursor.cursor.partition}",
                window.key,
                format_time(window.start_ms),
                format_time(window.end_ms),
                format_time(cursor.stored.watermark_ms),
                shorten(as_text(window.value) or "-", 80),
            )
            for cursor, window in shown
        ]
        write_table(headers, rows, empty="no open windows" if cursors else "no windows")
        for cursor in cursors if not rows else ():
            say(f"  {cursor.cursor}: watermark {format_time(cursor.stored.watermark_ms)}")
    if len(found) > count:
        say(f"the first {count:,} are shown; add -n N for more")
