"""Where the images of a run lie, and how it showed them to the model: read from its run.json."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..nouns.config import IMAGE_DEFAULTS, Frame
from ..nouns.errors import UsageError
from ..nouns.image_path import is_remote, resolve
from ..sources.manifest import Manifest


@dataclass(frozen=True, slots=True)
class RunImages:
    """source: of the run. folder: the source, or the folder of the manifest. allow_outside, frame, background: the run's
    settings."""

    source: Path
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
            source=source,
            folder=str(source if source.is_dir() else source.parent),
            allow_outside=bool(run.get("other_settings", {}).get("allow_outside", False)),
            frame=settings["frame"],
            background=settings["background"],
        )

    def path(self, image: str) -> str | None:
        """The file of an image as the dataset names it; None where it is a URL."""
        return None if is_remote(image) else resolve(self.folder, image, self.allow_outside)

    def embedded(self, names: Set[str]) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of those images that stand in the manifest itself. Reads it once, a row at a time.

        names: as the dataset has them. Nothing where the source is a folder, is gone, or cannot be read any more.
        """
        if not names or not self.source.is_file():
            return
        with contextlib.suppress(UsageError):
            manifest = Manifest(self.source, "", allow_outside=True, allow_remote=True)
            first = next(manifest.rows(with_pictures=True), None)
            if first is None or not first.embedded:
                return
            manifest.survey()
            for row in manifest.rows():
                for name, (_, data) in zip(row.images, row.embedded, strict=False):
                    if name in names:
                        yield name, data
