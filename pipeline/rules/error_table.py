"""An answer that is no completion -> the named error it amounts to. Pure; the table below is the policy.

What an error says is read in this order: code, type and message first, the status last. Relays give
permanent faults as 500 and a saturated upstream as 429 `insufficient_quota`, so the status alone
lies. A rule may hold for one kind of endpoint only: to a provider `insufficient_quota` means that
the user's money is gone (stop), through a relay it is the quota of one of many upstream keys (wait).

Also here: what a server says besides, how long to wait and how much of its limits is left.
"""

from __future__ import annotations

import email.utils
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from ..nouns.errors import AccountError, AnswerError, ConnectionLost, RateLimited, RowError, ServerBusy
from ..nouns.rows import HttpAnswer, LimitReport

RELAY_HEADERS = ("x-oneapi-request-id", "x-new-api-version")
RELAY_TYPES = frozenset({"one_api_error", "new_api_error"})


class Rule(NamedTuple):
    """First rule that matches wins. words: any of them in "code type message", lower case.

    status: None for any. where: direct, relay, or any.
    """

    words: tuple[str, ...]
    status: int | None
    where: str
    error: type[AnswerError]
    kind: str


# fmt: off
RULES: tuple[Rule, ...] = (
    # -- the picture or the prompt: this row only
    Rule(("request too large for", "requested tokens exceed"), 429, "any", RowError, "over_limit"),
    Rule(("context_length_exceeded", "maximum context length", "context window"), None, "any", RowError, "context_too_long"),
    Rule(("content_policy", "content_filter", "responsibleaipolicyviolation", "data_inspection_failed",
          "datainspectionfailed", "sensitive_words_detected", "prompt_blocked", "safety system", "flagged_input",
          "content management policy", "input was flagged"), None, "any", RowError, "content_policy"),
    Rule(("invalid_image", "image_parse_error", "does not represent a valid image", "unsupported image", "unsupported_image",
          "invalid mime type", "could not process image", "does not match the provided media type", "image exceeds",
          "invalid base64", "invalid_base64", "invalid_image_url", "limit of 30000"), 400, "any", RowError, "bad_image"),
    Rule(("request_too_large", "read_request_body_failed", "request entity too large"), None, "any", RowError, "body_too_large"),
    # -- money
    Rule(("user quota is not enough", "insufficient_user_quota", "pre_consume_token_quota_failed", "用户额度不足", "令牌额度不足",
          "预扣费额度失败", "该令牌额度已用尽"), None, "any", AccountError, "no_quota"),
    Rule(("concurrent requests", "concurrency limit", "concurrency_limit", "max_concurrency", "limit type: max_parallel_requests",
          "limit type = max_parallel_requests", "并发"), 429, "any", RateLimited, "saturated"),
    Rule(("负载已饱和",), None, "any", RateLimited, "saturated"),
    Rule(("insufficient_quota",), None, "relay", RateLimited, "saturated"),
    Rule(("insufficient_quota", "credit_balance_exhausted", "spend_limit", "organization_usage_limit_exceeded",
          "credit balance is too low", "billing_error", "billing_hard_limit", "arrearage"), None, "any", AccountError, "no_quota"),
    # -- the key and what it may do
    Rule(("令牌验证失败", "数据库查询出错"), None, "any", ServerBusy, "relay_trouble"),
    Rule(("invalid_api_key", "authentication_error", "incorrect api key", "无效的令牌", "该令牌已过期", "未提供令牌"),
         None, "any", AccountError, "bad_key"),
    Rule(("permission_error", "permission_denied", "无权使用模型", "用户已被封禁", "只能在指定网段使用", "unsupported_country",
          "has been temporarily blocked"), None, "any", AccountError, "no_permission"),
    # -- the model
    Rule(("无可用渠道", "get_channel_failed"), None, "any", ServerBusy, "no_channel"),
    Rule(("only supported by certain models", "does not support image", "image input is not supported"),
         400, "any", AccountError, "no_vision"),
    Rule(("model_not_found", "deploymentnotfound", "not_found_error", "model not found"), None, "any", AccountError, "model_not_found"),
    Rule(("unsupported_parameter", "unsupported_value", "unknown_parameter", "unrecognized request argument"),
         400, "any", AccountError, "bad_parameter"),
    # -- permanent faults that a relay dresses as 500
    Rule(("count_token_failed", "model_price_error", "convert_request_failed"), None, "any", RowError, "refused_by_relay"),
    Rule(("invalid_request",), 500, "any", RowError, "refused_by_relay"),
    # -- too much, too fast
    Rule(("rate_limit", "slow_down", "resource_exhausted", "请求数限制", "token rate limit", "too many requests"),
         None, "any", RateLimited, "rate_limited"),
    Rule(("overloaded", "server_is_overloaded", "server busy"), None, "any", ServerBusy, "overloaded"),
)

