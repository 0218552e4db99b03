"""Finding the app: every way to miss it has an answer, and exit code 3."""

from tests.process.commands import Folder

MODULES = {
    "two.py": "from pspf import Stream\na = Stream(topic='t', group='g')\nb = Stream(topic='t', group='g')\n",
    "empty.py": "",
    "needs.py": "import nosuchthing\n",
    "boom.py": "def f():\n    return 1 / 0\nf()\n",
    "syntax.py": "x = = 1\n",
    "leaves.py": "import sys\nsys.exit(3)\n",
    "twice.py": "from pspf import Stream\nstream = Stream(topic='t', group='g')\n"
    "@stream.subscribe('t')\nasync def a(e): ...\n@stream.subscribe('t')\nasync def b(e): ...\n",
}


MESSAGES = {
    "nope:stream": "no module 'nope'",
    "ap:stream": "did you mean 'app'?",
    "app:strem": "no Stream named 'strem' in app; did you mean 'stream'?",
    "app:Order": "app:Order is of type ModelMetaclass, no Stream; did you mean 'stream'?",
    "app:Stream": "the class Stream itself",
    "two": "say which: two:a, two:b",
    "empty": "no Stream in empty",
    "needs:stream": "No module named 'nosuchthing'",
    "boom:stream": "boom.py:2: return 1 / 0",
    "syntax:stream": "syntax.py:1: x = = 1",
    "leaves:stream": "SystemExit: 3",
    "app.py:stream": "name its module: app:stream",
    "app.sub:stream": "app is a module, not a package",
    "my app": "is no MODULE:OBJECT",
}


def test_an_app_that_can_not_be_loaded_is_explained(folder: Folder) -> None:
    for name, text in MODULES.items():
        (folder.path / name).write_text(text)
    results = folder.each(*(("worker", target, "--check") for target in MESSAGES))
    for (target, message), ended in zip(MESSAGES.items(), results, strict=True):
        assert ended.code == 3, target
        assert message in ended.err
        assert "Traceback" not in ended.err
        assert len(ended.err.splitlines()) <= 6


def test_handlers_that_can_not_run_together_end_with_code_2(folder: Folder) -> None:
    (folder.path / "twice.py").write_text(MODULES["twice.py"])
    ended = folder.pspf("worker", "twice", "--check")
    assert ended.code == 2
    assert "give each its own group=" in ended.err


def test_the_app_may_be_named_by_pyproject_toml_or_found_alone_in_its_module(folder: Folder) -> None:
    for ended in folder.each(("worker", "--check"), ("worker", "app", "--check"), ("worker", "app:stream", "--check")):
        assert ended.code == 0
        assert "app: app:stream" in ended.err
        assert "processes: 2 (orders/billing x 1, large/audit x 1)" in ended.err
    assert not (folder.path / ".pspf").exists()


def test_without_an_app_there_is_advice(folder: Folder) -> None:
    (folder.path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    ended = folder.pspf("worker")
    assert ended.code == 2
    assert "[tool.pspf]" in ended.err


REFUSED = (
    ("--final",),
    ("--burst-timeout", "3s"),
    ("--backend", "memory://"),
    ("--backend", "valkey+cluster://127.0.0.1"),
    ("-w", "0"),
    ("-w", "oders=2"),
    ("--only", "oders"),
    ("--in-process", "-w", "2"),
    ("--log-level", "LOUD"),
    ("--drain-timeout", "soon"),
)


def test_what_a_worker_can_not_do_ends_with_code_2(folder: Folder) -> None:
    for arguments, ended in zip(REFUSED, folder.each(*(("worker", *a) for a in REFUSED)), strict=True):
        assert ended.code == 2, arguments
        assert "Traceback" not in ended.err


def test_admin_and_metrics_may_be_off(folder: Folder) -> None:
    folder.run(
        "worker", "--check", "--admin", "off", "--metrics", "off", "--log-level", "debug", "--log-format", "json"
    )


def test_the_memory_broker_runs_in_one_process(folder: Folder) -> None:
    ended = folder.run("worker", "--in-process", "--burst", "--backend", "memory://")
    assert "lag 0" in ended.err


def test_show_tells_what_an_app_is_made_of(folder: Folder) -> None:
    as_json, mermaid, dot, table = folder.each(
        ("show", "--json"), ("show", "--graph", "mermaid"), ("show", "--graph", "dot"), ("show",)
    )
    assert as_json.json["app"] == "app:stream"
    assert [(h["handler"], h["topic"], h["group"], h["ordering"]) for h in as_json.json["handlers"]] == [
        ("app.total", "orders", "billing", "key"),
        ("app.audit", "large", "audit", "none"),
    ]
    assert as_json.json["handlers"][0]["retry"]["max_attempts"] == 2
    assert "flowchart LR" in mermaid.out
    assert dot.out.rstrip().endswith("}")
    assert "app.total" in table.out
