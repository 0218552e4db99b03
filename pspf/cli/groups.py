"""`pspf groups`: how far each consumer group is."""

from typing import Annotated

import typer

from pspf.cli.console import say, write_json, write_table
from pspf.cli.exits import ExitCode, UsageError
from pspf.cli.grammar import parse_span_ms
from pspf.cli.options import AsJson, Backend, Command, Verbose, examples, make_app

app = make_app(
    "Consumer groups: lag, pending records, owners.",
    "pspf groups list",
    "pspf groups inspect billing",
    "pspf groups inspect --lag-over 1000",
)

Topic = Annotated[str | None, typer.Option("--topic", "-t", help="Only this topic.")]


@app.command("list", cls=Command, epilog=examples("pspf groups list", "pspf groups list --topic orders --json"))
def list_groups(
    topic: Topic = None, backend: Backend = None, as_json: AsJson = False, verbose: Verbose = False
) -> None:
    """List the groups: topic, handler, lag, workers."""
    from pspf.cli import brokers
    from pspf.cli.lag import read_groups

    async def work() -> None:
        async with brokers.open_broker(backend) as broker:
            say(f"broker: {broker.name}")
            found = await read_groups(broker, topic=topic)
        if as_json:
            write_json({"groups": [group.as_summary() for group in found]})
            return
        write_table(
            ("group", "topic", "handler", "ordering", "lag", "pending", "consumers"),
            [(g.group, g.topic, g.handler, g.ordering, g.lag, g.pending, len(g.consumers)) for g in found],
            empty="no groups yet; a worker makes them",
        )

    brokers.run(work())


@app.command(
    cls=Command,
    epilog=examples("pspf groups inspect", "pspf groups inspect billing --json", "pspf groups inspect --watch 2s"),
)
def inspect(
    group: Annotated[str | None, typer.Argument(metavar="GROUP", help="Only this group.", show_default=False)] = None,
    topic: Topic = None,
    lag_over: Annotated[
        int | None, typer.Option("--lag-over", min=0, metavar="N", help="Exit 10 where a lag is larger, or unknown.")
    ] = None,
    watch: Annotated[
        str | None, typer.Option("--watch", metavar="SPAN", help="Print again every so often: 2s.")
    ] = None,
    backend: Backend = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Show lag, pending records and owners of each partition."""
    import asyncio

    from pspf.cli import brokers
    from pspf.cli.lag import over, print_groups, read_groups

    every_ms = None if watch is None else parse_span_ms(watch)
    if every_ms is not None and (as_json or every_ms < 100):
        raise UsageError("--watch is for text, every 100ms or slower")

    async def work() -> ExitCode:
        async with brokers.open_broker(backend) as broker:
            say(f"broker: {broker.name}")
            while True:
                found = await read_groups(broker, group=group, topic=topic)
                print_groups(found, as_json=as_json)
                if every_ms is None:
                    break
                await asyncio.sleep(every_ms / 1000)
        behind = [] if lag_over is None else over(found, lag_over)
        for g in behind:
            say(f"{g.group} on {g.topic}: lag {'unknown' if g.lag is None else g.lag}, more than {lag_over}")
        return ExitCode.CHECK_FAILED if behind else ExitCode.OK

    raise typer.Exit(brokers.run(work()))