BY_STATUS: Mapping[int, tuple[type[AnswerError], str]] = {
    400: (RowError, "bad_request"),
    401: (AccountError, "bad_key"),
    402: (AccountError, "no_quota"),
    403: (AccountError, "no_permission"),
    404: (AccountError, "model_not_found"),
    405: (AccountError, "wrong_address"),
    408: (ServerBusy, "server_timeout"),
    409: (ServerBusy, "server_error"),
    413: (RowError, "body_too_large"),
    415: (RowError, "bad_request"),
    422: (RowError, "bad_request"),
    429: (RateLimited, "rate_limited"),
    529: (ServerBusy, "overloaded"),
}
# fmt: on


@dataclass(frozen=True, slots=True)
class ErrorText:
    """What an error body says, whatever envelope it came in. code and type may be empty."""

    message: str
    code: str = ""
    type: str = ""

    @property
    def words(self) -> str:
        return f"{self.code} {self.type} {self.message}".lower()


def read_error(answer: HttpAnswer, endpoint_kind: str = "auto") -> AnswerError:
    """As `_read_error`, with a note where tokens were counted: it is on the invoice then."""
    error = _read_error(answer, endpoint_kind)
    body = _loads(answer.body)
    usage = body.get("usage") if isinstance(body, dict) else None
    counts = usage.values() if isinstance(usage, dict) else ()
    error.has_usage = any(isinstance(count, int) and count > 0 for count in counts)
    return error


def _read_error(answer: HttpAnswer, endpoint_kind: str) -> AnswerError:
    """The named error of an answer in which `replies.read_reply` found no completion.

    endpoint_kind: direct, relay, or auto, which goes by the relay's own marks in the answer.
    """
    body = _loads(answer.body)
    if answer.status == 200:
        inner = _error_inside(body)
        if inner is None:
            return _no_answer(answer, body)
        body = {"error": inner}
    text = _location(answer) or error_text(body, answer.body)
    is_relay = endpoint_kind == "relay" or (endpoint_kind == "auto" and looks_like_relay(answer, text))
    error, kind = _decide(text.words, answer.status, is_relay)
    message = (
        text.message
        if text.message.startswith(f"{answer.status}: ")
        else f"{answer.status}: {text.message or 'no message'}"
    )
    if text.code and text.code not in message:
        message += f" [{text.code}]"
    message = "".join(c if c.isprintable() else " " for c in message)  # a terminal takes no orders from it
    if issubclass(error, RateLimited | ServerBusy):
        wait = retry_after_seconds(answer.headers, text.message, body)
        busy = error(message, kind=kind, http_status=answer.status, retry_after_seconds=wait)
        if isinstance(busy, RateLimited):
            busy.names = named_limit(text.words, answer.headers)
        return busy
    return error(message, kind=kind, http_status=answer.status)


# words of LiteLLM (its header, its sentence of any version), of providers and of relays; the first found counts
_NAMED_LIMITS = (
    ("at_once", ("max_parallel_requests", "concurrent", "concurrency", "并发")),
    ("tokens", ("tokens per min", "token rate", "limit type: tokens", "limit type = tokens", "tpm")),
    ("requests", ("requests per min", "limit type: requests", "limit type = requests", "请求数限制", "rpm")),
)


