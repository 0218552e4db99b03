"""`pspf topics`: lists, creates, trims, repartitions and deletes topics."""

from typing import Annotated

import typer

from pspf.cli.command import Invocation, command, make_app
from pspf.cli.console import count_of, format_span, say, write, write_json, write_table
from pspf.cli.exit_codes import ExitCode, UsageError
from pspf.cli.options import Execute
from pspf.cli.parsing import parse_place, parse_size, parse_span_ms

app = make_app(
    "Topics of the broker.",
    "pspf topics list",
    "pspf topics inspect orders --json",
    "pspf topics create orders --partitions 16 --retention 7d",
)


@command(app, "pspf topics list", "pspf topics list --json", name="list")
async def list_topics(call: Invocation) -> None:
    """List all topics with their size."""

    async with call.open_broker() as broker:
        infos = await broker.list_topics()
    if call.as_json:
        write_json(
            {
                "topics": [
                    {"topic": t.topic, "partitions": t.partitions, "records": t.records, "bytes": t.size_bytes}
                    for t in infos
                ]
            }
        )
        return
    rows = [(t.topic, t.partitions, t.records, t.size_bytes, _retention(t.retention_ms)) for t in infos]
    write_table(("topic", "partitions", "records", "bytes", "retention"), rows, empty=f"no topics in {broker.name}")


@command(app, "pspf topics inspect orders", "pspf topics inspect orders-dlq --json")
async def inspect(
    call: Invocation,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic.")],
) -> None:
    """Show one topic, partition by partition."""
    from pspf.cli import broker_session
    from pspf.records import format_id

    async with call.open_broker() as broker:
        await broker_session.read_topic_info(broker, topic)
        found, partitions = await broker.read_topic(topic)
    bounds = [
        (p, format_id(p.partition, p.first) if p.records else None, format_id(p.partition, p.next)) for p in partitions
    ]
    if call.as_json:
        write_json(
            {
                "topic": found.topic,
                "records": found.records,
                "bytes": found.size_bytes,
                "retention_ms": found.retention_ms,
                "partitions": [
                    {"partition": p.partition, "records": p.records, "first": first, "next": after}
                    for p, first, after in bounds
                ],
            }
        )
        return
    size = "?" if found.size_bytes is None else f"{found.size_bytes:,}"
    say(f"{found.topic}: {found.records:,} records, {size} bytes, retention {_retention(found.retention_ms)}")
    write_table(
        ("partition", "records", "first", "next"),
        [(p.partition, p.records, first, after) for p, first, after in bounds],
    )


@command(
    app,
    "pspf topics create orders --partitions 16",
    "pspf topics create audit --retention forever",
    "pspf topics create work --retention consumed",
)
async def create(
    call: Invocation,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="Its name: A-Z a-z 0-9 . _ -")],
    partitions: Annotated[
        int | None, typer.Option("--partitions", "-p", min=1, max=100_000, help="How many; fixed for ever.")
    ] = None,
    retention: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN", help="How long records stay: 7d, forever, or consumed (until all groups are done)."
        ),
    ] = None,
) -> None:
    """Make a topic; one that is there already with as many partitions is left as it is."""

    retention_ms = None if retention is None else parse_retention_ms(retention)

    async with call.open_broker(makes=True) as broker:
        created = await broker.create_topic(topic, partitions=partitions, retention_ms=retention_ms)
        found, _ = await broker.read_topic(topic)
    if call.as_json:
        write_json({"topic": topic, "partitions": found.partitions, "created": created})
    else:
        write(f"{topic} {'created' if created else 'is there already'}, partitions: {found.partitions}")


@command(
    app,
    "pspf topics alter orders --retention 30d",
    "pspf topics alter orders --retention 30d --execute",
)
async def alter(
    call: Invocation,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic.")],
    retention: Annotated[
        str,
        typer.Option(metavar="SPAN", help="How long records stay: 7d, forever, consumed, or default (the setting)."),
    ],
    execute: Execute = False,
) -> None:
    """Change a topic's retention: how long records stay after all groups are done. Does nothing without --execute."""
    from pspf.cli import broker_session

    retention_ms = None if retention == "default" else parse_retention_ms(retention)

    async with call.open_broker() as broker:
        before_ms = (await broker_session.read_topic_info(broker, topic)).retention_ms
        await broker.operations.set_retention(topic, retention_ms, dry_run=not execute)
        after_ms = broker.limits.retention_ms if retention_ms is None else retention_ms
    if call.as_json:
        write_json({"topic": topic, "from_ms": before_ms, "to_ms": after_ms, "executed": execute})
        return
    write(f"{topic}: retention {_retention(before_ms)} -> {_retention(after_ms)}")
    if (after_ms if after_ms >= 0 else float("inf")) < (before_ms if before_ms >= 0 else float("inf")):
        say("records that all groups have finished go earlier than before, with the next commits of its workers")
    if not execute:
        say("nothing changed; add --execute to do it")


