"""Running `pspf` in a folder of the test's own, and waiting for what it says."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.process.each import run_here
from tests.support import forks

ROOT = Path(__file__).parents[2]
QUAKES = ROOT / "apps" / "quakes" / "data" / "quakes.ndjson"

APP = """
import asyncio, json, os, time
from pspf import BaseEvent, Context, RetryPolicy, Stream

stream = Stream(topic="orders", group="billing")


class Order(BaseEvent):
    n: int = 0
    do: str = "count"
    seconds: float = 0.0
    go: str = ""  # a file that is waited for


@stream.subscribe("orders", ordering="key", name="app.total", batch_size=10,
                  retry=RetryPolicy(max_attempts=2, initial_ms=20))
async def total(order: Order, ctx: Context):
    print("start", order.n, os.getpid())
    if order.do == "fail":
        raise ValueError(f"order {order.n} is bad")
    if order.do == "exit":
        os._exit(7)
    if order.do == "sleep":
        await asyncio.sleep(order.seconds)
    if order.do == "block":
        time.sleep(order.seconds)
    end = time.monotonic() + order.seconds
    while order.do == "swallow" and time.monotonic() < end:
        try:
            await asyncio.sleep(order.seconds)
        except asyncio.CancelledError:
            print("swallowed")
    while order.go and not os.path.exists(order.go):
        await asyncio.sleep(0.02)
    known = await ctx.state.get("sum", 0)
    await ctx.state.put("sum", known + order.n)
    if order.n >= 100:
        ctx.emit({"n": order.n}, topic="large", key=order.key)


@stream.subscribe("large", group="audit", name="app.audit")
async def audit(order: Order):
    print("audit", order.n)
"""


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout as one JSON document."""
        return json.loads(self.out)

    @property
    def json_lines(self) -> list[Any]:
        """Stdout as one JSON object a line."""
        return [json.loads(line) for line in self.out.splitlines()]


class Folder:
    """A working directory with an app and a broker file, `.pspf/broker.db`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "pyproject.toml").write_text('[tool.pspf]\napp = "app:stream"\n')
        (path / "app.py").write_text(APP)
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}

    def pspf(
        self,
        *arguments: str | Path,
        stdin: str | bytes = b"",
        timeout_s: float = 60,
        from_nothing: bool = False,
        **variables: str,
    ) -> Result:
        """Run a command to its end, in a fork unless it is to start `from_nothing`."""
        environment = {**self.environment, **variables}
        given = stdin.encode() if isinstance(stdin, str) else stdin
        words = [str(argument) for argument in arguments]
        if from_nothing:
            done = subprocess.run(
                [sys.executable, "-m", "pspf", *words],
                cwd=self.path,
                env=environment,
                input=given,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        else:
            done = forks.run(*words, folder=self.path, environment=environment, stdin=given, timeout_s=timeout_s)
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def run(self, *arguments: str | Path, **options: Any) -> Result:
        """Run a command that has to succeed."""
        result = self.pspf(*arguments, **options)
        assert result.code == 0, result
        return result

    def each(self, *commands: tuple[str, ...]) -> list[Result]:
        """Run commands one after the other in one process apart from the tests': they load modules and fail."""
        done = forks.run(
            json.dumps(commands), folder=self.path, environment=self.environment, module="tests.process.each"
        )
        assert done.returncode == 0, done.stderr.decode()
        return [Result(**fields) for fields in json.loads(done.stdout)]

    def look(self, *arguments: str) -> Result:
        """Run a command that starts nothing in this process, which is 20 times as fast as in one of its own."""
        with contextlib.chdir(self.path):
            return Result(*run_here(arguments))

    def ok(self, *arguments: str) -> Result:
        """Look, and find it."""
        result = self.look(*arguments)
        assert result.code == 0, result
        return result

    def emit(self, count: int = 1, *, key: str = "k", **fields: Any) -> None:
        """Emit `count` orders, numbered from 1 unless `fields` has an `n`."""
        self.emit_lines("\n".join(json.dumps({"n": n, "key": key, **fields}) for n in range(1, count + 1)))

    def emit_lines(self, lines: str) -> None:
        """Emit orders."""
        (self.path / "lines.ndjson").write_text(lines)
        self.ok("emit", "orders", "@lines.ndjson")

    def lag(self) -> dict[str, int | None]:
        """Return the lag by group."""
        return {group["group"]: group["lag"] for group in self.ok("groups", "inspect", "--json").json["groups"]}

    @contextlib.contextmanager
    def worker(self, *arguments: str, command: str = "worker", from_nothing: bool = False) -> Iterator["Running"]:
        """Start a worker, by `command`, in a fork unless `from_nothing`; what is left of it is killed."""
        log = self.path / "worker.log"
        log.unlink(missing_ok=True)
        process: forks.Fork | subprocess.Popen[bytes]
        with log.open("wb") as output:
            if from_nothing:
                process = subprocess.Popen(
                    [sys.executable, "-m", "pspf", command, *arguments],
                    cwd=self.path,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            else:
                process = forks.start(
                    command, *arguments, folder=self.path, environment=self.environment, output=output
                )
        try:
            yield Running(process, log)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


@dataclass(frozen=True)
class Running:
    """A worker that runs."""

    process: "forks.Fork | subprocess.Popen[bytes]"
    log: Path

    def says(self, text: str, times: int = 1) -> bool:
        """Whether it has said `text` so often."""
        return self.log.read_text().count(text) >= times

    def wait_for(self, text: str, times: int = 1) -> None:
        """Return as soon as it has said `text` so often."""
        wait_until(lambda: self.says(text, times) or self.process.poll() is not None)
        assert self.says(text, times), self.log.read_text()

    def children(self) -> list[int]:
        """Return the pids of its processes, without those that only fork others."""
        return [pid for pid in self.family() if name_of(pid) not in ("pspf-forkserver", "")]

    def family(self) -> list[int]:
        """Return the pids of all processes that it started."""
        tasks = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in tasks.read_text().split()]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the worker itself, as an init system does."""
        self.process.send_signal(number)

    def end(self, *, within_s: float = 30) -> int:
        """Wait for its end; return the exit code. Where it does not end, the error shows its log and its processes."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired as error:
            family = {pid: (name_of(pid), state_of(pid)) for pid in (self.process.pid, *self.family())}
            raise AssertionError(f"{error}; its processes: {family}; it said:\n{self.log.read_text()}") from error


def name_of(pid: int) -> str:
    """Return the name of a process; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not collected by its new parent does not."""
    return state_of(pid) not in ("Z", "")


def state_of(pid: int) -> str:
    """Return the letter of a process's state (Z: ended and not collected, T: stopped); empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_until(condition: Callable[[], bool], *, within_s: float = 20) -> float:
    """Return the seconds until `condition()` was true; fail where it is not within `within_s`."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < within_s, f"not within {within_s} s"
        time.sleep(0.02)
    return time.monotonic() - begun


def quickest(measure: Callable[[], float], *, below_s: float) -> float:
    """Return the first of three measures that is below a bound, or the last: a busy machine is slow now and then."""
    for _ in range(2):
        if (took_s := measure()) < below_s:
            return took_s
    return measure()
