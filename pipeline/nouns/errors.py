"""Failures, named by what the run does next.

    CaptionmillError
    ├── UsageError         wrong flags, configuration or manifest: nothing was sent          exit 2
    ├── RowError           this row cannot be answered: write it down, go on
    ├── TransientError     the same request may well succeed: again; where the server names a time,
    │   │                  everybody who shares the limit waits first
    │   ├── RateLimited    ... everybody waits in any case; not paid for, so no attempt of the row
    │   ├── ServerBusy     ... overloaded or broken for a moment
    │   └── ConnectionLost ... no (whole) answer came back
    └── RunError           no row can be answered now: stop, resumable                       exit 3
        └── AccountError   the endpoint said so (key, quota, model): believed when it repeats

Each is handled in one place: `runner` for rows and runs, `jobs` for exit codes.
A finish_reason of length or content_filter is data, not an error.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path


class CaptionmillError(Exception):
    """Base of every failure this program names itself. The message is written for the user."""


class UsageError(CaptionmillError):
    """The command, the configuration or the manifest is wrong; nothing was sent."""


class AnswerError(CaptionmillError):
    """What one attempt for one row came to, when it was no answer.

    kind: short stable word for the `error_kind` column.
    http_status: None where no status line was received. has_usage: the server counted tokens for it all the same.
    """

    has_usage = False

    def __init__(self, message: str, *, kind: str, http_status: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.http_status = http_status


class RowError(AnswerError):
    """This row cannot be answered; the others can."""


class TransientError(AnswerError):
    """Trying the same request again may help.

    retry_after_seconds: what the server asked for; None where it did not say.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: str,
        http_status: int | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, kind=kind, http_status=http_status)
        self.retry_after_seconds = retry_after_seconds


class RateLimited(TransientError):
    """A limit was hit, and nothing was charged.

    names: the limit that its words or headers name: "tokens", "requests", or "at_once"; None where they name none.
    """

    names: str | None = None


class ServerBusy(TransientError):
    """Overloaded, or a fault that passes."""


class ConnectionLost(TransientError):
    """No answer, or only a part of one."""


class RunError(AnswerError):
    """Nothing can be answered any more; what is done is safe and the run can be resumed."""


class AccountError(RunError):
    """The endpoint refuses the key, the money or the model: true for every row, if it repeats."""


_DISK_KINDS = {
    errno.EACCES: "no_access",
    errno.EPERM: "no_access",
    errno.EROFS: "no_access",
    errno.EMFILE: "open_files",
    errno.ENFILE: "open_files",
    errno.ENOENT: "folder_gone",
}


def disk_error(path: Path | str, verb: str, error: OSError) -> RunError:
    """What the system has against reading or writing a file; its kind says what somebody can do about it."""
    reason = str(error) if error.errno is None else os.strerror(error.errno)
    return RunError(f"{path}: cannot be {verb} ({reason})", kind=_DISK_KINDS.get(error.errno or 0, "disk"))
