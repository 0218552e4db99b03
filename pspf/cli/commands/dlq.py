"""`pspf dlq`: lists, replays, purges and exports dead letters."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from pspf.cli.command import Invocation, command, make_app
from pspf.cli.console import say, visible, write, write_json, write_json_line, write_table
from pspf.cli.exit_codes import UsageError
from pspf.cli.parsing import parse_rate

if TYPE_CHECKING:
    from pspf.connectors.views import LetterFilter

app = make_app(
    "Dead letters: records that were given up.",
    "pspf dlq list",
    "pspf dlq inspect 42",
    "pspf dlq replay orders --error ValueError",
)

Topic = Annotated[
    str | None,
    typer.Argument(metavar="TOPIC", help="Only this topic's; orders and orders-dlq are the same.", show_default=False),
]
GroupOption = Annotated[str | None, typer.Option("--group", "-g", help="Only this group's.")]
HandlerOption = Annotated[str | None, typer.Option("--handler", help="Only this handler's.")]
ErrorOption = Annotated[str | None, typer.Option("--error", metavar="TYPE", help="Only this error type: ValueError.")]
Ids = Annotated[list[str] | None, typer.Option("--id", metavar="ID", help="Only this dead letter; repeat it.")]


@dataclass(frozen=True, slots=True)
class Letters:
    """Options that choose dead letters."""

    topic: Topic = None
    group: GroupOption = None
    handler: HandlerOption = None
    error: ErrorOption = None
    ids: Ids = None

    def as_filter(self) -> "LetterFilter":
        """Return them as services take them."""
        from pspf.connectors.views import LetterFilter

        return LetterFilter(self.topic, self.group, self.handler, self.error, tuple(self.ids or ()))


@command(app, "pspf dlq list", "pspf dlq list orders --error ValueError --json", name="list")
async def list_letters(call: Invocation, chosen: Letters) -> None:
    """List dead letters, grouped by error."""
    from pspf.cli.services.dead_letters import as_json_letter, as_row, by_error, select

    async with call.open_broker() as broker:
        found = await select(broker, chosen.as_filter(), is_whole=False)
    if call.as_json:
        write_json({"dead_letters": [as_json_letter(letter) for letter in found]})
        return
    if found:
        for line in by_error(found):
            say(line)
    headers = ("id", "topic", "group", "handler", "attempts", "error", "dead at")
    write_table(headers, [as_row(letter) for letter in found], empty="no dead letters")


@command(app, "pspf dlq inspect 42", "pspf dlq inspect orders/1707", "pspf dlq inspect 42 --topic orders --json")
async def inspect(
    call: Invocation,
    letter_id: Annotated[
        str, typer.Argument(metavar="ID", help="The dead letter's id, or TOPIC/ID of the record that died.")
    ],
    topic: Annotated[str | None, typer.Option("--topic", "-t", help="The topic, where several have this id.")] = None,
) -> None:
    """Show one dead letter: the event, the error and where it was raised."""
    from pspf.cli.services.dead_letters import LetterFilter, as_json_whole, as_page, select_one

    async with call.open_broker() as broker:
        letter = await select_one(broker, LetterFilter(topic, ids=(letter_id,)))
    if call.as_json:
        write_json(as_json_whole(letter))
        return
    for line in as_page(letter):
        write(visible(line))


@command(
    app,
    "pspf dlq replay --id 42",
    "pspf dlq replay orders --error ValueError --rate 100/s",
    "pspf dlq replay orders --to orders-fixed",
)
async def replay(
    call: Invocation,
    chosen: Letters,
    to: Annotated[str | None, typer.Option("--to", metavar="TOPIC", help="Append them to this topic instead.")] = None,
    rate: Annotated[str | None, typer.Option("--rate", metavar="N/s", help="At most so many: 100/s.")] = None,
) -> None:
    """Give dead letters a new start, oldest first, in the handler that gave them up; all, where none are chosen.

    Other groups, which succeeded, do not see them again: a record that was trimmed since comes from its letter's bytes,
    at its old place, to this handler alone. Each leaves the dead letters in the same commit. One that can't be replayed
    (its group is gone, or it is a window's result) is left, with the reason, and keeps no other back: use --to.
    """
    from pspf.cli.services.dead_letters import replay_letters, select
    from pspf.records import check_name

    per_second = parse_rate(rate) if rate else None
    if to is not None:
        check_name("topic", to)

    async with call.open_broker() as broker:
        found = await select(broker, chosen.as_filter())
        count, left = await replay_letters(broker, found, to=to, rate=per_second)
    if call.as_json:
        write_json({"replayed": count} | ({"left": len(left)} if left else {}))
    else:
        write(f"{count} replayed")
    if len(left) > 1:
        say(f"{len(left)} are left; the first of them:")
    if left:
        raise left[0]


@command(
    app,
    "pspf dlq purge orders",
    "pspf dlq purge orders --error ValueError --execute",
    "pspf dlq purge --id 42 --execute",
)
async def purge(
    call: Invocation,
    chosen: Letters,
    everything: Annotated[bool, typer.Option("--all", help="Those of all topics.")] = False,
    execute: Annotated[bool, typer.Option("--execute", help="Do it; without it only the plan is shown.")] = False,
) -> None:
    """Forget dead letters for good. Shows its plan, and does nothing without --execute."""
    from pspf.cli.services.dead_letters import LetterFilter, by_error, select

    choice = chosen.as_filter()
    if not everything and choice == LetterFilter():
        raise UsageError("which dead letters? name a TOPIC, --id, --error, --group or --handler, or say --all")

    async with call.open_broker() as broker:
        found = await select(broker, choice, is_whole=False)
        for line in by_error(found):
            say(line)
        purged = await broker.purge_dead_letters(found) if execute and found else 0
    if not execute:
        say(f"{len(found)} dead letters would be forgotten; nothing changed, add --execute to do it")
    if call.as_json:
        write_json({"planned": len(found), "purged": purged})
    elif execute:
        write(f"{purged} purged")


@command(app, "pspf dlq export orders > orders-dead.ndjson", "pspf dlq export --error ValueError", has_json=False)
async def export(call: Invocation, chosen: Letters) -> None:
    """Print dead letters whole, one JSON object a line; payloads that are no JSON come as base64 in `raw`."""
    from pspf.cli.services.dead_letters import as_json_whole, select

    async with call.open_broker() as broker:
        for letter in await select(broker, chosen.as_filter()):
            write_json_line(as_json_whole(letter))
