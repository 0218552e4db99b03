"""An app whose import takes long is told of, with the place."""

import time
from pathlib import Path

from pspf.runtime.app.loader import load_app
from pspf.runtime.app.slow_import import telling_where


def test_a_slow_import_is_told_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "slow_app_to_import.py").write_text(
        "import time\nfrom pspf import Stream\nend = time.monotonic() + 0.4\n"
        "while time.monotonic() < end:\n    time.sleep(0.01)\nstream = Stream(topic='orders', group='g')\n"
    )
    said: list[str] = []
    with telling_where("slow_app_to_import:stream", said.append, first_s=0.2):
        load_app("slow_app_to_import:stream", tmp_path)
    (told,) = said
    assert told.startswith("slow_app_to_import:stream is still being imported after 0 s")
    assert "slow_app_to_import.py:" in told


def test_a_quick_import_is_not_told_of() -> None:
    said: list[str] = []
    with telling_where("app:stream", said.append, first_s=0.05):
        pass
    time.sleep(0.1)
    assert said == []
