"""Spans of a worker's processes, with a tracer provider that the app sets up as the documentation says."""

import json
import re
from pathlib import Path
from typing import Final

from tests.process.commands import ROOT, Folder

EXPORTER: Final = """
import json
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult


class FileExporter(SpanExporter):
    def export(self, spans):
        with open("spans.ndjson", "a") as lines:
            for span in spans:
                lines.write(json.dumps({"name": span.name, "trace": span.context.trace_id}) + "\\n")
        return SpanExportResult.SUCCESS
"""


def test_the_set_up_of_the_documentation_exports_a_worker_s_spans_before_it_ends(folder: Folder) -> None:
    (set_up,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "tracing.md").read_text(), flags=re.DOTALL)
    app = set_up.replace("from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter\n", "")
    (folder.path / "exporter.py").write_text(EXPORTER)
    app = app.replace("OTLPSpanExporter", "FileExporter")
    (folder.path / "app.py").write_text(f"from exporter import FileExporter\n{app}")
    folder.ok("emit", "orders", '{"order_id": 7, "amount": 12.5}')
    folder.run("worker", "--burst")
    spans = [json.loads(line) for line in Path(folder.path / "spans.ndjson").read_text().splitlines()]
    assert sorted(span["name"] for span in spans) == ["create receipts", "process orders", "process receipts"]
    assert len({span["trace"] for span in spans}) == 1