def named_limit(words: str, headers: Mapping[str, str]) -> str | None:
    """The limit that a refusal names: tokens, requests, or at_once; None where it names none, or several."""
    told = headers.get("rate_limit_type", "").lower()
    if not told and (found := re.search(r"(?:rate limit|limit) type\s?[:=] (\w+)", words)):
        told = found[1]
    named = {name for name, marks in _NAMED_LIMITS if any(mark in (told or words) for mark in marks)}
    return named.pop() if len(named) == 1 else next((n for n in ("tokens", "requests") if told == n), None)


# a gateway gave up waiting for an upstream that may have gone on and billed it
_GATEWAY_TIMEOUTS = frozenset({408, 504, 520, 522, 524})


def may_be_billed(error: AnswerError) -> bool:
    """Whether an attempt that brought no answer may be on the invoice all the same: half an answer, silence."""
    if isinstance(error, ConnectionLost):
        return error.kind != "cannot_connect"
    return error.has_usage or error.kind == "broken_answer" or error.http_status in _GATEWAY_TIMEOUTS


def _location(answer: HttpAnswer) -> ErrorText | None:
    """Of a redirect, where it points; it is not followed, since the key would go along."""
    if not 300 <= answer.status < 400:
        return None
    return ErrorText(f"a redirect to {answer.headers.get('location', 'nowhere')}; give that address")


def _error_inside(body: Any) -> Any:
    """The error that a relay or router put into a 200: beside the choices, or in the first of them."""
    if not isinstance(body, dict):
        return None
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return body.get("error") or (first.get("error") if isinstance(first, dict) else None) or None


def _no_answer(answer: HttpAnswer, body: Any) -> ServerBusy:
    """A 200 that says nothing: half a body, HTML, no choices, or empty with zero usage."""
    if body is None:
        return ServerBusy(
            f"200: the answer is not JSON ({_start(answer.body)!r})", kind="broken_answer", http_status=200
        )
    return ServerBusy("200: the answer is empty", kind="empty_answer", http_status=200)


def _decide(words: str, status: int, is_relay: bool) -> tuple[type[AnswerError], str]:
    where = "relay" if is_relay else "direct"
    for rule in RULES:
        if (
            rule.status in (None, status)
            and rule.where in ("any", where)
            and any(w in words for w in rule.words)
        ):
            return rule.error, rule.kind
    if status in BY_STATUS:
        return BY_STATUS[status]
    if 300 <= status < 400:
        return AccountError, "wrong_address"
    return (ServerBusy, "server_error") if status >= 500 or status == 200 else (RowError, "bad_request")


def looks_like_relay(answer: HttpAnswer, text: ErrorText | None = None) -> bool:
    """one-api and new-api leave their request id in a header, or in their own error texts."""
    if any(name in answer.headers for name in RELAY_HEADERS):
        return True
    return text is not None and (text.type in RELAY_TYPES or "(request id: " in text.message)


# ------------------------------------------------------------------------------- error envelopes


def error_text(body: Any, raw: bytes = b"") -> ErrorText:
    """Unwrap every envelope seen in the field; a body that is no JSON gives its first words."""
    if isinstance(body, list):
        body = body[0] if body else {}
    if not isinstance(body, dict):
        return ErrorText(_start(raw))
    inner = body.get("error", body)
    if isinstance(inner, str):
        return ErrorText(inner, _text(body.get("code")) or "", _text(body.get("type")) or "")
    if not isinstance(inner, dict):
        inner = body
    message = next(
        (m for k in ("message", "msg", "err", "error_msg", "detail", "title") if (m := _text(inner.get(k)))),
        "",
    )
    metadata = inner.get("metadata")
    if isinstance(metadata, dict) and metadata.get("raw"):  # the provider's own words, nested by a router
        message = f"{message}: {metadata['raw']}"
    code = _text(inner.get("code")) or _text(body.get("statusCode")) or ""
    nested = inner.get("innererror")
    if isinstance(nested, dict) and nested.get("code"):
        code = f"{code} {nested['code']}".strip()
    kind = _text(inner.get("type")) or _text(inner.get("status")) or ""
    return ErrorText(message, code, kind)


# ------------------------------------------------------------------------------- limits


