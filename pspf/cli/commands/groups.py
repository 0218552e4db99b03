"""`pspf groups`: progress of consumer groups; moves, renames and deletes them."""

from typing import Annotated

import typer

from pspf.cli.command import Invocation, command, make_app
from pspf.cli.console import count_of, format_span, say, write, write_json, write_table
from pspf.cli.exit_codes import ExitCode, UsageError
from pspf.cli.options import Execute, Force
from pspf.cli.parsing import parse_place, parse_span_ms

app = make_app(
    "Consumer groups: lag, pending records, owners.",
    "pspf groups list",
    "pspf groups inspect billing",
    "pspf groups seek billing --to @-1h --execute",
)

Topic = Annotated[str | None, typer.Option("--topic", "-t", help="Only this topic.")]


@command(app, "pspf groups list", "pspf groups list --topic orders --json", name="list")
async def list_groups(
    call: Invocation,
    topic: Topic = None,
) -> None:
    """List the groups: topic, handler, lag, workers."""
    from pspf.cli.services.lag import read_groups

    async with call.open_broker() as broker:
        found = await read_groups(broker, topic=topic)
    if call.as_json:
        write_json({"groups": [group.as_summary() for group in found]})
        return
    write_table(
        ("group", "topic", "handler", "ordering", "lag", "pending", "consumers"),
        [(g.group, g.topic, g.handler, g.ordering, g.lag, g.pending, len(g.consumers)) for g in found],
        empty="no groups yet; a worker makes them",
    )


@command(app, "pspf groups inspect", "pspf groups inspect billing --json", "pspf groups inspect --watch 2s")
async def inspect(
    call: Invocation,
    group: Annotated[str | None, typer.Argument(metavar="GROUP", help="Only this group.", show_default=False)] = None,
    topic: Topic = None,
    lag_over: Annotated[
        int | None, typer.Option("--lag-over", min=0, metavar="N", help="Exit 10 where a lag is larger, or unknown.")
    ] = None,
    watch: Annotated[
        str | None, typer.Option("--watch", metavar="SPAN", help="Print again every so often: 2s.")
    ] = None,
) -> ExitCode:
    """Show lag, pending records and owners of each partition."""
    import asyncio

    from pspf.cli.services.lag import over, print_groups, read_groups

    every_ms = None if watch is None else parse_span_ms(watch)
    if every_ms is not None and (call.as_json or every_ms < 100):
        raise UsageError("--watch is for text, every 100ms or slower")

    async with call.open_broker() as broker:
        while True:
            found = await read_groups(broker, group=group, topic=topic)
            print_groups(found, as_json=call.as_json)
            if every_ms is None:
                break
            await asyncio.sleep(every_ms / 1000)
    behind = [] if lag_over is None else over(found, lag_over)
    for g in behind:
        say(f"{g.group} on {g.topic}: lag {'unknown' if g.lag is None else g.lag}, more than {lag_over}")
    return ExitCode.CHECK_FAILED if behind else ExitCode.OK


@command(app, "pspf groups consumers", "pspf groups consumers billing --json")
async def consumers(
    call: Invocation,
    group: Annotated[str | None, typer.Argument(metavar="GROUP", help="Only this group's.", show_default=False)] = None,
) -> None:
    """List the running workers, with their pending records."""
    from pspf.cli.services.lag import as_json_consumer, check_group

    async with call.open_broker() as broker:
        found = await broker.list_consumers(group=group)
        if group is not None and not found:
            await check_group(broker, group)
    if call.as_json:
        write_json({"consumers": [as_json_consumer(consumer) for consumer in found]})
        return
    write_table(
        ("consumer", "group", "topic", "handler", "pending", "seen"),
        [(c.consumer, c.group, c.topic, c.handler, c.pending, f"{format_span(c.idle_ms)} ago") for c in found],
        empty="no worker runs",
    )


