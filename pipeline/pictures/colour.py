"""CMYK, LAB and embedded ICC profiles -> sRGB, which every server assumes.

Little CMS makes the transforms: relative colorimetric with black point compensation. One is made for each
profile and kept, since all photos of a camera have the same profile. A profile that does not match its picture
or cannot be read is ignored.
"""

from __future__ import annotations

import io
from functools import lru_cache
from itertools import product

from PIL import Image, ImageChops, ImageCms

# levels of 255; sRGB profiles of other makers and versions differ by less, which is not visible
_MAX_DIFFERENCE = 5
_SPACES = {"RGB": "RGB", "RGBA": "RGB", "L": "GRAY", "CMYK": "CMYK"}
_LEVELS = (0, 32, 64, 96, 128, 160, 192, 224, 255)


def is_srgb(profile: bytes | None, mode: str) -> bool:
    """Whether pixels are sRGB already: the profile is sRGB by any name, or does not match the mode.

    profile: ICC, None where there is none. mode: Pillow's.
    """
    return profile is None or _transform(profile, mode) is None


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The same picture in sRGB, alpha unchanged.

    image: L, LA, RGB, RGBA, CMYK or LAB. profile: ICC, None where there is none. Returns L, LA, RGB or RGBA.
    """
    if image.mode == "LAB":
        return _apply(image, _lab_transform())
    if image.mode == "LA" and profile:
        grey, alpha = image.split()
        colour = to_srgb(grey, profile).convert("RGB")
        colour.putalpha(alpha)
        return colour
    transform = _transform(profile, image.mode) if profile and image.mode in _SPACES else None
    if transform is not None:
        return _apply(image, transform)
    return image.convert("RGB") if image.mode == "CMYK" else image


def _apply(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    return ImageCms.applyTransform(image, transform) or image


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """None where nothing has to be done: already sRGB, or a profile for another mode."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _SPACES.get(mode):
            return None
        target = "RGBA" if mode == "RGBA" else "RGB"
        transform = _to_srgb(source, mode, target)
        return None if _moves_nothing(transform, mode) else transform
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


@lru_cache(maxsize=1)
def _lab_transform() -> ImageCms.ImageCmsTransform:
    return _to_srgb(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB", "RGB")


def _to_srgb(source: ImageCms.ImageCmsProfile, mode: str, target: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        source,
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
        mode,
        target,
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


def _moves_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether colours from all over the RGB cube come out as they went in."""
    if mode == "CMYK":
        return False
    colours = product(_LEVELS, repeat=3)
    cube = Image.new("RGB", (len(_LEVELS) ** 3, 1))
    cube.putdata([(r, r, r) if mode == "L" else (r, g, b) for r, g, b in colours])
    moved = _apply(cube.convert(mode), transform).convert("RGB")
    difference = ImageChops.difference(cube, moved)
    return max(high for _, high in difference.getextrema()) <= _MAX_DIFFERENCE  # type: ignore[misc]
