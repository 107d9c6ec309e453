"""What a server says besides its answer: how long to wait, and how much of its limits is left. Pure."""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ..nouns.rows import HttpAnswer, LimitReport
from .envelopes import looks_like_relay

# ------------------------------------------------------------------------------- limits


def limit_reports(answer: HttpAnswer, trust: str = "auto") -> tuple[LimitReport | None, LimitReport | None]:
    """What the x-ratelimit headers say of tokens and of requests a minute, in this order; None where nothing usable.

    trust: "ignore", "trust", or "auto", which ignores a relay's headers: it copies those of the one upstream key, of
    many, that served this request (one-api relay/adaptor/openai/main.go).
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
# OpenAI: "Please try again in 1m26.4s."; Azure: "Please retry after 37 seconds."; Gemini: "Please retry in 46s."
_IN_TEXT = re.compile(
    r"(?:try again|retry) (?:in|after) ((?:\d+(?:\.\d+)?\s?(?:ms|us|µs|h|m|s))+|\d+(?:\.\d+)? seconds?)(?![a-z])",
    re.I,
)
# new-api counts requests over some minutes, refused ones too: a request before they are over extends the wait
# (middleware/model-rate-limit.go)
_COUNTED_MINUTES = re.compile(r"请求数限制：(\d{1,3})分钟内")
_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "µs": 1e-6}


def parse_seconds(value: str, now: datetime | None = None) -> float | None:
    """Seconds of a Retry-After or reset value; None where it is empty, negative or not understood.

    value: a number of seconds, a Go duration (OpenAI: 1m26.4s, 119ms), an HTTP date or an RFC 3339 time (Anthropic).
    now: the server's time, with a zone; None where it is not known, and then a date says nothing.
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
    """Seconds for which the server asks us to wait; None where it names no time.

    headers: by lower-case names. message: of the error. body: of the answer, as JSON; None where it is not.

    The first of these that says something: `retry-after-ms` and `retry-after` (the order of the OpenAI SDK), Google's
    RetryInfo in the body, the minutes over which new-api counts requests, "try again in" in the message.
    """
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
    """Google's RetryInfo ("46s"), anywhere among the details."""
    if isinstance(body, list):
        body = body[0] if body else None
    error = body.get("error") if isinstance(body, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and isinstance(detail.get("retryDelay"), str):
            return str(detail["retryDelay"])
    return None
