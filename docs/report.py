"""Makes docs/report.png: a real run against the built-in endpoint, its report.html in a headless Chromium.

python docs/report.py        takes about four minutes, from a checkout with the package and its test extra
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import browser  # noqa: E402  of the tests

from pipeline.endpoint.server import EndpointSettings, serving  # noqa: E402

ROWS = 2000
FAULTS = {"500": 0.02, "429": 0.01, "reset": 0.01, "truncate": 0.005}


def main() -> None:
    """Caption the samples again and again at a limit, report by category, take the picture."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_manifest(Path("photos.csv"))
        with serving(EndpointSettings(tokens_per_minute=300_000, latency_seconds=2, faults=FAULTS)) as url:
            arguments = [
                "photos.csv",
                "--model",
                "gpt-4o",
                "--max-tokens",
                "120",
                "--tpm",
                "300000",
                "-o",
                "photos-captions",
            ]
            call(url, "caption", *arguments)
        call("", "report", "photos-captions", "--by", "extra.category")
        with browser.opened(browser.find() or "chromium") as chromium:
            page = chromium.new_page().show(Path("photos-captions/report.html"), (1100, 1000))
            page.evaluate(
                "document.querySelectorAll('h2').forEach((h, n) => { if (n) { let e = h; while (e) { const next = e.nextElementSibling; e.remove(); e = next; } } })"
            )
            page.screenshot(ROOT / "docs/report.png")


def write_manifest(path: Path) -> None:
    samples = sorted(p for p in (ROOT / "sample_data/images").rglob("*.*") if p.stem != "broken")
    lines = [
        f"{n},{samples[n % len(samples)]},{samples[n % len(samples)].stem.split('_')[0]}" for n in range(ROWS)
    ]
    path.write_text("id,image,category\n" + "\n".join(lines) + "\n")


def call(base_url: str, *arguments: str) -> None:
    env = os.environ | {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "any", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "jobs", *arguments], env=env, check=False)


if __name__ == "__main__":
    main()
