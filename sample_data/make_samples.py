"""Draws the sample pictures and writes the manifests: python sample_data/make_samples.py

All of them are made here, so nothing in this folder has another owner. Deterministic; the files it
makes are checked in, so nobody has to run it.
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageColor, ImageDraw, ImageFilter

HERE = Path(__file__).parent
IMAGES = HERE / "images"
ORIENTATION_TAG = 0x0112


def landscape(width: int, height: int, sky: str, ground: str, sun: str) -> Image.Image:
    """A sky that fades, hills, and a sun: enough like a photo for a JPEG."""
    image = Image.linear_gradient("L").resize((width, height))
    picture = Image.composite(Image.new("RGB", image.size, "white"), Image.new("RGB", image.size, sky), image)
    draw = ImageDraw.Draw(picture)
    r = height // 9
    draw.ellipse((width * 0.7 - r, height * 0.22 - r, width * 0.7 + r, height * 0.22 + r), fill=sun)
    for layer in range(3):
        base = height * (0.55 + 0.14 * layer)
        points = [
            (x, base + height * 0.07 * math.sin(x / width * (5 + 3 * layer) + 2 * layer))
            for x in range(0, width + 8, 8)
        ]
        shade = tuple(int(c * (1 - 0.22 * layer)) for c in ImageColor.getrgb(ground)[:3])
        draw.polygon([*points, (width, height), (0, height)], fill=shade)
    return picture.filter(ImageFilter.GaussianBlur(1))


def arrow_up(width: int, height: int, fill: str = "firebrick") -> Image.Image:
    """An arrow that points up when the picture is upright."""
    picture = landscape(width, height, "#8fb4d8", "#5c7a3d", "#ffd75e")
    draw = ImageDraw.Draw(picture)
    cx = width // 2
    draw.polygon(
        [(cx, height * 0.1), (cx - width * 0.2, height * 0.45), (cx + width * 0.2, height * 0.45)], fill
    )
    draw.rectangle([cx - width * 0.07, height * 0.45, cx + width * 0.07, height * 0.85], fill)
    return picture


def make_images() -> None:
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / "album").mkdir(exist_ok=True)
    landscape(800, 533, "#2d6cc0", "#3f7d3a", "#fff2a8").save(IMAGES / "1_meadow.jpg", quality=85)
    landscape(800, 533, "#d96f3a", "#4a3340", "#ffe9c7").save(IMAGES / "2_sunset.jpg", quality=85)
    landscape(600, 800, "#10203f", "#1c2a24", "#e9ecf5").save(IMAGES / "10_night.jpg", quality=85)
    landscape(2400, 1600, "#7fa6c9", "#8a7f62", "#fff6d0").save(IMAGES / "large.jpg", quality=80)

    # a phone held upright: stored lying on its side, EXIF says turn it by 90 degrees
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    arrow_up(600, 800).transpose(Image.Transpose.ROTATE_90).save(IMAGES / "phone.jpg", quality=85, exif=exif)

    landscape(640, 480, "#b0c4de", "#708238", "#fffacd").convert("CMYK").save(
        IMAGES / "scan_cmyk.jpg", quality=85
    )
    landscape(640, 480, "#888888", "#444444", "#eeeeee").convert("L").save(IMAGES / "grey.jpg", quality=85)

    sign = Image.new("RGBA", (400, 400), (0, 0, 0, 0))
    ImageDraw.Draw(sign).ellipse(
        (40, 40, 360, 360), fill=(200, 30, 40, 255), outline=(255, 255, 255, 255), width=24
    )
    sign.save(IMAGES / "sign_alpha.png", optimize=True)
    chart = Image.new("P", (480, 320), 0)
    chart.putpalette([255, 255, 255, 50, 90, 200, 60, 160, 70, 240, 140, 40])
    draw = ImageDraw.Draw(chart)
    for i, value in enumerate((90, 210, 150, 260)):
        draw.rectangle((40 + i * 110, 300 - value, 110 + i * 110, 300), fill=1 + i % 3)
    chart.save(IMAGES / "chart_palette.png", optimize=True)
    ramp = Image.linear_gradient("L").resize((320, 320)).convert("I").point(lambda value: value * 257)
    ramp.convert("I;16").save(IMAGES / "scan_16bit.png")
    landscape(500, 500, "#c8a2c8", "#556b2f", "#fff0f5").save(IMAGES / "album" / "square.webp", quality=80)
    frames = [Image.new("RGB", (200, 120), c) for c in ("#204080", "#802040")]
    frames[0].save(IMAGES / "album" / "blinking.gif", save_all=True, append_images=frames[1:], duration=400)

    whole = (IMAGES / "1_meadow.jpg").read_bytes()
    (IMAGES / "broken.jpg").write_bytes(whole[: len(whole) // 3])


def make_manifests() -> None:
    rows = [
        {"id": "meadow", "image": "images/1_meadow.jpg", "category": "landscape", "season": "summer"},
        {"id": "sunset", "image": "images/2_sunset.jpg", "category": "landscape", "season": "autumn"},
        {"id": "phone", "image": "images/phone.jpg", "category": "phone", "season": "summer"},
        {"id": "chart", "image": "images/chart_palette.png", "category": "diagram", "season": ""},
        {"id": "sign", "image": "images/sign_alpha.png", "category": "graphic", "season": ""},
        {"id": "scan", "image": "images/scan_cmyk.jpg", "category": "scanned", "season": "spring"},
    ]
    with (HERE / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with (HERE / "manifest.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
    pq.write_table(pa.Table.from_pylist(rows), HERE / "manifest.parquet")


if __name__ == "__main__":
    make_images()
    make_manifests()
