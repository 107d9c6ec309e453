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
from captionmill.builtin.server import EndpointSettings, serving  # noqa: E402
from PIL import Image, ImageChops  # noqa: E402

ROWS = 2000
ONLY_THE_TOP = """for (const head of [...document.querySelectorAll("h2")].slice(1))
  for (let part = head, next; part; part = next) { next = part.nextElementSibling; part.remove(); }"""
FAULTS = {"500": 0.02, "429": 0.01, "reset": 0.01, "truncate": 0.005}


def main() -> None:
    """Caption the samples again and again at a limit, report by category, take the picture."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_manifest(Path("photos.csv"))
        settings = EndpointSettings(
            tokens_per_minute=300_000, starts_empty=True, latency_seconds=2, faults=FAULTS
        )
        with serving(settings) as url:
            arguments = ["photos.csv", "--model", "gpt-4o", "--max-tokens", "120", "--tpm", "300000"]
            call(url, "caption", *arguments, "-o", "photos-captions")
        call("", "report", "photos-captions", "--by", "extra.category")
        with browser.opened(browser.find() or "chromium") as chromium:
            page = chromium.new_page().show(Path("photos-captions/report.html"), (1100, 1000))
            page.evaluate(
                f"document.body.innerHTML = document.body.innerHTML.replaceAll('{Path.cwd()}/', '')"
            )
            page.evaluate(ONLY_THE_TOP)
            page.screenshot(Path("report.png"))
        with Image.open("report.png") as shot:
            picture = shot.convert("RGB")
            paper = Image.new("RGB", picture.size, picture.getpixel((0, 0)))
            bottom = (ImageChops.difference(picture, paper).getbbox() or (0, 0, 0, picture.height))[3]
            picture.crop((0, 0, picture.width, bottom + 16)).quantize(128).save(
                ROOT / "docs/report.png", optimize=True
            )


def write_manifest(path: Path) -> None:
    samples = sorted(p for p in (ROOT / "sample_data/images").rglob("*.*") if p.stem != "broken")
    lines = [
        f"{n},{samples[n % len(samples)]},{samples[n % len(samples)].stem.split('_')[0]}" for n in range(ROWS)
    ]
    path.write_text("id,image,category\n" + "\n".join(lines) + "\n")


def call(base_url: str, *arguments: str) -> None:
    env = os.environ | {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "any", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "captionmill", *arguments], env=env, check=False)


if __name__ == "__main__":
    main()
