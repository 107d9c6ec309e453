"""Mutation run: change one rule of a module at a time and see whether its tests notice.

    python tests/mutants.py pipeline/rules/budget.py [MODULE ...] [--sample N --seed S] [--line L]

Each mutant goes into a scratch copy of the package, never into the checkout. The tests that guard the module (GUARDS)
run in a process of their own for each mutant. A mutant is
killed when a test fails or when the tests take far longer than without it. Survivors are printed as line, old -> new:
read each one and write the missing test, or say why it is equivalent. This is no part of CI: tens of minutes for all.

Mutations: comparisons and boundaries, arithmetic, and/or, not, numbers +-1, True/False, conditions negated, `return None`, and
statements removed. Annotations, docstrings, assertions and the words of messages stay.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import importlib
import importlib.util
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PRELOADED = ("pytest", "numpy", "pandas", "pyarrow.parquet", "aiohttp", "PIL.Image", "pydantic", "tenacity", "genai_prices")  # fmt: skip

RULES = ["tests/rules/test_rules.py", "tests/rules/test_usage.py"]
REPLIES = ["tests/rules/test_response.py", "tests/nouns/test_kinds.py"]
STORE = [
    "tests/store/test_journal.py",
    "tests/store/test_pending.py",
    "tests/store/test_part_writer.py",
    "tests/store/test_compatibility.py",
    "tests/store/test_repair.py",
    "tests/store/test_checkpoint.py",
]
FLOW = ["tests/rules/test_bucket.py", "tests/rules/test_concurrency.py", "tests/rules/test_at_the_limit.py"]
WIRING = [
    "tests/wiring/test_dispatcher.py",
    "tests/wiring/test_runner.py",
    "tests/wiring/test_paid_retries.py",
]
# module, or the folder of several -> the tests that guard it, the quickest first
GUARDS = {
    "pipeline/rules/budget.py": ["tests/accounts/test_budget.py"],
    "pipeline/rules/prices.py": ["tests/rules/test_prices.py", "tests/accounts/test_plan.py"],
    "pipeline/rules/follow_up.py": [*RULES, "tests/wiring/test_paid_retries.py"],
    "pipeline/rules/request.py": [*RULES, "tests/wiring/test_paid_retries.py", "tests/edges/test_chat.py"],
    "pipeline/rules/response.py": REPLIES,
    "pipeline/rules/envelopes.py": REPLIES,
    "pipeline/rules/error_table.py": REPLIES,
    "pipeline/rules/server_hints.py": REPLIES,
    "pipeline/rules/retry.py": [*RULES, *WIRING],
    "pipeline/rules/tokens.py": [*RULES, "tests/builtin/test_builtin.py"],
    "pipeline/rules/backoff.py": [*RULES, "tests/wiring/test_runner.py"],
    "pipeline/rules/flow": FLOW,
    "pipeline/rules": RULES,
    "pipeline/store/folder.py": [*STORE, "tests/wiring/test_session.py"],
    "pipeline/store/run_file.py": [*STORE, "tests/wiring/test_session.py"],
    "pipeline/store": STORE,
    "pipeline/wiring": WIRING,
}
# tests that start many processes or cost seconds; the promise they hold has quicker tests beside them
LEFT_OUT = "not slow and not any_crash and not at_a_kill and not lost_answers_count and not power_cut and not no_body_crashes"

SWAPS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.Mult,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
UNTOUCHED_FIELDS = {"annotation", "returns", "decorator_list", "type_params", "format_spec"}


class Mutant(NamedTuple):
    """One changed module. line: where; change: old -> new; source: the whole module's text."""

    line: int
    change: str
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a module, in the order of its lines; the tree is changed in place and put back."""
    tree = ast.parse(source)
    found = []
    for holder, key, node in _places(tree):
        for new in _alternatives(node):
            old_text = _line(node)
            _put(holder, key, new)
            found.append(
                Mutant(
                    node.lineno, f"{old_text}  ->  {_line(new)}", ast.unparse(ast.fix_missing_locations(tree))
                )
            )
            _put(holder, key, node)
    yield from sorted(found, key=lambda mutant: mutant.line)


def _places(parent: ast.AST) -> Iterator[tuple[Any, str | int, Any]]:
    """Every statement and expression below `parent` that may change, with the object and the key that hold it."""
    for field, value in ast.iter_fields(parent):
        if field in UNTOUCHED_FIELDS or isinstance(parent, ast.Assert):
            continue
        places = (
            [(value, i, v) for i, v in enumerate(value)]
            if isinstance(value, list)
            else [(parent, field, value)]
        )
        for holder, key, child in places:
            if isinstance(child, (ast.stmt, ast.expr)):
                yield holder, key, child
            if isinstance(child, ast.AST):
                yield from _places(child)


def _put(holder: Any, key: str | int, node: ast.AST) -> None:
    if isinstance(key, int):
        holder[key] = node
    else:
        setattr(holder, key, node)


def _line(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(node)).splitlines()[0][:90]


def _alternatives(node: ast.stmt | ast.expr) -> Iterator[ast.AST]:
    yield from _other_expressions(node)
    yield from _other_statements(node)


def _other_expressions(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=[op]):
            for swap in SWAPS[type(op)]:
                yield ast.copy_location(ast.Compare(node.left, [swap()], node.comparators), node)
        case ast.BinOp() if type(node.op) in SWAPS and not isinstance(node.left, ast.JoinedStr):
            for swap in SWAPS[type(node.op)]:
                yield ast.copy_location(ast.BinOp(node.left, swap(), node.right), node)
        case ast.BoolOp():
            for swap in SWAPS[type(node.op)]:
                yield ast.copy_location(ast.BoolOp(swap(), node.values), node)
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand
        case ast.Constant(value=bool()):
            yield ast.copy_location(ast.Constant(not node.value), node)
        case ast.Constant(value=int() | float()):
            for step in (1, -1):
                yield ast.copy_location(ast.Constant(node.value + step), node)


def _other_statements(node: ast.AST) -> Iterator[ast.AST]:
    """The conditions of if, while and x if y else z are here too."""
    match node:
        case ast.If() | ast.While() | ast.IfExp() if not isinstance(
            node.test, (ast.Compare, ast.UnaryOp, ast.Constant)
        ):
            changed = {**dict(ast.iter_fields(node)), "test": ast.UnaryOp(ast.Not(), node.test)}
            yield ast.copy_location(type(node)(**changed), node)
        case ast.AugAssign() if type(node.op) in SWAPS:
            yield ast.copy_location(ast.AugAssign(node.target, SWAPS[type(node.op)][0](), node.value), node)
            yield ast.copy_location(ast.Pass(), node)
        case ast.Return(value=ast.expr()) if not (
            isinstance(node.value, ast.Constant) and node.value.value is None
        ):
            yield ast.copy_location(ast.Return(ast.Constant(None)), node)
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.Raise() | ast.Continue() | ast.Break():
            yield ast.copy_location(ast.Pass(), node)
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.copy_location(ast.Pass(), node)


def scratch_package(folder: Path) -> Path:
    """A compiled copy of the package as `captionmill` below `folder`, which precedes the checkout's from here on."""
    package = folder / "captionmill"
    hidden = shutil.ignore_patterns("__pycache__")
    for source, target in (
        ("pipeline", package),
        ("jobs", package / "jobs"),
        ("sample_data", package / "sample_data"),
    ):
        shutil.copytree(ROOT / source, target, ignore=hidden)
    compileall.compile_dir(package, quiet=1)
    os.environ |= {
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # of the processes that tests start
    sys.path.insert(0, str(folder))
    return package


def run_tests(guards: list[str], log: Path, most_s: float) -> tuple[bool | None, float]:
    """Run the guarding tests in a fork. Returns: passed (None when the time was up), and the seconds taken."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            _pytest(guards, log)
        finally:  # also after an error: a fork must not go on as its parent
            os._exit(70)
    while (taken := time.monotonic() - started) < most_s:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status) == 0, taken
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None, taken


def _pytest(guards: list[str], log: Path) -> None:
    os.setsid()
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(1, 2)
    sys.dont_write_bytecode = True
    import pytest

    options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "-m", "not slow", "-k", LEFT_OUT]
    os._exit(int(pytest.main([*options, *guards])))


def guards_of(module: str) -> list[str]:
    """The tests of a module: of itself, or of the closest folder in GUARDS."""
    path = Path(module)
    return next(GUARDS[str(p)] for p in (path, *path.parents) if str(p) in GUARDS)


def check(module: str, chosen: argparse.Namespace, package: Path) -> None:
    """Run the mutants of one module and print its survivors and its figures."""
    target = package / Path(module).relative_to("pipeline")
    source = target.read_text()
    importlib.invalidate_caches()
    Path(importlib.util.cache_from_source(str(target))).unlink(missing_ok=True)
    log = package.parent / "log"
    passed, normal_s = run_tests(guards_of(module), log, 300)
    if not passed:
        sys.exit(f"{module}: the tests fail without a mutant:\n{log.read_text()[-3000:]}")
    all_of_them = [m for m in mutants(source) if chosen.line in {None, m.line}]
    sample = all_of_them
    if chosen.sample and chosen.sample < len(sample):
        sample = sorted(random.Random(chosen.seed).sample(sample, chosen.sample))
    print(
        f"{module}: {len(all_of_them)} mutants, {len(sample)} run, {normal_s:.1f} s each at most", flush=True
    )
    survived = timed_out = 0
    for mutant in sample:
        target.write_text(mutant.source)
        passed, _ = run_tests(guards_of(module), log, 4 * normal_s + 10)
        timed_out += passed is None
        if passed:
            survived += 1
            print(f"  survived: {module}:{mutant.line}: {mutant.change}", flush=True)
    target.write_text(source)
    killed = len(sample) - survived
    share = 100 * killed / max(1, len(sample))
    print(
        f"{module}: {killed} of {len(sample)} killed ({share:.0f} %), {timed_out} of them by time", flush=True
    )


def main() -> None:
    """The command line: see the head of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modules", nargs="+", help="paths from the checkout's root: pipeline/rules/budget.py")
    parser.add_argument(
        "--sample", type=int, help="run so many mutants of each module, by chance (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    parser.add_argument("--line", type=int, help="only the mutants of this line")
    chosen = parser.parse_args()
    os.chdir(ROOT)
    for name in PRELOADED:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        package = scratch_package(Path(folder))
        for module in chosen.modules:
            check(module, chosen, package)


if __name__ == "__main__":
    main()
