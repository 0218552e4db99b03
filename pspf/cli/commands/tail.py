"""`pspf tail`: prints the records of a topic from a position on, and those that follow."""

from typing import Annotated

import typer

from pspf.cli.command import Invocation, command
from pspf.cli.exit_codes import UsageError
from pspf.cli.options import AsJsonLines
from pspf.cli.parsing import parse_place
from pspf.cli.services.where import parse_condition

app = typer.Typer()


@command(
    app,
    "pspf tail orders --from -10",
    "pspf tail orders -f --where 'amount>10' --format '%k %v'",
    "pspf tail orders-dlq --from @-1h --jsonl",
)
async def tail(
    call: Invocation,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic; also TOPIC-dlq and TOPIC-late.")],
    start: Annotated[
        str,
        typer.Option(
            "--from", metavar="PLACE", help="start, end, a record id, -10 (the last ten), @-1h, @2026-01-31T00:00:00Z"
        ),
    ] = "start",
    count: Annotated[
        int | None, typer.Option("-n", "--count", min=0, metavar="N", help="At most so many records.")
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="At the end wait for more.")] = False,
    partition: Annotated[int | None, typer.Option("-p", "--partition", min=0, help="Only this one.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="COND", help="FIELD OP VALUE with = != < <= > >= ~ (contains); repeat it for `and`."),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="TEXT",
            help="%i id, %p partition, %k key, %v value, %h headers, %t time, %T topic, %% a percent sign.",
        ),
    ] = None,
    as_json_lines: AsJsonLines = False,
) -> None:
    """Print the records of a topic, oldest first; ends at the topic's end unless -f."""
    from pspf.cli import broker_session
    from pspf.cli.services.tail import Tail, make_printer
    from pspf.clock import SystemClock

    if call.as_json and (follow or as_json_lines):
        raise UsageError("--json prints one whole document; with -f use --jsonl")
    if template is not None and (call.as_json or as_json_lines):
        raise UsageError("--format is for text; leave --json and --jsonl out")
    place = parse_place(start, now_ms=SystemClock().now_ms())
    printer = make_printer(template, as_json=call.as_json, as_json_lines=as_json_lines)
    tailing = Tail(topic, place, count, follow, partition, [parse_condition(text) for text in where or ()])

    async with call.open_broker() as broker:
        await broker_session.read_topic_info(broker, topic)
        await tailing.run(broker, printer)
