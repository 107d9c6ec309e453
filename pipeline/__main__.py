"""python -m captionmill ... is the same as the command captionmill."""

from __future__ import annotations

import sys

from .jobs.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
