"""`pspf state`: stored state of ordered handlers, with their open windows."""

from typing import Annotated

import typer

from pspf.cli.command import Invocation, command, make_app
from pspf.cli.console import shorten, write, write_json, write_json_line, write_table

app = make_app(
    "What ordered handlers remember, by record key and name; of windowed ones the open windows.",
    "pspf state list app.total",
    "pspf state get app.total customer-3",
    "pspf state dump > state.ndjson",
)

Handler = Annotated[str | None, typer.Argument(help="Its name, or the last part of it.", show_default=False)]
GroupOption = Annotated[str | None, typer.Option("--group", "-g", help="Only this group's.")]
Key = Annotated[str | None, typer.Option("--key", "-k", help="Only this record key.")]
Name = Annotated[str | None, typer.Option("--name", help="Only this name.")]


@command(app, "pspf state list", "pspf state list app.total --key customer-3 --json", name="list")
async def list_state(
    call: Invocation,
    handler: Handler = None,
    group: GroupOption = None,
    key: Key = None,
    name: Name = None,
) -> None:
    """List remembered values and open windows."""
    from pspf.cli.services.stored_values import as_json_entry, find_entries, key_text, value_text

    async with call.open_broker() as broker:
        entries = await find_entries(broker, handler=handler, group=group, key=key, name=name)
    if call.as_json:
        write_json({"state": [as_json_entry(entry) for entry in entries]})
        return
    rows = [(e.handler, key_text(e), e.name, shorten(value_text(e), 120)) for e in entries]
    write_table(("handler", "key", "name", "value"), rows, empty="nothing remembered")


@command(app, "pspf state get app.total customer-3", "pspf state get app.total customer-3 sum --json")
async def get(
    call: Invocation,
    handler: Annotated[str, typer.Argument(metavar="HANDLER", help="Its name, or the last part of it.")],
    key: Annotated[str, typer.Argument(metavar="KEY", help="The record key.")],
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="The value's name, or the window's start; needed where there are several.",
            show_default=False,
        ),
    ] = None,
    group: GroupOption = None,
    topic: Annotated[str | None, typer.Option("--topic", "-t", help="Only this topic's.")] = None,
) -> None:
    """Print one remembered value, or an open window's, as JSON; exit 6 where there is none."""
    from pspf.cli.services.stored_values import as_json_entry, find_entry, value_text

    async with call.open_broker() as broker:
        entry = await find_entry(broker, handler=handler, group=group, topic=topic, key=key, name=name)
    if call.as_json:
        write_json(as_json_entry(entry))
    else:
        write(value_text(entry))


@command(app, "pspf state dump > state.ndjson", "pspf state dump app.total", has_json=False)
async def dump(
    call: Invocation,
    handler: Handler = None,
    group: GroupOption = None,
) -> None:
    """Print all remembered values and open windows, one JSON object a line."""
    from pspf.cli.services.stored_values import as_json_entry, each_entry

    async with call.open_broker() as broker:
        async for entry in each_entry(broker, handler=handler, group=group):
            write_json_line(as_json_entry(entry))
