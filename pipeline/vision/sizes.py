"""Settings and model -> the size in which a picture is sent, and how many bytes it may have. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ..nouns.config import RunConfig
from .families import Size, within_pixels, within_side
from .models import BOUNDS, Bounds, VisionModel, vision_model


@dataclass(frozen=True, slots=True)
class ModelBounds:
    """The bounds of a run's pictures. model: None where only the user's settings count.

    base64_bytes: of one picture as it is sent, None: any. request_bytes: of all pictures of a row, None: any.
    """

    config: RunConfig
    model: VisionModel | None
    base64_bytes: int | None
    request_bytes: int | None

    def fit(self, width: int, height: int, count: int) -> Size:
        """The size to send, in pixels, never larger than the given one. count: pictures in the row."""
        if self.model is None:
            return _within_settings(width, height, self.config)
        return _fit(width, height, count, self.config, self.model)

    def canvas(self, width: int, height: int) -> Size:
        """That size with the border that the provider needs."""
        return (width, height) if self.model is None else _canvas(width, height, BOUNDS[self.model.provider])


def picture_bounds(config: RunConfig) -> ModelBounds:
    """The bounds of a run's pictures, by its model. Endpoints that call the model otherwise get the same pictures."""
    if config.image_rules == "none":
        return ModelBounds(config, None, config.max_bytes, config.max_request_bytes)
    model = vision_model(config.model, config.image_rules)
    bounds = BOUNDS[model.provider]
    return ModelBounds(
        config,
        model,
        config.max_bytes or bounds.base64_bytes,
        config.max_request_bytes or bounds.request_bytes,
    )


def _within_settings(width: int, height: int, config: RunConfig, usual_side: int | None = None) -> Size:
    if longest := config.max_side or usual_side:
        width, height = within_side(width, height, longest)
    if config.max_pixels:
        width, height = within_pixels(width, height, config.max_pixels)
    return width, height


def _fit(width: int, height: int, count: int, config: RunConfig, model: VisionModel) -> Size:
    bounds = BOUNDS[model.provider]
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
