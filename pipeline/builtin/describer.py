"""A picture -> what was really measured in it: size, shape, brightness, contrast, colours by name."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass

from PIL import Image, ImageStat

MOST_PIXELS = 100_000_000
_SAMPLE_SIDE_PX = 64
_MOST_COLOURS = 3

# red, green, blue of the names people use; the nearest one is taken
_COLOURS = {
    "black": (15, 15, 15), "dark grey": (70, 70, 70), "grey": (128, 128, 128), "light grey": (195, 195, 195),
    "white": (245, 245, 245), "red": (205, 40, 40), "dark red": (115, 20, 25), "orange": (240, 140, 40),
    "brown": (120, 75, 40), "beige": (220, 200, 165), "yellow": (240, 220, 60), "olive": (125, 125, 50),
    "green": (60, 160, 70), "dark green": (25, 75, 40), "light green": (160, 215, 150), "teal": (30, 130, 130),
    "cyan": (90, 205, 220), "light blue": (150, 190, 230), "blue": (50, 90, 200), "dark blue": (25, 35, 95),
    "purple": (120, 60, 160), "pink": (240, 160, 190), "magenta": (210, 50, 150),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """width, height in pixels. brightness, contrast: 0 to 255 (mean and deviation of the luminance)."""

    format: str
    width: int
    height: int
    brightness: float
    contrast: float
    colours: tuple[str, ...]

    @property
    def shape(self) -> str:
        """landscape, portrait or square."""
        ratio = self.width / self.height
        if 0.95 <= ratio <= 1.05:
            return "square"
        return "landscape" if ratio > 1 else "portrait"

    @property
    def brightness_word(self) -> str:
        """dark, medium or bright."""
        return {"of medium brightness": "medium"}.get(word := _brightness_word(self.brightness), word)

    def facts(self) -> dict[str, object]:
        """What was measured, in words."""
        return asdict(self) | {"shape": self.shape}


def measure(data: bytes) -> PictureFacts:
    """Decode a picture and measure it. Raises ValueError for what is no whole picture."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "GIF", "WEBP")) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise ValueError(f"{width} x {height} pixels are too many")
            image.draft("RGB", (_SAMPLE_SIDE_PX, _SAMPLE_SIDE_PX))
            image.load()
            sample = image.convert("RGBA").convert("RGB").resize((_SAMPLE_SIDE_PX, _SAMPLE_SIDE_PX))
            format_name = "jpeg" if image.format in ("JPEG", "MPO") else str(image.format).lower()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error
    luminance = ImageStat.Stat(sample.convert("L"))
    return PictureFacts(
        format_name,
        width,
        height,
        round(luminance.mean[0], 1),
        round(luminance.stddev[0], 1),
        _dominant_colours(sample),
    )


def describe(measured: PictureFacts, variant: int = 0) -> str:
    """The measurements in words. variant: another order of the same facts, for n > 1."""
    m = measured
    facts = [
        f"a {m.shape} picture of {m.width} x {m.height} pixels",
        f"{_brightness_word(m.brightness)} (mean luminance {m.brightness:.0f} of 255)",
        f"with {_contrast_word(m.contrast)} contrast",
        f"mostly {' and '.join(m.colours)}",
    ]
    turn = variant % len(facts)
    text = ", ".join(facts[turn:] + facts[:turn])
    return f"Measured by the built-in describer, which is no vision model: {text}."


def _brightness_word(mean: float) -> str:
    return "dark" if mean < 70 else "bright" if mean > 180 else "of medium brightness"


def _contrast_word(deviation: float) -> str:
    return "low" if deviation < 25 else "strong" if deviation > 65 else "moderate"


def _dominant_colours(sample: Image.Image) -> tuple[str, ...]:
    """Names of the colours that cover most of the picture, the largest first."""
    reduced = sample.quantize(8)
    palette = reduced.getpalette() or []
    areas: dict[str, int] = {}
    for count, index in sorted(reduced.getcolors() or [], reverse=True):
        assert isinstance(index, int)  # noqa: S101  a palette picture counts by index
        name = _nearest_name(palette[3 * index], palette[3 * index + 1], palette[3 * index + 2])
        areas[name] = areas.get(name, 0) + count
    ordered = sorted(areas, key=lambda name: -areas[name])
    large = [name for name in ordered if areas[name] > 0.08 * _SAMPLE_SIDE_PX**2]
    return tuple(large[:_MOST_COLOURS] or ordered[:1])


def _nearest_name(red: int, green: int, blue: int) -> str:
    def distance(name: str) -> int:
        r, g, b = _COLOURS[name]
        return 3 * (red - r) ** 2 + 4 * (green - g) ** 2 + 2 * (blue - b) ** 2

    return min(_COLOURS, key=distance)
