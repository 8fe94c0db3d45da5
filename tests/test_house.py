"""Hold the shape of the house: sizes, names, docstrings, budgets, and what the wheel carries."""

from __future__ import annotations

import ast
import functools
import io
import re
import subprocess
import sys
import tokenize
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "dlwp"
FILES = sorted(SOURCE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "base", "misc"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def code_lines(text: str) -> int:
    """Count the lines that hold code: neither blank nor comment nor docstring."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            match statement:
                case ast.Expr(value=ast.Constant(value=str())):
                    docstrings.update(range(statement.lineno, (statement.end_lineno or 0) + 1))
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def test_code_lines_counts_neither_blanks_nor_comments_nor_docstrings() -> None:
    text = '"""Doc.\n\nMore."""\n\n# why\nx = """a\nb"""  # c\n\n'
    text += 'def f():\n    """Doc."""\n    return (\n        1\n    )\n'
    assert code_lines(text) == 6


@pytest.mark.parametrize("path", FILES + SCRIPTS + TESTS, ids=name_of)
def test_no_file_is_over_500_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


@pytest.mark.parametrize("path", FILES + SCRIPTS + TESTS, ids=name_of)
def test_no_function_is_over_60_lines(path: Path) -> None:
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions(tree_of(path))}
    assert {name: length for name, length in lengths.items() if length > 60} == {}


def test_a_name_says_what_a_thing_is() -> None:
    wrong = [name_of(path) for path in FILES + TESTS + SCRIPTS if FORBIDDEN_NAMES & {*path.with_suffix("").parts}]
    wrong += [
        f"{name_of(path)}: {node.name}"
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef)
        and FORBIDDEN_NAMES & {word.lower() for word in re.findall(r"[A-Z]+[a-z]*|[a-z]+", node.name)}
    ]
    assert wrong == []


@pytest.mark.parametrize("path", FILES + SCRIPTS, ids=name_of)
def test_every_module_says_what_it_owns(path: Path) -> None:
    assert ast.get_docstring(tree_of(path))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_public_function_and_class_has_a_docstring(path: Path) -> None:
    def lacking(body: list[ast.stmt], of: str = "") -> Iterator[str]:
        for node in body:
            # forward is torch's own word: its class's docstring says what the module computes
            if (
                not isinstance(node, ast.ClassDef | ast.FunctionDef)
                or node.name.startswith("_")
                or node.name == "forward"
            ):
                continue
            if not ast.get_docstring(node):
                yield of + node.name
            if isinstance(node, ast.ClassDef):
                yield from lacking(node.body, f"{node.name}.")

    assert list(lacking(tree_of(path).body)) == []


def test_the_engine_stays_under_2000_lines_of_code_and_the_whole_does_not_grow_unseen() -> None:
    sizes = {path: code_lines(path.read_text(encoding="utf-8")) for path in FILES}
    engine = [SOURCE / "build.py", SOURCE / "checkpoint.py", SOURCE / "api.py", *(SOURCE / "training").glob("*.py")]
    assert sum(sizes[path] for path in engine) < 2000
    # the aim is 4,500 for the first whole; until it is reached this holds what is there: what a promise adds is told
    assert sum(sizes.values()) < 25100


def catches_anything(node: ast.AST) -> bool:
    """Return whether a handler takes every error and keeps it: one that ends by raising it again does not."""
    if not isinstance(node, ast.ExceptHandler) or (isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None):
        return False
    names = {each.id for each in ast.walk(node.type) if isinstance(each, ast.Name)} if node.type else {"Exception"}
    return not names.isdisjoint({"Exception", "BaseException"})


@pytest.mark.parametrize("path", FILES + SCRIPTS, ids=name_of)
def test_what_cannot_be_named_is_not_caught_unless_the_line_says_why(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    wide = [node.lineno for node in ast.walk(tree_of(path)) if catches_anything(node)]
    assert [line for line in wide if not re.search(r"# any error: \S", lines[line - 1])] == []


def targets(node: object) -> Iterator[str]:
    """Walk through a config for its `_target_`s."""
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from targets(child)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "model").glob("*.yaml")), ids=name_of)
def test_a_model_config_has_the_name_of_its_module(path: Path) -> None:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))["_target_"]
    assert found.startswith(f"dlwp.models.{path.stem}.")


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "data").glob("*.yaml")), ids=name_of)
def test_a_data_config_has_the_name_of_its_function(path: Path) -> None:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))["_target_"]
    assert found == "???" or (found.startswith("dlwp.data.") and path.stem in found.split(".")[2:])


def test_every_target_of_the_shipped_configs_exists() -> None:
    from dlwp.parts import locate

    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        for target in targets(yaml.safe_load(path.read_text(encoding="utf-8"))):
            assert target == "???" or callable(locate(target, name_of(path)))


def test_the_wheel_carries_the_configs_and_the_types(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"dlwp/configs/{path.relative_to(ROOT / 'configs')}" for path in (ROOT / "configs").rglob("*.yaml")}
    expected |= {f"dlwp/{path.relative_to(SOURCE)}" for path in FILES} | {"dlwp/py.typed", "dlwp/zoo.csv"}
    expected |= {"hydra_plugins/dlwp.py"}  # where Hydra looks for plugins
    assert expected <= held
    assert [name for name in held if name.endswith("licenses/LICENSE")]
    ours = ("dlwp/", "hydra_plugins/")
    assert not [name for name in held if not name.startswith(ours) and ".dist-info/" not in name]
