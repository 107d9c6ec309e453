"""Failures, named by what the run does next, and the table of their kinds.

    CaptionmillError
    ├── UsageError         wrong flags, configuration or manifest: nothing was sent          exit 2
    ├── RowError           this row has no answer: record that, go on with the others
    ├── TransientError     the same request may succeed later: try again. Where the server names a time,
    │   │                  all rows that share the limit wait first
    │   ├── RateLimited    ... all rows wait in any case; not billed, so it does not count as an attempt
    │   ├── ServerBusy     ... overloaded or broken for a moment
    │   └── ConnectionLost ... no answer came back, or only a part of one
    └── RunError           no row can be answered now: stop, resumable                       exit 3
        └── AccountError   the endpoint said so (key, quota, model): believed when it repeats

The class says what the run does next; the kind says what happened, in one word for the `error_kind` column. All else that
depends on the kind is a column of `KINDS`: no other file lists kinds or compares with one.

Each class is handled in one place: `runner` for rows and runs, `jobs` for exit codes.
A finish_reason of length or content_filter is data, not an error.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


class CaptionmillError(Exception):
    """Base of every failure this program names itself. The message is written for the user."""


class UsageError(CaptionmillError):
    """The command, the configuration or the manifest is wrong; nothing was sent."""


class AnswerError(CaptionmillError):
    """Why one attempt for one row brought no answer.

    kind: a key of `KINDS`, for the `error_kind` column.
    http_status: None where no status line was received. has_usage: the server reported tokens for it all the same.
    """

    has_usage = False

    def __init__(self, message: str, *, kind: str, http_status: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.http_status = http_status

    @property
    def facts(self) -> Kind:
        """What is true of every error of this kind."""
        return KINDS[self.kind]

    @property
    def bought_nothing(self) -> bool:
        """Whether a whole answer came with a status of success, and no completion is in it.

        It was billed, and so is each further try: there are few of them (`--max-unreadable-retries`).
        """
        is_success = self.http_status is not None and 200 <= self.http_status < 300
        return self.facts.bought_nothing or (is_success and isinstance(self, ServerBusy))

    @property
    def may_be_tried_elsewhere(self) -> bool:
        """Whether another endpoint may answer the row.

        False for a row that never left: our own bound refused it. False also for a row that failed because the
        endpoint refused it again and again as if the account were at fault: no other endpoint is asked then.
        """
        never_left = isinstance(self, RowError) and self.http_status is None
        return self.facts.is_tried_elsewhere and isinstance(self, self.facts.error) and not never_left


class RowError(AnswerError):
    """This row has no answer; the others may have one."""


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


class WayRefused(TransientError):
    """The endpoint does not take the way in which a label was asked for: the row is asked at once in the next one."""


class RateLimited(TransientError):
    """A limit was hit, and nothing was charged.

    names: the limit that its words or headers name: "tokens", "requests", or "at_once"; None where they name none.
    """

    names: str | None = None


class ServerBusy(TransientError):
    """Overloaded, or a passing fault."""


class ConnectionLost(TransientError):
    """No answer came back, or only a part of one."""


class RunError(AnswerError):
    """No row can be answered now; what is done is saved and the run can be resumed."""


class AccountError(RunError):
    """The endpoint refuses the key, the money or the model: true for every row, if it repeats."""


Concern = Literal["picture", "row", "endpoint", "credit", "budget", "disk", "folder", "run"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One line of the table.

    error: the class that this kind is raised as. A later handler may raise it again as another class: three bad keys
    in a row become a RunError of the kind bad_key.
    concerns: picture, row: only this row. endpoint: this endpoint, or the way to it. credit: the money of the account.
    budget: a bound that the user set on what the run may cost. disk: the disk, or what the system lets this process do
    with a file; the files may be whole. folder: the files of the run folder are damaged or do not fit together.
    run: this start of the run.
    hint: what the user can do, as text with {key_env}, {endpoint} and {run}; None where the message says it all.
    is_overload: the endpoint has too many requests in flight, rather than too many a minute.
    may_be_billed: the endpoint may have generated an answer that we did not get.
    is_tried_elsewhere: another endpoint may answer what this one refused.
    is_unreachable: the request never reached the endpoint.
    may_clear: a person may fix it while the run waits, so the run tries again for a while.
    bought_nothing: a whole answer came that cannot be read: billed, so it is asked again a few times at most.
    is_upgradable: the file is whole and of an older version.
    is_about_a_name: the endpoint's list of models may show the name that was meant.
    causes: errno numbers and primary names of SQLite's result codes that have this kind.
    """

    error: type[AnswerError]
    concerns: Concern
    hint: str | None = None
    is_overload: bool = False
    may_be_billed: bool = False
    is_tried_elsewhere: bool = False
    is_unreachable: bool = False
    may_clear: bool = False
    bought_nothing: bool = False
    is_upgradable: bool = False
    is_about_a_name: bool = False
    causes: tuple[int | str, ...] = ()


