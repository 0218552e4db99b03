"""What tracing costs where nobody looks."""

import subprocess
import sys

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, NoOpTracerProvider, SpanContext, TraceFlags, use_span

from pspf.observability.telemetry import TelemetryManager
from pspf.observability.tracing import Spans

_WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import asyncio
from pspf import BaseEvent, Context, MemoryBackend, Stream

stream = Stream(MemoryBackend(stream_key="t", group_name="g"))

@stream.subscribe("t")
async def take(event: BaseEvent, ctx: Context) -> None:
    ctx.emit({}, topic="out")
    print("handled", ctx.record.headers)
    await stream.stop()

async def main():
    await stream.emit({"n": 1})
    await stream.run_forever()

asyncio.run(main())
print([name for name in sys.modules if name.startswith("opentelemetry") or name == "pspf.observability.tracing"])
"""


def test_without_the_extra_all_works_and_nothing_of_it_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", _WITHOUT], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("handled {}\n[]\n", "")


def test_without_a_tracer_provider_nobody_makes_spans() -> None:
    assert TelemetryManager().find_spans() is None
    assert Spans(NoOpTracerProvider()).find() is None
    assert Spans(TracerProvider(shutdown_on_exit=False)).find() is not None


_LATER = """
import os
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import set_tracer_provider
from pspf.observability.telemetry import TelemetryManager

before = TelemetryManager()
os.environ["OTEL_PYTHON_TRACER_PROVIDER"] = "one that there is not"
print(before.find_spans(), before.find_spans())
set_tracer_provider(TracerProvider(shutdown_on_exit=False))
print(before.find_spans() is not None)
"""


def test_a_provider_that_is_set_later_is_found_and_nothing_looks_into_the_environment_for_one_again() -> None:
    done = subprocess.run([sys.executable, "-c", _LATER], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("None None\nTrue\n", "")


def test_a_context_that_somebody_made_current_goes_on_without_a_provider() -> None:
    spans = Spans(NoOpTracerProvider())
    with use_span(NonRecordingSpan(SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1)))):
        assert spans.find() is spans
        with spans.sending("t", None, 1) as sending:
            assert sending.headers == {"traceparent": f"00-{1:032x}-{2:016x}-01"}
