"""One export: rows of some runs into some formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from ..nouns.errors import UsageError
from .formats import FORMATS
from .output import Ledger, Output, Summary
from .rows import Entry, Rows, Selection, Watcher, check_columns
from .work import Options, Work


@dataclass(frozen=True, slots=True)
class Order:
    """runs: run folders, at least one. formats: names of `FORMATS`. out: None for the usual places, which are beside
    the pictures for txt and caption, and RUN/exports/FORMAT of the first run for the others. is_check: write
    nothing. overwrite: also what no export wrote."""

    runs: Sequence[Path]
    formats: Sequence[str]
    selection: Selection = field(default_factory=Selection)
    options: Options = field(default_factory=Options)
    out: Path | None = None
    is_check: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in self.formats:
            if name not in FORMATS:
                raise UsageError(
                    f"--to {name}: no format of this name; one of {', '.join(FORMATS)} is needed"
                )


def run_export(order: Order, watcher: Watcher | None = None) -> dict[str, Summary]:
    """Write all formats of the order; what each did, by its name.

    Works while the run goes on: all formats show the rows of one moment. Raises UsageError before anything is
    written where the order does not fit the run, RunError where a file cannot be read or the disk is full.
    """
    rows = Rows(order.runs, order.selection, watcher)
    check_columns(rows)
    ledger = Ledger(order.runs)
    found: dict[str, Summary] = {}
    try:
        for name in order.formats:
            found[name] = Summary()
            output = Output(ledger, found[name], is_check=order.is_check, overwrite=order.overwrite)
            folder = order.runs[0] / "exports" / name
            FORMATS[name].write(Work(rows, output, order.options, order.out, folder))
    finally:
        ledger.close()
    return found


def preview(order: Order, count: int) -> list[Entry]:
    """The first rows with their finished text; nothing is written. Raises as `run_export` does."""
    rows = Rows(order.runs, order.selection)
    check_columns(rows)
    return list(islice(rows, count))
