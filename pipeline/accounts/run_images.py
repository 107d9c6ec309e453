"""Where the images of a run lie, and how it showed them to the model: read from its run.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..nouns.config import IMAGE_DEFAULTS, Frame
from ..nouns.image_path import is_remote, resolve


@dataclass(frozen=True, slots=True)
class RunImages:
    """folder: the source, or the folder of the manifest. allow_outside, frame, background: the run's settings."""

    folder: str
    allow_outside: bool
    frame: Frame
    background: str

    @classmethod
    def of_run(cls, run: Mapping[str, Any]) -> RunImages:
        """From run.json, as `RunFolder.read_run` returns it. A setting that it lacks has its default."""
        settings = IMAGE_DEFAULTS | run["answer_settings"]
        source = Path(run["source"])
        return cls(
            folder=str(source if source.is_dir() else source.parent),
            allow_outside=bool(run.get("other_settings", {}).get("allow_outside", False)),
            frame=settings["frame"],
            background=settings["background"],
        )

    def path(self, image: str) -> str | None:
        """The file of an image as the dataset names it; None where it is a URL."""
        return None if is_remote(image) else resolve(self.folder, image, self.allow_outside)
