"""The table of error kinds: complete, true to what is raised, and the only place that decides by kind."""

from __future__ import annotations

import ast
import errno
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from captionmill.nouns import errors
from captionmill.nouns.errors import (
    KINDS,
    AccountError,
    AnswerError,
    ConnectionLost,
    RateLimited,
    RowError,
    RunError,
    ServerBusy,
    TransientError,
    WayRefused,
)
from captionmill.nouns.rows import HttpAnswer
from captionmill.rules.error_table import BY_STATUS, PAGES, RULES, may_be_billed, read_error

ROOT = Path(__file__).parent.parent.parent
CLASSES = {
    name: error
    for name, error in vars(errors).items()
    if isinstance(error, type) and issubclass(error, AnswerError)
}
# files that name kinds by right: the table, and the one that finds them in a server's words
TABLES = {"pipeline/nouns/errors.py", "pipeline/rules/error_table.py"}


def sources() -> dict[str, ast.Module]:
    """Every file of library and commands by its path; not the built-in endpoint, which is on the server's side."""
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text())
        for folder in ("pipeline", "jobs")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "builtin" not in path.parts
    }


def raised() -> Iterator[tuple[str, str, ast.expr]]:
    """(file:line, class, the expression after kind=) of every call that makes an error."""
    for path, tree in sources().items():
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in CLASSES:
                for keyword in call.keywords:
                    if keyword.arg == "kind":
                        yield f"{path}:{call.lineno}", call.func.id, keyword.value


def words(expression: ast.expr) -> set[str]:
    """The kinds that an expression may give: constants, not the parts of a condition."""
    if isinstance(expression, ast.IfExp):
        return words(expression.body) | words(expression.orelse)
    if isinstance(expression, ast.BoolOp):
        return set().union(*map(words, expression.values))
    return {expression.value} if isinstance(expression, ast.Constant) else set()


def test_every_kind_that_is_raised_is_listed_with_its_class():
    """A kind means one thing: it is always raised as the class that the table has for it."""
    found = [(place, name, kind) for place, name, expression in raised() for kind in words(expression)]
    assert len(found) > 40
    wrong = [
        (place, name, kind)
        for place, name, kind in found
        if kind not in KINDS or KINDS[kind].error is not CLASSES[name]
    ]
    assert wrong == []


def test_every_error_has_a_kind_that_can_be_looked_up():
    """kind= is a constant, the kind of another failure, or a word of the error table."""
    wrong = [
        f"{place}: kind={ast.unparse(expression)}"
        for place, _, expression in raised()
        if not words(expression)
        and not (isinstance(expression, ast.Attribute) and expression.attr == "kind")
        and place.rpartition(":")[0] not in TABLES
    ]
    assert wrong == []
    assert {rule.kind for rule in RULES} | set(BY_STATUS.values()) <= set(KINDS)
    for status in range(200, 600):
        assert read_error(HttpAnswer(status, {}, b"")).kind in KINDS


def test_every_listed_kind_is_used():
    """A kind that nothing raises is no line of the table."""
    used = {kind for _, _, expression in raised() for kind in words(expression)}
    used |= {
        word
        for tree in sources().values()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Failure"
        for keyword in call.keywords
        if keyword.arg == "kind"
        for word in words(keyword.value)
    }
    used |= {rule.kind for rule in RULES} | set(BY_STATUS.values()) | {kind for _, kind in PAGES}
    used |= {kind for kind, facts in KINDS.items() if facts.causes}
    assert set(KINDS) == used


def _collections(tree: ast.Module) -> Iterator[tuple[int, list[ast.expr | None]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Set | ast.List | ast.Tuple):
            yield node.lineno, list(node.elts)
        elif isinstance(node, ast.Dict):
            yield node.lineno, list(node.keys)


def test_no_set_of_kinds_exists_outside_the_table():
    """What is true of several kinds is a column of the table."""
    wrong = [
        f"{path}:{line}"
        for path, tree in sources().items()
        if path not in TABLES
        for line, members in _collections(tree)
        if len(members) > 1 and all(isinstance(m, ast.Constant) and m.value in KINDS for m in members)
    ]
    assert wrong == []


def test_nothing_is_decided_by_comparing_kinds():
    """No `error.kind == "..."`, no `in`, no `startswith`: the table is asked."""
    wrong = []
    for path, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare):
                asked = [node.left, *node.comparators]
            elif isinstance(node, ast.Match):
                asked = [node.subject]
            elif isinstance(node, ast.Attribute) and node.attr in ("startswith", "endswith"):
                asked = [node.value]
            else:
                continue
            if any(isinstance(side, ast.Attribute) and side.attr == "kind" for side in asked):
                wrong.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
    assert wrong == []


# ------------------------------------------------------------------------------- what the table says


def of(**facts: object) -> set[str]:
    """The kinds of which all of this is true."""
    return {
        kind
        for kind, line in KINDS.items()
        if all(getattr(line, name) == fact for name, fact in facts.items())
    }


