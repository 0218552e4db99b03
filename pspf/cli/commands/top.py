"""`pspf top`: activity of all workers, live on a terminal and once elsewhere."""

import sys
from typing import Annotated, Final

import typer

from pspf.cli.command import Invocation, command
from pspf.cli.console import say, write_json, write_table
from pspf.cli.exit_codes import UsageError
from pspf.cli.parsing import parse_span_ms

app = typer.Typer()
_LEAST_MS: Final = 200


@command(app, "pspf top", "pspf top --topic orders --every 5s", "pspf top --json")
def top(
    call: Invocation,
    topic: Annotated[
        list[str] | None, typer.Option("--topic", "-t", metavar="TOPIC", help="Only handlers of this topic; repeat it.")
    ] = None,
    every: Annotated[
        str, typer.Option("--every", metavar="SPAN", help="How often to look, on a terminal: 200ms or slower.")
    ] = "2s",
    once: Annotated[bool, typer.Option("--once", help="Look once and print it, also on a terminal.")] = False,
) -> None:
    """Watch handlers: rates, lag, watermark delay, errors. On a terminal until q or Ctrl-C, else one picture.

    Asks the broker, not the workers: it sees those of all machines, also where no port is open.
    """
    from pspf.cli import broker_session
    from pspf.cli.exit_codes import Interrupted
    from pspf.cli.services.overview import read_overview

    every_ms = parse_span_ms(every)
    if every_ms < _LEAST_MS:
        raise UsageError(f"--every {every}: {_LEAST_MS} ms or slower")
    topics = list(topic or ())

    async def look() -> None:
        async with call.open_broker(names=False) as broker:
            found = (await read_overview(broker)).only(topics)
        if call.as_json:
            write_json(found.as_json())
            return
        from pspf.cli.services.overview_table import HEADERS, as_row, headline

        say(headline(found))
        empty = f"nothing on {' or '.join(topics)}" if topics else "no handler has run on this broker yet"
        write_table(HEADERS, [as_row(view, found.at_ms) for view in found.handlers], empty=empty)
        for remark in found.remarks:
            say(remark)

    async def watch() -> None:
        from pspf.cli.services.live_screen import watch_overview

        async with call.open_broker(names=False) as broker:
            await watch_overview(broker, topics, every_ms)

    if once or call.as_json or not sys.stdout.isatty():
        broker_session.run(look())
        return
    try:
        broker_session.run(watch())
    except Interrupted:
        return  # Ctrl-C is how one leaves a live view
