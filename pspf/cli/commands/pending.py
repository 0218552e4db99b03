"""`pspf pending`: records that were delivered and are not done."""

from typing import Annotated

import typer

from pspf.cli.console import count_of, say, write, write_json
from pspf.cli.exit_codes import UsageError
from pspf.cli.options import AsJson, Backend, CliCommand, Execute, Verbose, examples, make_app

app = make_app(
    "Records that were delivered and are not done: in hand, to be tried again, held back.",
    "pspf pending list billing",
    "pspf pending retry billing --error TimeoutError",
    "pspf pending drop billing --id 42 --execute",
)

Group = Annotated[str, typer.Argument(metavar="GROUP", help="The group.")]
TopicOption = Annotated[str | None, typer.Option("--topic", "-t", help="Only this topic's.")]
HandlerOption = Annotated[str | None, typer.Option("--handler", help="Only this ordered handler's.")]
KeyOption = Annotated[str | None, typer.Option("--key", "-k", help="Only records of this key.")]
ErrorOption = Annotated[str | None, typer.Option("--error", metavar="TYPE", help="Only this error type: ValueError.")]
Ids = Annotated[list[str] | None, typer.Option("--id", metavar="ID", help="Only this record; repeat it.")]


@app.command(
    "list",
    cls=CliCommand,
    epilog=examples("pspf pending list billing", "pspf pending list billing --error TimeoutError --json"),
)
def list_records(
    group: Group,
    topic: TopicOption = None,
    handler: HandlerOption = None,
    key: KeyOption = None,
    error: ErrorOption = None,
    ids: Ids = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, metavar="N", help="At most so many.")] = 100,
    backend: Backend = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """List records that are not done: age, attempts, last error, next try, and who has them."""
    from pspf.cli import broker_session
    from pspf.cli.services.pending import PendingFilter, as_json_record, print_records, select

    async def work() -> None:
        async with broker_session.open_broker(backend) as broker:
            choice = PendingFilter(group, topic, handler, key, error, tuple(ids or ()))
            found = await select(broker, choice, with_in_hand=True)
        if as_json:
            write_json({"pending": [as_json_record(record) for record in found[:count]]})
        else:
            print_records(found[:count])
        if len(found) > count:
            say(f"{count} of {len(found):,} shown; -n {len(found)} shows all")

    broker_session.run(work())


@app.command(
    cls=CliCommand, epilog=examples("pspf pending retry billing", "pspf pending retry billing --id 42 --topic orders")
)
def retry(
    group: Group,
    topic: TopicOption = None,
    handler: HandlerOption = None,
    key: KeyOption = None,
    error: ErrorOption = None,
    ids: Ids = None,
    backend: Backend = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Try records again now that wait for their next try; all of the group, where none are chosen."""
    from pspf.cli import broker_session
    from pspf.cli.services.pending import PendingFilter, explain_rest, in_batches, select

    async def work() -> None:
        async with broker_session.open_broker(backend) as broker:
            found = await select(broker, PendingFilter(group, topic, handler, key, error, tuple(ids or ())))
            count = await in_batches(broker.operations.retry_pending, found)
        if as_json:
            write_json({"retried": count})
            return
        write(f"{count_of(count, 'record')} due now")
        if rest := explain_rest(found, count):
            say(rest)

    broker_session.run(work())


@app.command(
    cls=CliCommand,
    epilog=examples(
        "pspf pending drop billing --id 42",
        "pspf pending drop billing --error SchemaError --execute",
        "pspf pending drop billing --topic orders --all --execute",
    ),
)
def drop(
    group: Group,
    topic: TopicOption = None,
    handler: HandlerOption = None,
    key: KeyOption = None,
    error: ErrorOption = None,
    ids: Ids = None,
    everything: Annotated[bool, typer.Option("--all", help="All of the group.")] = False,
    execute: Execute = False,
    backend: Backend = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Finish records without handling them, for good. Shows its plan, and does nothing without --execute.

    What is held back behind one of an ordered handler goes on.
    """
    from pspf.cli import broker_session
    from pspf.cli.services.pending import PendingFilter, as_json_record, in_batches, print_records, select

    if not everything and not any((handler, key, error, ids)):
        raise UsageError("which records? name --id, --key, --error or --handler, or say --all")

    async def work() -> None:
        async with broker_session.open_broker(backend) as broker:
            found = await select(broker, PendingFilter(group, topic, handler, key, error, tuple(ids or ())))
            dropped = await in_batches(broker.operations.drop_pending, found) if execute else 0
        if as_json:
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

    broker_session.run(work())
