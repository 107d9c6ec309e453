"""The table of formats. A new one takes one file and one line here."""

from __future__ import annotations

from .csv_file import CsvFile
from .documents import AltText, Coco, LabelStudio
from .json_lines import JsonRows
from .picture_files import DiffusionPipe, ImageFolder
from .shards import HuggingFaceParquet, WebDataset
from .sidecar import Sidecar
from .work import Format
from .xmp import Xmp

FORMATS: dict[str, Format] = {
    "txt": Sidecar(".txt"),
    "caption": Sidecar(".caption"),
    "kohya": JsonRows("kohya"),
    "kohya-json": JsonRows("kohya-json"),
    "csv": CsvFile(),
    "jsonl": JsonRows("jsonl"),
    "chat": JsonRows("chat"),
    "axolotl": JsonRows("axolotl"),
    "llava": JsonRows("llava"),
    "metadata": ImageFolder(),
    "parquet": HuggingFaceParquet(),
    "webdataset": WebDataset(),
    "diffusion-pipe": DiffusionPipe(),
    "label-studio": LabelStudio(),
    "coco": Coco(),
    "xmp": Xmp(),
    "alt-text": AltText(),
}
