"""`pspf broker`: properties of the broker, and checks of its configuration."""

from dataclasses import asdict

from pspf.cli.command import Invocation, command, make_app
from pspf.cli.console import format_size, visible, write, write_json
from pspf.cli.exit_codes import ExitCode

app = make_app(
    "The broker: its properties, and checks of its configuration.",
    "pspf broker info",
    "pspf broker doctor",
    "pspf broker doctor --backend sqlite:///orders.db --json",
)


@command(app, "pspf broker info", "pspf broker info --json")
async def info(call: Invocation) -> None:
    """Show kind, version, place, size and persistence, and what the broker can do."""
    from pspf.connectors.contract.capabilities import describe_all

    async with call.open_broker(names=False) as broker:
        found, can = await broker.operations.read_info(), broker.capabilities
    if call.as_json:
        write_json(
            {
                "broker": found.name,
                "kind": found.kind,
                "version": found.version,
                "persistence": found.persistence,
                "format": found.format,
                "topics": found.topics,
                "records": found.records,
                "bytes": found.size_bytes,
                "lost": found.lost,
                "dropped": found.dropped,
                "capabilities": asdict(can),
                "details": found.details,
            }
        )
        return
    lines = {
        "broker": found.name,
        "kind": found.kind,
        "version": found.version,
        "persistence": found.persistence,
        "format": str(found.format),
        "topics": f"{found.topics:,}",
        "records": f"{found.records:,}",
        "size": format_size(found.size_bytes),
        **describe_all(can),
        **found.details,
        "lost": f"{found.lost:,} records trimmed before a group had finished them",
        "dropped": f"{found.dropped:,} records finished without being handled",
    }
    width = max(map(len, lines))
    for name, value in lines.items():
        write(f"{name.ljust(width)}  {visible(value)}")


@command(app, "pspf broker doctor", "pspf broker doctor --json")
async def doctor(call: Invocation) -> ExitCode:
    """Check for unsafe settings, and say how to mend them; exit 10 where a check fails."""
    from pspf.connectors.contract.operations import Check, Status
    from pspf.errors import BackendCorrupt

    try:
        async with call.open_broker() as broker:
            checks = list(await broker.operations.diagnose())
    except BackendCorrupt as error:
        checks = [Check("open", Status.FAIL, str(error), "what else is wrong can't be seen before this is mended")]
    is_ok = all(check.status is not Status.FAIL for check in checks)
    if call.as_json:
        write_json(
            {
                "ok": is_ok,
                "checks": [
                    {"name": c.name, "status": c.status.value, "found": c.found, "remedy": c.remedy} for c in checks
                ],
            }
        )
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            write(f"{check.status.value:4}  {check.name.ljust(width)}  {visible(check.found)}")
            if check.remedy:
                write(f"      {' ' * width}  -> {visible(check.remedy)}")
    return ExitCode.OK if is_ok else ExitCode.CHECK_FAILED
