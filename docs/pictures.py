"""Draws docs/pictures.png: sample files as a server that takes them as they are sees them, and as they are sent.

python docs/pictures.py
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from captionmill.nouns.config import RunConfig  # noqa: E402  found beside this folder
from captionmill.pictures.prepare import PicturePreparer  # noqa: E402
from captionmill.vision.sizes import picture_bounds  # noqa: E402

CELL = 190
GAP = 14
LINE = 20
SAMPLES = {
    "turned by EXIF": "phone.jpg",
    "transparent": "sign_alpha.png",
    "16 bits": "scan_16bit.png",
}


def as_stored(path: Path) -> Image.Image:
    """Decoded and nothing else."""
    return Image.open(path).convert("RGB")


def as_sent(path: Path) -> Image.Image:
    config = RunConfig(model="gpt-4o")
    picture = PicturePreparer(config, picture_bounds(config)).prepare(str(path), path.read_bytes())
    return Image.open(io.BytesIO(base64.b64decode(picture.base64))).convert("RGB")


def main() -> None:
    width = len(SAMPLES) * (CELL + GAP) + GAP
    sheet = Image.new("RGB", (width, 2 * (CELL + LINE + GAP) + LINE + GAP), "#e8e8e8")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column, (title, name) in enumerate(SAMPLES.items()):
        path, left = ROOT / "sample_data/images" / name, GAP + column * (CELL + GAP)
        draw.text((left, GAP // 2), title, "black", font)
        for row, (label, see) in enumerate(
            (("taken as it is", as_stored), ("as captionmill sends it", as_sent))
        ):
            top = LINE + GAP + row * (CELL + LINE + GAP)
            image = see(path)
            image.thumbnail((CELL, CELL))
            sheet.paste(image, (left, top))
            draw.text((left, top + CELL + 2), label, "#555555", font)
    sheet.quantize(256).save(ROOT / "docs/pictures.png", optimize=True)


if __name__ == "__main__":
    main()
