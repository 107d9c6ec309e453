"""Measures the house: sizes, seams and state, as a table of figure, bound and where the worst one is.

python tests/house.py prints the table and exits with 1 where a bound is broken. tests/test_layers.py holds the
bounds. Lines of a function are counted without its docstring.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
FLOW = ("pipeline/rules/flow/", "pipeline/rules/backoff.py", "pipeline/rules/retry.py")
# one for each request, handed out and given back: no state of the endpoint
HANDLES = (
    "Grant",
    "LimitGrant",
    "Admission",
    "Attempt",
    "Slot",
    "Ticket",
    "Answer",
    "_Waiter",
    "WindowEntry",
)
GATE = ("pipeline/rules/flow/", "pipeline/wiring/endpoint.py", "pipeline/wiring/dispatcher.py")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Figure:
    """One line of the table. bound: the largest value allowed. worst: where the largest value, or each case, is."""

    name: str
    value: float
    bound: float
    worst: str

    @property
    def is_kept(self) -> bool:
        return self.value <= self.bound


def trees() -> dict[str, ast.Module]:
    """Every file of library and commands, by its path."""
    files = [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "jobs").glob("*.py")]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in sorted(files)}


def figures() -> list[Figure]:
    """All figures of the house as it stands."""
    house = trees()
    functions = [(f"{path}:{n.lineno} {n.name}", n) for path, n in walk(house, Function)]
    classes = [(f"{path}:{n.lineno} {n.name}", n) for path, n in walk(house, ast.ClassDef)]
    lengths = [(length(n), where) for where, n in functions]
    callables = list(injected_callables(house))
    broad = [f"{path}:{n.lineno}" for path, n in walk(house, ast.ExceptHandler) if is_broad(n)]
    constants = [
        f"{path}:{n}" for path, tree in house.items() if path.startswith(FLOW) for n in numbers(tree)
    ]
    state = [f"{path} {c}.{f}" for path, c, f in mutable_fields(house) if path.startswith(GATE)]
    undocumented = [w for w, n in functions if is_public(w, n, house) and not ast.get_docstring(n)]
    return [
        Figure("function length, p90", p90([value for value, _ in lengths]), 18, ""),
        Figure("function length, longest", *largest(lengths, 50)),
        Figure("class length, longest", *largest([(length(n), w) for w, n in classes], 200)),
        Figure("methods a class, most", *largest([(len(methods(n)), w) for w, n in classes], 16)),
        Figure("fields a class, most", *largest([(len(fields(n)), w) for w, n in own_state(classes)], 12)),
        Figure("parameters, most", *largest([(width(n), w) for w, n in functions], 7)),
        Figure("handlers that catch everything", len(broad), 7, ", ".join(broad)),
        Figure("mutable fields that decide whether a request may go", len(state), 40, ", ".join(state)),
        Figure("constants in rate control", len(constants), 25, ", ".join(constants)),
        Figure("injected callables", len(callables), 0, ", ".join(callables)),
        Figure("public functions without a docstring", len(undocumented), 0, ", ".join(undocumented)),
    ]


def walk(house: dict[str, ast.Module], kind: type | object) -> Iterator[tuple[str, ast.AST]]:
    """Every node of a kind, with the path of its file."""
    for path, tree in house.items():
        for node in ast.walk(tree):
            if isinstance(node, kind):
                yield path, node


def length(node: ast.AST) -> int:
    """Lines of a function or class without its docstring."""
    doc = ast.get_docstring(node, clean=False)
    return node.end_lineno - node.lineno + 1 - (len(doc.splitlines()) if doc else 0)


def methods(node: ast.ClassDef) -> list[Function]:
    return [n for n in node.body if isinstance(n, Function)]


def fields(node: ast.ClassDef) -> set[str]:
    """Annotated names of the class and names that any method sets on self."""
    names = {
        n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
    }
    return names | set(assigned(node))


def assigned(node: ast.AST) -> Iterator[str]:
    """Names that are set on self below a node, `self.x += 1` and `self.x = ...`."""
    for n in ast.walk(node):
        targets = (
            n.targets
            if isinstance(n, ast.Assign)
            else [n.target]
            if isinstance(n, ast.AugAssign | ast.AnnAssign)
            else []
        )
        for target in targets:
            for part in ast.walk(target):
                if (
                    isinstance(part, ast.Attribute)
                    and isinstance(part.value, ast.Name)
                    and part.value.id == "self"
                ):
                    yield part.attr


def own_state(classes: list[tuple[str, ast.ClassDef]]) -> list[tuple[str, ast.ClassDef]]:
    """Classes with behaviour: records (frozen values, settings, rows of a report) may have as many fields as columns."""
    return [
        (w, n)
        for w, n in classes
        if any(not m.name.startswith("__") and not decorated(m) for m in methods(n)) and not is_record(n)
    ]


def decorated(node: Function) -> bool:
    return any(
        getattr(d, "id", getattr(d, "attr", ""))
        in ("property", "classmethod", "staticmethod", "field_validator", "model_validator")
        for d in (x.func if isinstance(x, ast.Call) else x for x in node.decorator_list)
    )


def is_record(node: ast.ClassDef) -> bool:
    frozen = any("frozen=True" in ast.unparse(d) for d in node.decorator_list)
    return frozen or any(
        ast.unparse(b) in ("BaseModel", "NamedTuple") or ast.unparse(b).endswith("Settings")
        for b in node.bases
    )


def width(node: Function) -> int:
    return len(node.args.args) + len(node.args.kwonlyargs) + len(node.args.posonlyargs)


def is_broad(node: ast.ExceptHandler) -> bool:
    return node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException")


def numbers(tree: ast.Module) -> list[str]:
    """Upper-case module constants that are numbers."""
    return [
        target.id
        for n in tree.body
        if isinstance(n, ast.Assign)
        and isinstance(n.value, ast.Constant)
        and isinstance(n.value.value, int | float)
        for target in n.targets
        if isinstance(target, ast.Name) and target.id.isupper()
    ]


def mutable_fields(house: dict[str, ast.Module]) -> Iterator[tuple[str, str, str]]:
    """(file, class, field) of what is set on self outside __init__, and of fields of records that are not frozen."""
    for path, node in walk(house, ast.ClassDef):
        if node.name in HANDLES:
            continue
        changed = {name for m in methods(node) if m.name != "__init__" for name in assigned(m)}
        is_open_record = node.decorator_list and "frozen=True" not in ast.unparse(node.decorator_list[0])
        if is_open_record and not changed:
            changed = {
                n.target.id
                for n in node.body
                if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
            }
        for name in sorted(changed):
            yield path, node.name, name


def injected_callables(house: dict[str, ast.Module]) -> Iterator[str]:
    """Bare callables that an object is given to keep: fields of a class, and arguments of its __init__."""
    for path, node in walk(house, ast.ClassDef):
        given = [n for n in node.body if isinstance(n, ast.AnnAssign)]
        for method in methods(node):
            if method.name == "__init__":
                given += [*method.args.args, *method.args.kwonlyargs]
        for n in given:
            if n.annotation is not None and "Callable" in ast.unparse(n.annotation):
                yield f"{path}:{n.lineno}"


def is_public(where: str, node: Function, house: dict[str, ast.Module]) -> bool:
    """A function or method that other files may call: at module level or in a public class, not a Protocol's stub."""
    path = where.split(":", maxsplit=1)[0]
    tree = house[path]
    owners = [tree, *(c for c in tree.body if isinstance(c, ast.ClassDef) and not c.name.startswith("_"))]
    return not node.name.startswith("_") and any(node in owner.body for owner in owners)


def largest(values: list[tuple[int, str]], bound: float) -> tuple[float, float, str]:
    value, where = max(values)
    return value, bound, where


def p90(values: list[int]) -> float:
    return statistics.quantiles(values, n=10)[-1]


def main() -> int:
    """Print the table. Returns 1 where a bound is broken."""
    table = figures()
    for figure in table:
        print(
            f"{'ok  ' if figure.is_kept else 'OVER'} {figure.name:<52} {figure.value:>6g} of {figure.bound:>4g}  {figure.worst[:400] if not figure.is_kept else figure.worst[:90]}"
        )
    return 0 if all(figure.is_kept for figure in table) else 1


if __name__ == "__main__":
    sys.exit(main())
