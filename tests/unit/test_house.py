"""Rules of the house that no linter holds: read from the source, nothing is run."""

import ast
import functools
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pspf

ROOT = Path(__file__).parents[2]
MOCKS = {"unittest.mock", "mock", "pytest_mock"}
PUBLIC = {
    "pspf",
    "pspf.connectors.memory",
    "pspf.connectors.sqlite",
    "pspf.connectors.valkey",
    "pspf.context",
    "pspf.schema",
    "pspf.settings",
    "pspf.stream",
    "pspf.testing",
}
_EXCEPTION = re.compile(r"#\s*(?:noqa(?::\s*[A-Z0-9, ]+)?|type:\s*ignore(?:\[[\w, -]+\])?)(?P<reason>.*)")
_TEST_NAME = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def sources(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        yield from parse_all(folder)


@functools.cache
def parse_all(folder: str) -> list[tuple[Path, ast.Module]]:
    return [
        (path.relative_to(ROOT), ast.parse(path.read_text(), str(path)))
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reads_environment(node: ast.AST) -> bool:
    names = {"environ", "environb", "getenv", "getenvb"}
    if isinstance(node, ast.Attribute):
        return isinstance(node.value, ast.Name) and node.value.id == "os" and node.attr in names
    return isinstance(node, ast.ImportFrom) and node.module == "os" and any(alias.name in names for alias in node.names)


def test_only_the_settings_read_the_environment() -> None:
    readers = {
        f"{path}:{getattr(node, 'lineno', '?')}"
        for path, tree in sources("pspf")
        if path != Path("pspf/settings/__init__.py")
        for node in ast.walk(tree)
        if reads_environment(node)
    }
    assert readers == set()


def test_no_logger_of_ours_can_be_disabled_by_a_configuration() -> None:
    plain = "logging.getLogger(__name__)", 'logging.getLogger("pspf'
    made = [path.as_posix() for path in (ROOT / "pspf").rglob("*.py") if any(p in path.read_text() for p in plain)]
    assert made == [], "use pspf.loggers.get_logger"


def test_the_example_apps_use_the_public_api_only() -> None:
    inner = {
        f"{path}: {node.module}"
        for path, tree in sources("apps")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node.module
        and node.module.split(".")[0] == "pspf"
        and node.module not in PUBLIC
    }
    assert inner == set()


def test_tests_use_real_brokers_and_no_mocks() -> None:
    mocked = {str(path) for path, tree in sources("tests") if MOCKS & set(imports(tree))}
    assert mocked == set()


def test_every_lint_or_type_exception_names_its_reason() -> None:
    unexplained = set()
    for path, _ in sources("pspf", "apps", "benchmarks"):
        for token in tokenize.generate_tokens(io.StringIO((ROOT / path).read_text()).readline):
            found = _EXCEPTION.search(token.string) if token.type == tokenize.COMMENT else None
            if found and not re.search(r"\w{2}", found["reason"]):
                unexplained.add(f"{path}:{token.start[0]}")
    assert unexplained == set()


def test_every_test_that_a_promise_names_exists() -> None:
    named = set(_TEST_NAME.findall((ROOT / "docs/promises.md").read_text()))
    defined = {
        (path.as_posix(), node.name)
        for path, tree in sources("tests")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert named, "the page names the test of each promise"
    assert named - defined == set()


def test_every_public_name_can_be_imported() -> None:
    assert {"Stream", "BaseEvent", "Context", "RetryPolicy", "SchemaRegistry"} <= set(pspf.__all__)
    missing = [name for name in pspf.__all__ if getattr(pspf, name, None) is None]
    assert missing == []


WINDOWS = {"TumblingWindow", "SlidingWindow", "SessionWindow"}
THEIR_OWN = {"definitions.py", "spans.py", "sessions.py"}
"""The modules of the kinds of windows."""


def test_no_one_but_a_kind_of_window_itself_asks_for_the_kind() -> None:
    """Everything else finds what belongs to a kind in the registry of operators, or asks the window itself."""
    asking = set()
    for path, tree in sources("pspf"):
        if path.parts[1] == "windowing" and path.name in THEIR_OWN:
            continue
        for node in (each for each in ast.walk(tree) if isinstance(each, ast.expr | ast.pattern)):
            asks = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.startswith("is")
            if asks or isinstance(node, ast.MatchClass | ast.Compare):
                names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
                kinds = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
                if names & WINDOWS or kinds & {"tumbling", "sliding", "session"}:
                    asking.add(f"{path}:{node.lineno}")
    assert asking == set()


TWINS = {
    "Effects",
    "Grant",
    "Log",
    "OrderedConsumer",
    "OutcomeUnknown",
    "Renewal",
    "SharedConsumer",
    "Topic",
    "Trimmer",
    "Wish",
}
"""What both brokers have, each in its own way."""


def test_the_house_has_few_rooms() -> None:
    rooms = {path.stem for path in (ROOT / "pspf").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert len(rooms - {"__init__", "__main__"}) <= 25, sorted(rooms)


def test_the_table_of_rooms_has_all_of_them_in_the_order_of_the_imports() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(each["layers"] for each in contracts if each.get("containers") == ["pspf"])
    told = {
        room: int(row)
        for row, cell in re.findall(r"^\| (\d+) \| (.+?) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
        for room in re.findall(r"`pspf/(\w+)(?:/|\.py)`", cell)
    }
    rows = [told.get(room, -1) for layer in layers for room in re.findall(r"\w+", layer)]
    assert -1 not in rows
    assert rows == sorted(rows, reverse=True)


def test_no_name_stands_for_two_classes() -> None:
    homes: dict[str, set[Path]] = {}
    for path, tree in sources("pspf"):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, set()).add(path)
    twice = {name: sorted(map(str, paths)) for name, paths in homes.items() if len(paths) > 1 and name not in TWINS}
    assert twice == {}, "give one of them another name"


def test_what_both_brokers_have_is_had_by_both() -> None:
    for name in TWINS:
        found = {
            path.parts[2]
            for path, tree in sources("pspf/connectors")
            for node in tree.body
            if isinstance(node, ast.ClassDef) and node.name == name
        }
        assert {"sqlite", "valkey"} <= found, name


MOST_LINES, MOST_METHODS, MOST_LINES_OF_A_FUNCTION = 400, 25, 60
LARGER: dict[str, str] = {}
"""What may be larger, and why."""


def too_large(path: Path, tree: ast.Module) -> Iterator[str]:
    """Yield what of a module is over a limit: itself, classes, and functions without their docstrings."""
    if (ROOT / path).read_text().count("\n") > MOST_LINES:
        yield path.as_posix()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            if sum(isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) for each in node.body) > MOST_METHODS:
                yield f"{path.as_posix()}: {node.name}"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = node.body[0] if ast.get_docstring(node) is not None else None
            documented = 0 if docstring is None else (docstring.end_lineno or 0) - docstring.lineno + 1
            if (node.end_lineno or 0) - node.lineno + 1 - documented > MOST_LINES_OF_A_FUNCTION:
                yield f"{path.as_posix()}: {node.name}"


def test_files_classes_and_functions_are_small() -> None:
    found = {name for path, tree in sources("pspf") for name in too_large(path, tree)}
    assert found - LARGER.keys() == set(), "split it by meaning, or write down why it is one"


def test_the_limits_are_looked_at() -> None:
    body = "\n".join(["    x = 1"] * 60)
    functions = "\n".join(f"    def f{n}(self): ..." for n in range(26))
    tree = ast.parse(f"class A:\n{functions}\ndef f():\n{body}\ndef g():\n    '''a\n    b'''\n{body[10:]}")
    assert list(too_large(Path(__file__).relative_to(ROOT), tree)) == [
        "tests/unit/test_house.py: A",
        "tests/unit/test_house.py: f",
    ]


def test_a_decisions_number_is_its_own() -> None:
    numbers = [path.name[:4] for path in (ROOT / "docs/decisions").glob("0*.md")]
    assert sorted(set(numbers)) == sorted(numbers)
