"""captionmill label SOURCE --labels CAT,DOG,... | --schema FILE [-o RUN] --model MODEL [settings]

Label every image of a folder, or every row of a manifest: with one of your classes, with several (--multi), or with
JSON that fits your schema. Each label in the dataset is valid; a row without a valid label is a failed row. All else is
as in `captionmill caption`: the same settings, the same command again to resume.

  captionmill label photos/ --model gpt-4o-mini --labels "cat=a domestic cat,dog,other"
  captionmill label photos/ --model gpt-4o-mini --schema schema.json --max-tokens 200
"""

from __future__ import annotations

import sys

from captionmill.nouns.errors import UsageError

from . import caption
from .arguments import read_settings


def main(argv: list[str]) -> int:
    """Parse, run, print the summary. Raises UsageError before anything is sent."""
    parser = caption.parser_of("captionmill label", __doc__)
    config = read_settings(parser.parse(argv))
    if config.labels is None and config.label_schema is None:
        raise UsageError("--labels cat,dog,other or --schema FILE is needed")
    return caption.run_with(parser.parse(argv))


if __name__ == "__main__":
    from .__main__ import run_job

    sys.exit(run_job("label", sys.argv[1:]))
