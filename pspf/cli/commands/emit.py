"""`pspf emit`: emits one event from the command line, or many from a file or a pipe."""

from typing import Annotated

import typer

from pspf.cli.command import Invocation, command
from pspf.cli.console import say, write, write_json
from pspf.cli.exit_codes import ExitCode, UsageError
from pspf.cli.parsing import parse_headers, parse_rate

app = typer.Typer()


@command(
    app,
    'pspf emit orders \'{"order_id": 7, "amount": 12.5}\' -k customer-3',
    "pspf emit orders @orders.ndjson --rate 200/s",
    "tail -f app.log | pspf emit logs -",
)
async def emit(
    call: Invocation,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="Where to; made with one partition where missing.")],
    event: Annotated[
        str | None,
        typer.Argument(
            metavar="JSON",
            help="A JSON object; @FILE: one a line; - : one a line from stdin (the default where stdin is a pipe).",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", "-k", metavar="KEY", help="The key; default: the event's `key`.")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME=VALUE", help="A header; repeat it.")
    ] = None,
    event_type: Annotated[str | None, typer.Option("--type", metavar="NAME", help="Sets `event_type`.")] = None,
    event_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Sets `event_id`: emitted twice, stored once.")
    ] = None,
    rate: Annotated[str | None, typer.Option("--rate", metavar="N/s", help="At most so many: 200/s, 90/m.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="With many: one bad line, and nothing is emitted.")] = False,
) -> ExitCode:
    """Emit one event, or many with @FILE or -.

    Prints the record's id, or for many how many were stored. Events with an `event_id` are stored
    once, however often they are emitted.
    """
    import sys

    from pspf.cli.services.emit_many import Plan, emit_lines, open_source
    from pspf.cli.services.events import Recipe
    from pspf.cli.services.new_topics import describe_new
    from pspf.connectors.urls import make_limits
    from pspf.records import check_name

    check_name("topic", topic)
    recipe = Recipe(make_limits(), key, parse_headers(header or ()), event_type, event_id)
    if event is None:
        if sys.stdin.isatty():
            raise UsageError("what is to be emitted? give a JSON object, @FILE, or - for stdin")
        event = "-"
    if event == "-" or event.startswith("@"):
        if event_id is not None:
            raise UsageError('--id names one event; put an "event_id" into each line instead')
        plan = Plan(topic, recipe, parse_rate(rate) if rate else None, strict, call.as_json)
        with open_source(event) as source:
            return await emit_lines(call.backend, source, plan)
    # Before the broker is opened: bad JSON must not even make its file.
    record = recipe.make_record(event)
    async with call.open_broker(makes=True) as broker:
        notice = await describe_new(broker, topic)
        appended = (await broker.append(topic, [record]))[0]
    if notice is not None:
        say(notice)
    if appended.duplicate:
        say(f"event_id {record.event_id!r} was emitted before, as record {appended.id}; nothing stored")
    if call.as_json:
        write_json({"id": appended.id, "topic": topic, "partition": appended.partition})
    else:
        write(appended.id)
    return ExitCode.OK
