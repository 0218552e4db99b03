"""`pspf pending`: records that are delivered and not finished."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from pspf.cli.command import Invocation, command, make_app
from pspf.cli.console import count_of, say, write, write_json
from pspf.cli.exit_codes import UsageError
from pspf.cli.options import Execute

if TYPE_CHECKING:
    from pspf.cli.services.pending import PendingFilter
    from pspf.connectors.contract.broker import Broker

app = make_app(
    "Records that are delivered and not finished: running, waiting for a retry, held back.",
    "pspf pending list billing",
    "pspf pending retry billing --error TimeoutError",
    "pspf pending drop billing --id 42 --execute",
)

Group = Annotated[str, typer.Argument(metavar="GROUP", help="The group.")]
TopicOption = Annotated[str | None, typer.Option("--topic", "-t", help="Only this topic's.")]
HandlerOption = Annotated[str | None, typer.Option("--handler", help="Only this ordered handler's.")]
KeyOption = Annotated[str | None, typer.Option("--key", "-k", help="Only records of this key.")]
AnyGroup = Annotated[str | None, typer.Argument(metavar="[GROUP]", help="The group; all groups, if left out.")]
ErrorOption = Annotated[str | None, typer.Option("--error", metavar="TYPE", help="Only this error type: ValueError.")]
Ids = Annotated[list[str] | None, typer.Option("--id", metavar="ID", help="Only this record; repeat it.")]


@dataclass(frozen=True, slots=True)
class Records:
    """Arguments that choose records of a group."""

    group: Group
    topic: TopicOption = None
    handler: HandlerOption = None
    key: KeyOption = None
    error: ErrorOption = None
    ids: Ids = None

    def as_filter(self) -> "PendingFilter":
        """Return them as services take them."""
        return _make_filter(self, self.group)


@dataclass(frozen=True, slots=True)
class ListedRecords:
    """Arguments that choose records of a group or of all."""

    group: AnyGroup = None
    topic: TopicOption = None
    handler: HandlerOption = None
    key: KeyOption = None
    error: ErrorOption = None
    ids: Ids = None

    async def as_filters(self, broker: "Broker") -> "list[PendingFilter]":
        """Return them as services take them: one for each group that there is, if none is named."""
        if self.group is not None:
            return [_make_filter(self, self.group)]
        groups = {info.cursor.group for info in await broker.list_cursors(topic=self.topic)}
        return [_make_filter(self, group) for group in sorted(groups)]


def _make_filter(chosen: Records | ListedRecords, group: str) -> "PendingFilter":
    from pspf.cli.services.pending import PendingFilter

    return PendingFilter(group, chosen.topic, chosen.handler, chosen.key, chosen.error, tuple(chosen.ids or ()))


@command(
    app,
    "pspf pending list",
    "pspf pending list billing --error TimeoutError --json",
    name="list",
)
async def list_records(
    call: Invocation,
    chosen: ListedRecords,
    count: Annotated[int, typer.Option("--count", "-n", min=1, metavar="N", help="At most so many.")] = 100,
) -> None:
    """List records that are not done: age, attempts, last error, next try, and who has them. Timers come after them."""
    from pspf.cli.services.pending import as_json_record, print_records, read_steps, select_of_all
    from pspf.cli.services.stored_timers import list_timers, print_timers

    async with call.open_broker() as broker:
        choices = await chosen.as_filters(broker)
        found = await select_of_all(broker, choices)
        shown = found[:count]
        steps = await read_steps(broker, shown)
        timers = await list_timers(broker, choices, count)
    if call.as_json:
        write_json(
            {
                "pending": [as_json_record(each, steps.get((each.cursor, each.offset), ())) for each in shown],
                "timers": [timer.as_json() for timer in timers[:count]],
            }
        )
    else:
        print_records(shown, steps)
        if timers:
            write("")
            print_timers(timers[:count])
    if len(found) > count:
        say(f"{count} of {len(found):,} shown; -n {len(found)} shows all")
    if len(timers) > count:
        say(f"the first {count} timers are shown; -n shows more")


@command(app, "pspf pending retry billing", "pspf pending retry billing --id 42 --topic orders")
async def retry(call: Invocation, chosen: Records) -> None:
    """Try records again now that wait for their next try; all of the group, where none are chosen."""
    from pspf.cli.services.pending import explain_rest, in_batches, select

    async with call.open_broker() as broker:
        found = await select(broker, chosen.as_filter())
        count = await in_batches(broker.operations.retry_pending, found)
    if call.as_json:
        write_json({"retried": count})
        return
    write(f"{count_of(count, 'record')} due now")
    if rest := explain_rest(found, count):
        say(rest)


@command(
    app,
    "pspf pending drop billing --id 42",
    "pspf pending drop billing --error SchemaError --execute",
    "pspf pending drop billing --topic orders --all --execute",
)
async def drop(
    call: Invocation,
    chosen: Records,
    everything: Annotated[bool, typer.Option("--all", help="All of the group.")] = False,
    execute: Execute = False,
) -> None:
    """Finish records without handling them, for good. Shows its plan, and does nothing without --execute.

    What is held back behind one of an ordered handler goes on.
    """
    from pspf.cli.services.pending import as_json_record, in_batches, print_records, select

    if not everything and not any((chosen.handler, chosen.key, chosen.error, chosen.ids)):
        raise UsageError("which records? name --id, --key, --error or --handler, or say --all")

    async with call.open_broker() as broker:
        found = await select(broker, chosen.as_filter())
        dropped = await in_batches(broker.operations.drop_pending, found) if execute else 0
    if call.as_json:
        planned = {"planned": len(found)} if execute else {"pending": [as_json_record(r) for r in found]}
        write_json({**planned, "dropped": dropped, "executed": execute})
        return
    if not execute:
        print_records(found[:100])
    if not execute and found:
        say(f"{count_of(len(found), 'record')} would be finished without being handled")
        say("nothing changed; add --execute to do it")
    elif execute:
        write(f"{count_of(dropped, 'record')} dropped")