@command(
    app,
    "pspf groups seek billing --to start",
    "pspf groups seek billing --to @2026-01-31T00:00:00Z --topic orders --reset-state --execute",
    "pspf groups seek billing --to 1707 --topic orders --partition 0 --keep-state --execute",
)
async def seek(
    call: Invocation,
    group: Annotated[str, typer.Argument(metavar="GROUP", help="The group.")],
    to: Annotated[
        str,
        typer.Option("--to", metavar="OFFSET", help="start, end, a record id, -10 (the last ten), @-1h or @TIME."),
    ],
    topic: Topic = None,
    handler: Annotated[str | None, typer.Option("--handler", help="Only this ordered handler.")] = None,
    partition: Annotated[int | None, typer.Option("--partition", "-p", min=0, help="Only this partition.")] = None,
    keep_state: Annotated[
        bool | None,
        typer.Option(
            "--keep-state/--reset-state", help="What handlers remember: keep it, or forget it.", show_default=False
        ),
    ] = None,
    force: Force = False,
    execute: Execute = False,
) -> ExitCode:
    """Make OFFSET the next record that a group gets. Shows its plan, and does nothing without --execute.

    What was pending, held back or waiting for a retry is forgotten, a replayed dead letter as well: records before
    OFFSET count as done.
    """
    import time

    from pspf.cli.services.seek import Seeking, print_seeks

    place = parse_place(to, now_ms=time.time_ns() // 1_000_000, option="--to")
    seeking = Seeking(group, place, topic, handler, partition, keep_state=keep_state, force=force)

    async with call.open_broker() as broker:
        planned = await seeking.plan(broker)
        done, error = await seeking.execute(broker, planned) if execute else ([], None)
    print_seeks(done if execute else planned, executed=execute, as_json=call.as_json)
    if not execute:
        say("nothing changed; add --execute to do it")
    elif error is not None:
        say(f"error: {error}\n  {len(done)} of {count_of(len(planned), 'cursor')} moved, as shown")
        return ExitCode.PARTLY_DONE
    else:
        say(f"{count_of(len(done), 'cursor')} moved")
    return ExitCode.OK


@command(
    app,
    "pspf groups delete old-audit",
    "pspf groups delete audit --topic orders --execute",
    "pspf groups delete audit --topic orders --handler app.total --execute",
)
async def delete(
    call: Invocation,
    group: Annotated[str, typer.Argument(metavar="GROUP", help="The group.")],
    topic: Topic = None,
    handler: Annotated[
        str | None, typer.Option("--handler", help="Only this ordered handler; '' only the shared cursor.")
    ] = None,
    force: Force = False,
    execute: Execute = False,
) -> None:
    """Forget a group: its progress, what it has not finished, its state. Does nothing without --execute.

    A worker of it that starts later begins as a new group does.
    """
    from pspf.cli.services.lag import read_groups
    from pspf.cli.services.shuffle_topics import find_hops, hops_of

    async with call.open_broker() as broker:
        found = await read_groups(broker, group=group, topic=topic)
        hops = await find_hops(broker, group=group, topic=topic)
        if handler is not None:
            found = [g for g in found if (g.handler or "") == handler]
            hops = hops_of(hops, group, handler)
        cursors = await broker.operations.delete_group(
            group, topic=topic, handler=handler, force=force, dry_run=not execute
        )
        for hop in hops:  # their records would be counted again when the group begins again
            await broker.operations.delete_topic(hop, force=True, dry_run=not execute)
    if call.as_json:
        write_json({"groups": [g.as_summary() for g in found], "cursors": cursors, "executed": execute})
        return
    write_table(
        ("group", "topic", "handler", "partitions", "lag", "pending"),
        [(g.group, g.topic, g.handler, len(g.cursors), g.lag, g.pending) for g in found],
    )
    for hop in hops:
        say(f"internal topic {hop} goes with it")
    if not execute:
        say("its progress and state would be forgotten; nothing changed, add --execute to do it")
        return
    write(f"{group} deleted" if handler is None else f"{group}: {handler or 'the shared cursor'} deleted")
    if busy := sum(len(g.consumers) for g in found):
        say(f"{count_of(busy, 'worker')} of it ran: they start over with what the topic has, as a new group does")


@command(
    app,
    "pspf groups rename-handler billing app.total app.sum",
    "pspf groups rename-handler billing app.total app.sum --topic orders --execute",
    name="rename-handler",
)
async def rename_handler(
    call: Invocation,
    group: Annotated[str, typer.Argument(metavar="GROUP", help="The group.")],
    old: Annotated[str, typer.Argument(metavar="OLD", help="The ordered handler's name so far.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its name from now on, as pspf show has it.")],
    topic: Topic = None,
    execute: Execute = False,
) -> None:
    """Let an ordered handler go on under another name: where it is, with all that it remembers.

    Stop its workers first. Nothing is done without --execute. Its dead letters keep the old name: replay them before,
    or with --to.
    """
    from pspf.cli.services.lag import read_groups
    from pspf.cli.services.shuffle_topics import find_hops, hops_of
    from pspf.errors import Refused

    async with call.open_broker() as broker:
        found = [g for g in await read_groups(broker, group=group, topic=topic) if g.handler == old]
        if hops := hops_of(await find_hops(broker, group=group, topic=topic), group, old):
            raise Refused(
                f"handler {old!r} has an internal topic of its name, {hops[0]}, which can't be renamed\n"
                f"  keep its name in the code instead: name={old!r}"
            )
        cursors = await broker.operations.rename_handler(group, old, new, topic=topic, dry_run=not execute)
    if call.as_json:
        write_json({"groups": [g.as_summary() for g in found], "cursors": cursors, "executed": execute})
        return
    write_table(
        ("group", "topic", "handler", "new name", "partitions", "lag"),
        [(g.group, g.topic, g.handler, new, len(g.cursors), g.lag) for g in found],
    )
    say("renamed" if execute else "nothing changed; add --execute to do it")