KINDS: Mapping[str, Kind] = {
    # -- a picture that cannot be sent, or that the endpoint will not look at
    "image_missing": Kind(RowError, "picture"),
    "image_unreadable": Kind(RowError, "picture"),
    "image_changing": Kind(RowError, "picture"),
    "image_format": Kind(RowError, "picture"),
    "image_broken": Kind(RowError, "picture"),
    "image_too_large": Kind(RowError, "picture"),
    "image_remote": Kind(RowError, "picture"),
    "bad_image": Kind(RowError, "picture"),
    "content_policy": Kind(RowError, "picture"),
    # -- a request that the endpoint will not answer; another one may have wider bounds
    "over_limit": Kind(RowError, "row", is_tried_elsewhere=True),
    "context_too_long": Kind(RowError, "row", is_tried_elsewhere=True),
    "body_too_large": Kind(RowError, "row", is_tried_elsewhere=True),
    "bad_request": Kind(RowError, "row", is_tried_elsewhere=True),
    "invalid_label": Kind(RowError, "row"),
    "refused_by_relay": Kind(RowError, "row", is_tried_elsewhere=True),
    # -- the endpoint, for now
    "way_refused": Kind(WayRefused, "endpoint"),
    "rate_limited": Kind(RateLimited, "endpoint"),
    "saturated": Kind(RateLimited, "endpoint"),
    "overloaded": Kind(ServerBusy, "endpoint", is_overload=True),
    "no_channel": Kind(ServerBusy, "endpoint", is_overload=True),
    "relay_trouble": Kind(ServerBusy, "endpoint"),
    "server_error": Kind(ServerBusy, "endpoint"),
    "server_timeout": Kind(ServerBusy, "endpoint", may_be_billed=True),
    "broken_answer": Kind(
        ServerBusy,
        "endpoint",
        hint="the answers of {endpoint} arrive and cannot be read, and each may be billed: error_message has what came; check the address, or use another endpoint",
        bought_nothing=True,
    ),
    "empty_answer": Kind(
        ServerBusy,
        "endpoint",
        hint="the answers of {endpoint} hold no text: error_message has what came; check the model",
        bought_nothing=True,
    ),
    "timeout": Kind(ConnectionLost, "endpoint", may_be_billed=True),
    "connection": Kind(ConnectionLost, "endpoint", may_be_billed=True),
    "cannot_connect": Kind(
        ConnectionLost,
        "endpoint",
        hint="check the network and the address {endpoint}",
        is_tried_elsewhere=True,
        is_unreachable=True,
    ),
    # -- the endpoint, until settings or account change
    "bad_key": Kind(
        AccountError,
        "endpoint",
        hint="{endpoint} refused the key in the variable {key_env}: check it",
        is_tried_elsewhere=True,
    ),
    "no_permission": Kind(
        AccountError,
        "endpoint",
        hint="the key in {key_env} may not use this model or this endpoint: {endpoint}",
        is_tried_elsewhere=True,
    ),
    "no_quota": Kind(
        AccountError,
        "credit",
        hint="the account of the key in {key_env} has no money or quota left at {endpoint}: pay, raise the limit of the key, or use another key",
        is_tried_elsewhere=True,
    ),
    "model_not_found": Kind(
        AccountError,
        "endpoint",
        hint="check --model and the address {endpoint}; `captionmill models` lists the models there",
        is_about_a_name=True,
        is_tried_elsewhere=True,
    ),
    "no_vision": Kind(
        AccountError,
        "endpoint",
        hint="this model takes no images at {endpoint}: use a vision model (for llama-server, start it with --mmproj)",
        is_tried_elsewhere=True,
    ),
    "bad_parameter": Kind(
        AccountError,
        "endpoint",
        hint="leave out or change the setting that the message names (--max-completion-tokens in place of --max-tokens, say)",
        is_tried_elsewhere=True,
    ),
    "wrong_address": Kind(
        AccountError,
        "endpoint",
        hint="check the address {endpoint}; where the API has no /v1, give the full address, which ends in /chat/completions",
        is_tried_elsewhere=True,
    ),
    "blocked": Kind(
        AccountError,
        "endpoint",
        hint="a firewall before {endpoint} refused this machine, not the key: try another network, or ask the provider",
        is_tried_elsewhere=True,
    ),
    "tls": Kind(
        AccountError,
        "endpoint",
        hint="check the address {endpoint} and the clock of this machine; if your network has its own certificate authority, set the variable SSL_CERT_FILE to the file with its certificate",
        is_tried_elsewhere=True,
    ),
    "proxy": Kind(
        AccountError,
        "endpoint",
        hint="check the proxy: --proxy http://HOST:PORT, or --proxy env with name and password in HTTPS_PROXY",
        is_tried_elsewhere=True,
    ),
    "asked_to_wait": Kind(RunError, "endpoint"),
    "usage_anomaly": Kind(
        RunError,
        "endpoint",
        hint="use another endpoint or model with a new -o, or continue with --on-usage-anomaly warn; the answers that showed it are kept",
    ),
    # -- disk and files
    "disk": Kind(
        RunError,
        "disk",
        hint="make room on the disk",
        may_clear=True,
        causes=("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN"),
    ),
    "no_access": Kind(
        RunError,
        "disk",
        hint="give this user the right to write into {run}",
        may_clear=True,
        causes=(errno.EACCES, errno.EPERM, errno.EROFS, "SQLITE_READONLY", "SQLITE_PERM"),
    ),
    "open_files": Kind(
        RunError,
        "disk",
        hint="raise the limit (ulimit -n), or give a smaller --concurrency",
        causes=(errno.EMFILE, errno.ENFILE),
    ),
    "folder_gone": Kind(
        RunError, "disk", hint="put {run} back, or start again with another -o", causes=(errno.ENOENT,)
    ),
    "journal": Kind(RunError, "folder"),
    "damaged_run": Kind(RunError, "folder"),
    "damaged_part": Kind(RunError, "folder"),
    "old_part": Kind(RunError, "folder", is_upgradable=True),
    # -- this start of the run
    "version": Kind(RunError, "run"),
    "locked": Kind(RunError, "run"),
    "manifest": Kind(RunError, "run"),
    "deadline": Kind(RunError, "run"),
    "bad_schema": Kind(RunError, "run", hint="change the schema, or ask without it: --structured text"),
    "unexpected": Kind(RunError, "run"),
    "budget": Kind(
        RunError,
        "budget",
        hint="go on with a larger budget, or see what was spent: captionmill report {run}",
    ),
}


def kind_of_cause(cause: int | str | None) -> str | None:
    """The kind of a failed file operation.

    cause: an errno, or the primary name of one of SQLite's result codes (SQLITE_FULL); None where it is not known.
    Returns None for a cause that the table does not list.
    """
    return next((name for name, kind in KINDS.items() if cause in kind.causes), None)


def disk_error(path: Path | str, verb: str, error: OSError) -> RunError:
    """The named error of a file that the system would not let us read or write.

    verb: the participle for the message, "read" or "written".
    """
    reason = str(error) if error.errno is None else os.strerror(error.errno)
    return RunError(f"{path}: cannot be {verb} ({reason})", kind=kind_of_cause(error.errno) or "disk")
