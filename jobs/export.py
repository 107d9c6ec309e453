"""captionmill export RUN [RUN ...] --to FORMAT[,FORMAT ...] [--out DIR]

Write the answers in the formats of other tools. A second call writes what is new or changed; --check only says what
it would write. A file that no export wrote stays as it is. Works while the run goes on.

  captionmill export photos-captions --to txt                     a .txt beside each picture
  captionmill export photos-captions --to kohya,csv --out train
  captionmill export photos-captions --preview 10 --strip-openings --trigger "ohwx style"
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from captionmill.nouns.errors import UsageError

from . import exit_codes
from .parser import Parser, positive
from .signals import raise_interrupts

if TYPE_CHECKING:
    from captionmill.exports.output import Summary
    from captionmill.exports.rows import Selection
    from captionmill.exports.run import Order


def main(argv: list[str]) -> int:
    """Write the formats and print one line for each. Raises UsageError for a wrong format, column or run folder."""
    return _export(_parser().parse(argv))


def _parser() -> Parser:
    parser = Parser("captionmill export", __doc__)
    add = parser.add_argument
    add("run", type=Path, nargs="+", help="the run folder, or several")
    add(
        "--to",
        default="",
        metavar="FORMAT,...",
        help="txt, caption, kohya, kohya-json, csv, jsonl, chat, axolotl, llava, metadata, parquet, webdataset, diffusion-pipe, label-studio, coco, xmp, alt-text",
    )
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="write below this folder [txt, caption: beside the pictures; others: RUN/exports/FORMAT]",
    )
    add("--text", default="content", metavar="COLUMN", help="the column whose text is written [content]")
    add(
        "--filter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="only rows with this text in this column; may be repeated",
    )
    add(
        "--only",
        choices=("answered", "reviewed", "accepted"),
        default="answered",
        help="which rows [answered]",
    )
    add("--check", action="store_true", help="say what would be written, and write nothing")
    add(
        "--preview",
        type=positive,
        metavar="N",
        help="print the first N texts before and after, and write nothing",
    )
    _add_file_settings(parser)
    _add_text_settings(parser)
    return parser


def _add_file_settings(parser: Parser) -> None:
    add = parser.add_argument
    add("--overwrite", action="store_true", help="also replace files that no export wrote")
    add("--append", action="store_true", help="txt, caption: add the text to what is there, after a comma")
    add(
        "--pictures",
        choices=("symlink", "hardlink", "copy"),
        default="symlink",
        help="metadata, diffusion-pipe with --out: how pictures get there [symlink]",
    )
    add(
        "--shard-size",
        type=positive,
        default=500,
        metavar="MB",
        help="webdataset, parquet: megabytes of pictures in a shard [500]",
    )


def _add_text_settings(parser: Parser) -> None:
    add = parser.add_argument
    add("--strip-openings", action="store_true", help='remove "The image shows" and the like')
    add("--trigger", default="", metavar="WORDS", help="words before each text")
    add("--trigger-after", default="", metavar="WORDS", help="words after each text")
    add("--max-chars", type=positive, metavar="N", help="end at a sentence within N characters")
    add(
        "--max-clip-tokens",
        type=positive,
        metavar="N",
        help="the same within N tokens of CLIP, estimated; it reads 77",
    )
    add(
        "--replace",
        action="append",
        default=[],
        metavar="FIND=PUT",
        help="replace one text by another; may be repeated",
    )
    parser.rare(add("--lower", action="store_true", help="lower case"))
    parser.rare(add("--unique-tags", action="store_true", help="a comma-separated list of tags, each once"))
    parser.rare(
        add(
            "--keep-lines",
            action="store_true",
            help="keep line breaks; most trainers then read the first line only",
        )
    )


def _export(arguments: Namespace) -> int:
    from captionmill.exports.run import Order, run_export
    from captionmill.exports.work import Options

    raise_interrupts()
    if arguments.only != "answered":
        raise UsageError(
            f"--only {arguments.only}: there are no reviews yet; leave it out for all answered rows"
        )
    formats = [name.strip() for name in arguments.to.split(",") if name.strip()]
    if not formats and not arguments.preview:
        raise UsageError("--to is needed, for example --to txt")
    order = Order(
        runs=arguments.run,
        formats=formats,
        selection=_selection(arguments),
        options=Options(arguments.append, arguments.pictures, arguments.shard_size * 1_000_000),
        out=arguments.out,
        is_check=arguments.check,
        overwrite=arguments.overwrite,
    )
    if arguments.preview:
        return _preview(order, arguments.preview)
    for name, summary in run_export(order).items():
        print("\n".join(_lines(name, summary, arguments.check)))
    return exit_codes.ANSWERED


def _selection(arguments: Namespace) -> Selection:
    from captionmill.exports.caption_text import TextSettings
    from captionmill.exports.rows import Selection

    settings = TextSettings(
        strip_openings=arguments.strip_openings,
        replace=tuple(_pair("--replace", text) for text in arguments.replace),
        lower=arguments.lower,
        unique_tags=arguments.unique_tags,
        one_line=not arguments.keep_lines,
        max_chars=arguments.max_chars,
        max_tokens=arguments.max_clip_tokens,
        trigger=arguments.trigger,
        trigger_after=arguments.trigger_after,
    )
    return Selection(tuple(_pair("--filter", text) for text in arguments.filter), arguments.text, settings)


def _pair(flag: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{flag} {text!r}: two texts with = between them are needed")
    return name, value


def _preview(order: Order, count: int) -> int:
    from captionmill.exports.names import shown
    from captionmill.exports.run import preview

    for entry in preview(order, count):
        print(f"{shown(entry.id)}\n  answer   {entry.raw!r}\n  caption  {entry.text!r}")
    return exit_codes.ANSWERED


def _lines(name: str, summary: Summary, is_check: bool) -> list[str]:
    """What one format did."""
    verb = "would write" if is_check else "wrote"
    counts = f"{verb} {summary.written:,} new and {summary.changed:,} changed files; {summary.unchanged:,} unchanged"
    lines = [f"{name}: {counts}"]
    if summary.joined:
        lines.append(f"  {summary.joined:,} texts had several lines, now one; --keep-lines keeps them")
    for reason, count in summary.skipped.items():
        more = ", ..." if count > len(summary.names[reason]) else ""
        lines.append(f"  skipped {count:,}: {reason}: {', '.join(summary.names[reason])}{more}")
    return lines


if __name__ == "__main__":
    from .__main__ import run_job

    sys.exit(run_job("export", sys.argv[1:]))
