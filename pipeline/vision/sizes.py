"""Settings and model -> the size in which a picture is sent, and how many bytes it may have. Pure."""

from __future__ import annotations

from dataclasses import replace

from ..nouns.config import RunConfig
from ..nouns.rows import PictureBounds
from .families import Size, within_pixels, within_side
from .models import BOUNDS, Bounds, VisionModel, vision_model


def picture_bounds(config: RunConfig) -> PictureBounds:
    """The bounds of a run's pictures, by its model. Endpoints that call the model otherwise get the same pictures."""
    own = PictureBounds(
        fit=lambda width, height, count: _within_settings(width, height, config),  # noqa: ARG005
        base64_bytes=config.max_bytes,
        request_bytes=config.max_request_bytes,
    )
    if config.image_rules == "none":
        return own
    model = vision_model(config.model, config.image_rules)
    bounds = BOUNDS[model.provider]
    return replace(
        own,
        fit=lambda width, height, count: _fit(width, height, count, config, model, bounds),
        canvas=lambda width, height: _canvas(width, height, bounds),
        base64_bytes=config.max_bytes or bounds.base64_bytes,
        request_bytes=config.max_request_bytes or bounds.request_bytes,
    )


def _within_settings(width: int, height: int, config: RunConfig, usual_side: int | None = None) -> Size:
    if longest := config.max_side or usual_side:
        width, height = within_side(width, height, longest)
    if config.max_pixels:
        width, height = within_pixels(width, height, config.max_pixels)
    return width, height


def _fit(width: int, height: int, count: int, config: RunConfig, model: VisionModel, bounds: Bounds) -> Size:
    usual_side = None if config.detail == "original" else model.usual_side
    width, height = _within_settings(width, height, config, usual_side)
    if bounds.many is not None and bounds.side_of_many and count > bounds.many:
        width, height = within_side(width, height, bounds.side_of_many)
    return model.family.keeps(width, height, config.detail)


def _canvas(width: int, height: int, bounds: Bounds) -> Size:
    """The size with the border that a provider needs around a narrow strip, which some refuse."""
    width, height = max(width, bounds.min_side), max(height, bounds.min_side)
    if bounds.ratio:
        shortest = -(-max(width, height) // bounds.ratio)
        width, height = max(width, shortest), max(height, shortest)
    return width, height