def limit_reports(answer: HttpAnswer, trust: str = "auto") -> tuple[LimitReport | None, LimitReport | None]:
    """What the x-ratelimit headers say of tokens and of requests; None where nothing usable.

    trust: "ignore", "trust", or "auto", which leaves out a relay's headers: it copies those of whichever
    upstream key served this one request.
    """
    headers = answer.headers
    if trust == "ignore" or (trust == "auto" and looks_like_relay(answer)):
        return None, None
    return _limit_report(headers, *_TOKEN_HEADERS), _limit_report(headers, *_REQUEST_HEADERS)


_TOKEN_HEADERS = ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens")
_REQUEST_HEADERS = ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests")


def _limit_report(headers: Mapping[str, str], limit_name: str, remaining_name: str) -> LimitReport | None:
    if limit_name not in headers:
        return None
    limit, remaining = _number(headers[limit_name]), _number(headers.get(remaining_name, ""))
    if limit is None or limit < 1 or remaining is None:  # Azure sends -1 and 0 where it does not know
        return None
    return LimitReport(limit, remaining)


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


# ------------------------------------------------------------------------------- how long to wait

_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|h|m|s)")
_IN_TEXT = re.compile(
    r"(?:try again|retry) (?:in|after) ((?:\d+(?:\.\d+)?\s?(?:ms|us|µs|h|m|s))+|\d+(?:\.\d+)? seconds?)(?![a-z])",
    re.I,
)
# a relay that counts requests over some minutes, refused ones too: asking before they are over extends it
_COUNTED_MINUTES = re.compile(r"请求数限制：(\d{1,3})分钟内")
_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "µs": 1e-6}


def parse_seconds(value: str, now: datetime | None = None) -> float | None:
    """Seconds of a Retry-After or reset value; None where it says nothing.

    Takes numbers of seconds, Go durations (1m26.4s, 119ms), HTTP dates and RFC 3339 times. Dates need
    `now` (aware). Empty and negative values mean unknown.
    """
    value = value.strip()
    try:
        seconds = float(value)
    except ValueError:
        parts = _DURATION_PART.findall(value)
        if parts and "".join(n + u for n, u in parts) == value:
            return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)
        return _seconds_until_date(value, now)
    return seconds if 0 <= seconds < float("inf") else None


def _seconds_until_date(value: str, now: datetime | None) -> float | None:
    if now is None:
        return None
    try:
        date = datetime.fromisoformat(value)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(value)
        except (ValueError, IndexError, OverflowError, TypeError):
            return None
    if date.tzinfo is None:
        return None
    return max(0.0, (date - now).total_seconds())


def retry_after_seconds(headers: Mapping[str, str], message: str = "", body: Any = None) -> float | None:
    """What the server asked for: retry-after-ms, retry-after, then the body's own words."""
    milliseconds = parse_seconds(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    date = _http_date(headers.get("date", ""))
    seconds = parse_seconds(headers.get("retry-after", ""), date)
    if seconds is not None:
        return seconds
    if (delay := _retry_delay(body)) is not None:
        return parse_seconds(delay)
    if found := _COUNTED_MINUTES.search(message):
        return 60.0 * int(found[1])
    if found := _IN_TEXT.search(message):
        return parse_seconds(re.sub(r"\s?seconds?$", "", found[1]).replace(" ", ""))
    return None


def _http_date(value: str) -> datetime | None:
    try:
        date = email.utils.parsedate_to_datetime(value)
    except (ValueError, IndexError, OverflowError, TypeError):
        return None
    return date if date.tzinfo else None


def _retry_delay(body: Any) -> str | None:
    """Google's RetryInfo, wherever it stands among the details."""
    if isinstance(body, list):
        body = body[0] if body else None
    error = body.get("error") if isinstance(body, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and isinstance(detail.get("retryDelay"), str):
            return str(detail["retryDelay"])
    return None


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else str(value)


def _loads(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _start(body: bytes) -> str:
    """The first words of a body, without markup."""
    text = body[:2000].decode("utf-8", "replace")
    return " ".join(re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", text, flags=re.S | re.I).split())[:200]