@command(
    app,
    "pspf topics trim orders --to @-7d",
    "pspf topics trim orders --max-records 100000 --execute",
    "pspf topics trim orders --max-bytes 2GiB --drop-unread --execute",
)
async def trim(
    call: Invocation,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic.")],
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="OFFSET", help="Keep from here: a record id, -10 (the last ten), @-1h, end."),
    ] = None,
    max_records: Annotated[
        int | None, typer.Option("--max-records", min=0, metavar="N", help="Keep the last N of each partition.")
    ] = None,
    max_bytes: Annotated[
        str | None, typer.Option("--max-bytes", metavar="SIZE", help="Keep at most so many in each partition: 2GiB.")
    ] = None,
    partition: Annotated[int | None, typer.Option("--partition", "-p", min=0, help="Only this partition.")] = None,
    drop_unread: Annotated[
        bool, typer.Option("--drop-unread", help="Also what a group has not finished; it is lost for it.")
    ] = False,
    execute: Execute = False,
) -> ExitCode:
    """Remove a topic's oldest records, never more than all groups have finished, unless with --drop-unread.

    Shows its plan, and does nothing without --execute.
    """
    import time

    from pspf.cli import broker_session
    from pspf.cli.services.trim import Trimming, is_held, print_trims

    if [to, max_records, max_bytes].count(None) != 2:
        raise UsageError("what is to stay? give one of --to, --max-records and --max-bytes")
    place = None if to is None else parse_place(to, now_ms=time.time_ns() // 1_000_000, option="--to")
    size = None if max_bytes is None else parse_size(max_bytes)
    trimming = Trimming(topic, place, max_records, size, partition, drop_unread)

    async with call.open_broker() as broker:
        await broker_session.read_topic_info(broker, topic)
        trims = await trimming.run(broker, dry_run=not execute)
    print_trims(topic, trims, executed=execute, as_json=call.as_json)
    if not execute:
        say("nothing changed; add --execute to do it")
        return ExitCode.OK
    say(f"{count_of(sum(trim.records for trim in trims), 'record')} trimmed")
    return ExitCode.PARTLY_DONE if is_held(trims) else ExitCode.OK


@command(app, "pspf topics delete old", "pspf topics delete orders --force --execute")
async def delete(
    call: Invocation,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic.")],
    force: Annotated[bool, typer.Option("--force", help="Also with groups on it.", show_envvar=False)] = False,
    execute: Execute = False,
) -> None:
    """Remove a topic, its dead letters and late records, and the groups on them. Does nothing without --execute."""
    from pspf.cli import broker_session
    from pspf.cli.services.shuffle_topics import find_hops

    async with call.open_broker() as broker:
        await broker_session.read_topic_info(broker, topic)
        infos = {info.topic: info for info in await broker.list_topics()}
        hops = await find_hops(broker, topic=topic)
        names = [*await broker.operations.delete_topic(topic, force=force, dry_run=not execute)]
        for hop in hops:
            names += await broker.operations.delete_topic(hop, force=True, dry_run=not execute)
    found = [infos[name] for name in names if name in infos]
    if call.as_json:
        gone = [{"topic": info.topic, "partitions": info.partitions, "records": info.records} for info in found]
        write_json({"topics": gone, "executed": execute})
        return
    write_table(("topic", "partitions", "records"), [(info.topic, info.partitions, info.records) for info in found])
    say(f"{', '.join(names)} deleted" if execute else "nothing changed; add --execute to delete them")


@command(
    app,
    "pspf topics repartition orders --partitions 16",
    "pspf topics repartition orders --partitions 16 --reset-state --execute",
)
async def repartition(
    call: Invocation,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic.")],
    partitions: Annotated[int, typer.Option("--partitions", "-p", min=1, max=100_000, help="How many it is to have.")],
    reset_state: Annotated[
        bool, typer.Option("--reset-state", help="Forget what its handlers remember.", show_envvar=False)
    ] = False,
    execute: Execute = False,
) -> None:
    """Copy an idle topic into another number of partitions, in order; ids are new.

    All groups have to have finished it. Shows its plan, and does nothing without --execute.
    """
    from pspf.cli import broker_session
    from pspf.cli.services.shuffle_topics import check_idle, find_hops

    async with call.open_broker() as broker:
        before = (await broker_session.read_topic_info(broker, topic)).partitions
        hops = await find_hops(broker, topic=topic)
        await check_idle(broker, hops, reset_state=reset_state)
        records = await broker.operations.repartition(topic, partitions, reset_state=reset_state, dry_run=not execute)
        for hop in hops:  # the next worker makes them again, like the topic
            await broker.operations.delete_topic(hop, force=True, dry_run=not execute)
    if call.as_json:
        write_json({"topic": topic, "from": before, "to": partitions, "records": records, "executed": execute})
        return
    write(f"{topic}: {before} -> {partitions} partitions, {count_of(records, 'record')}")
    if not execute:
        say("nothing changed; add --execute to do it")


def parse_retention_ms(text: str) -> int:
    """Return a topic's retention in milliseconds.

    Raises:
        UsageError: It is neither a span nor `forever` nor `consumed`, or a span of nothing.
    """
    from pspf.connectors.contract.values import FOREVER

    if text in ("forever", "consumed"):
        return FOREVER if text == "forever" else 0
    retention_ms = parse_span_ms(text)
    if retention_ms == 0:
        raise UsageError(f"--retention {text}: to keep records only until all groups are done, write consumed")
    return retention_ms


def _retention(retention_ms: int) -> str:
    if retention_ms == 0:
        return "consumed"
    return "forever" if retention_ms < 0 else format_span(retention_ms)
