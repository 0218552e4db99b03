"""`pspf show`: handlers and topics of an app, read from its code."""

from enum import StrEnum
from typing import Annotated

import typer

from pspf.cli.command import Invocation, command
from pspf.cli.console import say, write, write_json, write_table
from pspf.cli.exit_codes import UsageError
from pspf.cli.options import App

app = typer.Typer()


class Graph(StrEnum):
    """Languages of `--graph`."""

    MERMAID = "mermaid"
    DOT = "dot"


@command(app, "pspf show myapp:stream", "pspf show --graph mermaid", "pspf show myapp:stream --json", has_backend=False)
def show(
    call: Invocation,
    app: App = None,
    graph: Annotated[Graph | None, typer.Option(help="Draw topics, handlers and groups instead.")] = None,
) -> None:
    """Show an app's handlers with their topics, groups and policies."""
    from pspf.cli.services.project import find_app
    from pspf.cli.services.topology import (
        as_dot,
        as_json_handler,
        as_json_topic,
        as_mermaid,
        as_row,
        as_schedule_row,
        as_topic_row,
        hop_of,
        schedule_of,
    )
    from pspf.runtime.app.loader import load_app

    if graph is not None and call.as_json:
        raise UsageError("--graph and --json are two answers; choose one")
    loaded = load_app(*find_app(app))
    subscriptions, topics = loaded.stream.subscriptions, loaded.stream.declared_topics
    if graph is not None:
        for line in as_mermaid(subscriptions) if graph is Graph.MERMAID else as_dot(subscriptions):
            write(line)
    elif call.as_json:
        handlers = [as_json_handler(s) for s in subscriptions]
        write_json({"app": loaded.target, "handlers": handlers, "topics": list(map(as_json_topic, topics))})
    else:
        say(f"app: {loaded.target}")
        headers = ("handler", "topic", "group", "ordering", "model", "batch", "concurrency", "attempts", "timeout")
        write_table(
            headers, [as_row(s) for s in subscriptions], empty="no handlers; decorate one with @stream.subscribe"
        )
        if topics:
            say("declared topics, made at the start where they are missing:")
            write_table(
                ("topic", "partitions", "retention", "key", "schema"), list(map(as_topic_row, topics)), empty=""
            )
        schedules = [s for s in subscriptions if schedule_of(s) is not None]
        if schedules:
            say("schedules, each once in its group:")
            write_table(("schedule", "times", "catch up", "next"), list(map(as_schedule_row, schedules)), empty="")
        for s in subscriptions:
            if hop := hop_of(s):
                say(f"{s.name} has a grouping key: where {s.topic} has several partitions, by way of {hop}")
