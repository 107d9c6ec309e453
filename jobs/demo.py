"""captionmill demo [-o RUN]

Caption the sample images with the built-in endpoint, which it starts in this process: no key, no network, no
cost. Print the answers and the report, write report.html and the gallery, and print where the files are. One
sample is broken on purpose: a failed row is part of a normal run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import exit_codes
from .parser import Parser, user_path
from .signals import raise_interrupts

if TYPE_CHECKING:
    from captionmill.store.folder import RunFolder

SAMPLES = Path(__file__).resolve().parent.parent / "sample_data" / "images"
_TEXT_WIDTH = 96


def main(argv: list[str]) -> int:
    """Run the demo. Returns 0 if every sample was answered, except the broken one."""
    parser = Parser("captionmill demo", __doc__)
    parser.add_argument(
        "-o", "--output", type=user_path, default=Path("demo-captions"), help="the run folder [demo-captions]"
    )
    run_path = parser.parse(argv).output
    from captionmill.store.folder import RunFolder

    code = _caption_samples(run_path)
    _show(RunFolder(run_path))
    return exit_codes.ANSWERED if code == exit_codes.SOME_FAILED else code


def _caption_samples(run_path: Path) -> int:
    """Caption the samples. Returns the exit code of the run."""
    from captionmill.builtin.server import EndpointSettings, serving
    from captionmill.nouns.address import Address, chat_completions_url
    from captionmill.nouns.config import RunConfig
    from captionmill.wiring.session import Job

    from . import start

    config = RunConfig(model="gpt-4o", max_tokens=120, tpm=300_000)
    with serving(EndpointSettings(tokens_per_minute=300_000, latency_seconds=0.2)) as base_url:
        endpoint = Address(chat_completions_url(base_url), "demo-key")
        return start.run(Job(SAMPLES, run_path, config, (endpoint,)))


def _show(folder: RunFolder) -> None:
    """Print the answers and the report, write the pages, and print where everything is."""
    from captionmill.accounts.report import read_report
    from captionmill.pages.gallery import write_gallery
    from captionmill.pages.report_page import write_report

    from . import report

    raise_interrupts()
    print()
    _print_answers(folder)
    print()
    summary = read_report([folder])
    print(report.as_text(summary))
    print("(prices as if gpt-4o had answered; nothing was billed)\n")
    print(f"dataset   {folder.results}    pandas.read_parquet({str(folder.results)!r})")
    print(f"failures  {folder.failures}")
    print(f"report    {write_report(folder, summary)}")
    print(f"gallery   {write_gallery(folder)[0]}")


def _print_answers(folder: RunFolder) -> None:
    from captionmill.store import parts

    paths = sorted(folder.results.glob("*.parquet"))
    for batch in parts.read_batches(paths, ("id", "finish", "total_tokens", "content")):
        for row in batch.to_pylist():
            text = (row["content"] or "").removeprefix(
                "Measured by the built-in describer, which is no vision model: "
            )
            print(f"{row['id']:<20} {row['finish']:<6} {row['total_tokens']:>5}  {text[:_TEXT_WIDTH]}")


if __name__ == "__main__":
    from .__main__ import run_job

    sys.exit(run_job("demo", sys.argv[1:]))