def test_which_kinds_have_which_facts():
    """Each column, as the run uses it."""
    assert of(is_overload=True) == {"overloaded", "no_channel"}
    assert of(is_unreachable=True) == {"cannot_connect"}
    assert of(bought_nothing=True) == {"empty_answer", "broken_answer"}
    assert of(is_upgradable=True) == {"old_part"}
    assert of(may_clear=True) == {"disk", "no_access"}
    assert of(may_be_billed=True) == {"timeout", "connection", "server_timeout"}
    assert of(concerns="credit") == {"no_quota"}
    assert of(concerns="budget") == {"budget"}
    assert of(concerns="disk") == {"disk", "no_access", "open_files", "folder_gone"}
    assert of(concerns="folder") == {"journal", "damaged_run", "damaged_part", "old_part"}
    assert {kind for kind in KINDS if kind.startswith("image_")} < of(concerns="picture")
    assert of(concerns="picture") | of(concerns="row") == of(error=RowError)
    for error in (RateLimited, ServerBusy, ConnectionLost):
        assert of(error=error) <= of(concerns="endpoint")
    assert of(concerns="disk") | of(concerns="folder") | of(concerns="run") <= of(error=RunError)


def test_hints_name_only_what_the_command_fills_in():
    """Key variable, address and run folder."""
    fields = {
        field
        for kind in KINDS.values()
        for _, field, _, _ in string.Formatter().parse(kind.hint or "")
        if field
    }
    assert fields == {"key_env", "endpoint", "run"}


@pytest.mark.parametrize(
    ("error", "is_tried"),
    [
        (RowError("too long", kind="context_too_long", http_status=400), True),
        (RowError("too large", kind="over_limit", http_status=429), True),
        (RowError("too large for --tpm", kind="over_limit"), False),  # our own bound: it was never sent
        (RowError("flagged", kind="content_policy", http_status=400), False),
        (RowError("flagged", kind="no_permission", http_status=403), False),  # given up as this row's own
        (AccountError("refused", kind="no_permission", http_status=403), True),
        (AccountError("not trusted", kind="tls"), True),
        (ConnectionLost("nobody listens", kind="cannot_connect"), True),
        (ConnectionLost("reset", kind="connection"), False),
        (ServerBusy("500", kind="server_error", http_status=500), False),
    ],
)  # fmt: skip
def test_what_another_endpoint_is_asked(error, is_tried):
    """What one endpoint has against a request or an account may be nothing to another; a fault passes by itself."""
    assert error.may_be_tried_elsewhere is is_tried


def test_every_account_error_may_be_tried_elsewhere():
    """Another endpoint has another account."""
    assert of(error=AccountError) <= of(is_tried_elsewhere=True)


@pytest.mark.parametrize(
    ("error", "is_billed"),
    [(ServerBusy("", kind="server_error", http_status=status), status in (499, 504, 520, 522, 524))
     for status in (500, 502, 503, 504, 520, 521, 522, 523, 524)]
    + [
        (ServerBusy("", kind="server_timeout", http_status=408), True),
        (ServerBusy("", kind="overloaded", http_status=408), True),
        (ServerBusy("", kind="broken_answer", http_status=200), True),
        (ServerBusy("", kind="empty_answer", http_status=200), True),
        (ServerBusy("", kind="server_error", http_status=200), True),
        (RateLimited("", kind="rate_limited", http_status=200), False),
        (RateLimited("", kind="rate_limited", http_status=429), False),
        (ConnectionLost("", kind="connection"), True),
        (ConnectionLost("", kind="timeout"), True),
        (ConnectionLost("", kind="cannot_connect"), False),
    ],
)  # fmt: skip
def test_which_failures_may_be_billed(error, is_billed):
    """Half an answer, silence, and a gateway that stopped waiting: the upstream may have gone on."""
    assert may_be_billed(error) is is_billed
    error.has_usage = True
    assert may_be_billed(error)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, "disk"), (errno.EIO, "disk"), (None, "disk"), (errno.EACCES, "no_access"), (errno.EPERM, "no_access"),
     (errno.EROFS, "no_access"), (errno.EMFILE, "open_files"), (errno.ENFILE, "open_files"), (errno.ENOENT, "folder_gone")],
)  # fmt: skip
def test_the_kind_of_a_failed_file_operation(number, kind):
    """By what the user can do about it."""
    error = OSError("broken") if number is None else OSError(number, "no")
    assert errors.disk_error("run/a", "written", error).kind == kind


@pytest.mark.parametrize(
    ("cause", "kind"),
    [("SQLITE_FULL", "disk"), ("SQLITE_IOERR", "disk"), ("SQLITE_CANTOPEN", "disk"), ("SQLITE_READONLY", "no_access"),
     ("SQLITE_PERM", "no_access"), ("SQLITE_CORRUPT", None), ("", None), (None, None)],
)  # fmt: skip
def test_the_kind_of_a_journal_that_sqlite_cannot_use(cause, kind):
    """What the table does not list is damage."""
    assert errors.kind_of_cause(cause) == kind


def test_only_what_may_pass_is_a_transient_error():
    """The three classes that are tried again, and a refused way of asking, which is asked in another one."""
    assert {k.error for k in KINDS.values() if issubclass(k.error, TransientError)} == {
        RateLimited,
        ServerBusy,
        ConnectionLost,
        WayRefused,
    }
