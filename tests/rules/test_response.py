"""What an answer amounts to: every error body reported from the field, and every odd success."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from captionmill.nouns.errors import AccountError, AnswerError, RateLimited, RowError, ServerBusy
from captionmill.nouns.rows import HttpAnswer, Reply
from captionmill.rules import error_table, response, server_hints
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_chat import completion

STOP, PAUSE, AGAIN, FAIL = AccountError, RateLimited, ServerBusy, RowError


def read_answer(status: int, raw: bytes, kind: str = "auto") -> Reply:
    """An answer with this body, as a run reads it."""
    return response.read(HttpAnswer(status, {}, raw), kind)


def body(message="", kind=None, code=None, **more):
    return {"error": {"message": message, "type": kind, "code": code} | more}


# status, endpoint kind, body, what the run does next, kind: bodies as reported from the field, shortened
FIXTURES = [
    (401, "auto", body("该令牌额度已用尽 (request id: 2025)", "one_api_error"), STOP, "no_quota"),
    (403, "auto", body("user quota is not enough (request id: 1)", "one_api_error", "insufficient_user_quota"), STOP, "no_quota"),
    (403, "auto", body("预扣费额度失败, 用户剩余额度: 1, 需要预扣费额度: 2", "new_api_error", "insufficient_user_quota"), STOP, "no_quota"),
    (429, "auto", body("当前分组上游负载已饱和，请稍后再试 (request id: 1)", "insufficient_quota", "insufficient_quota"), PAUSE, "saturated"),
    (429, "auto", body("您已达到总请求数限制：1分钟内最多请求60次，包括失败次数，请检查您的请求是否正确 (request id: 1)", "new_api_error"), PAUSE, "rate_limited"),
    (503, "auto", body("当前分组 default 下对于模型 gpt-4o 无可用渠道 (request id: 1)", "one_api_error"), AGAIN, "no_channel"),
    (502, "auto", body(" (request id: 1)", "upstream_error", "bad_response_status_code", param="502"), AGAIN, "server_error"),
    (500, "auto", body("sensitive_words_detected (request id: 1)", "new_api_error", "sensitive_words_detected"), FAIL, "content_policy"),
    (429, "auto", body("You exceeded your current quota, please check", "insufficient_quota", "insufficient_quota"), STOP, "no_quota"),
    (429, "relay", body("You exceeded your current quota, please check", "insufficient_quota", "insufficient_quota"), PAUSE, "saturated"),
    (429, "auto", body("Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000, Used 29937, Requested 385. Please try again in 644ms.", "tokens", "rate_limit_exceeded"), PAUSE, "rate_limited"),
    (429, "auto", body("Request too large for gpt-4o on tokens per min: Limit 30000, Requested 31538.", "tokens", "rate_limit_exceeded"), FAIL, "over_limit"),
    (429, "auto", body("Requests to the ChatCompletions_Create Operation have exceeded token rate limit. Please retry after 37 seconds.", None, "429"), PAUSE, "rate_limited"),
    (429, "auto", {"error": {"code": 429, "message": "You exceeded your current quota. Please retry in 46s.", "status": "RESOURCE_EXHAUSTED", "details": [{"@type": "RetryInfo", "retryDelay": "46s"}]}}, PAUSE, "rate_limited"),
    (400, "auto", body("The response was filtered", None, "content_filter", innererror={"code": "ResponsibleAIPolicyViolation"}), FAIL, "content_policy"),
    (400, "auto", [{"error": {"code": 400, "message": "Request contains an invalid argument.", "status": "INVALID_ARGUMENT"}}], FAIL, "bad_request"),
    (400, "auto", {"object": "error", "message": "This model's maximum context length is 2048 tokens.", "type": "BadRequestError", "param": None, "code": 400}, FAIL, "context_too_long"),
    (529, "auto", {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, AGAIN, "overloaded"),
    (503, "auto", {"error": "Server overloaded, please retry shortly (ref: 1)"}, AGAIN, "overloaded"),
    (200, "auto", body("Provider error", None, 502, metadata={"provider_name": "Anthropic", "raw": "x"}), AGAIN, "server_error"),
    (200, "auto", {"id": "", "object": "chat.completion", "created": 0, "model": "", "choices": [{"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}, AGAIN, "empty_answer"),
    (200, "auto", {"id": "chatcmpl", "object": "chat.completion", "model": "gemini", "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}, AGAIN, "empty_answer"),
    (524, "auto", {"type": "https://developers.cloudflare.com/", "title": "Error 524: A timeout occurred", "status": 524, "detail": "120-second Proxy Read Timeout"}, AGAIN, "server_error"),
    (401, "auto", body("Incorrect API key provided: sk-a", "invalid_request_error", "invalid_api_key"), STOP, "bad_key"),
    (401, "auto", body("数据库查询出错", "new_api_error"), AGAIN, "relay_trouble"),
    (404, "auto", body("The model `x` does not exist", "invalid_request_error", "model_not_found"), STOP, "model_not_found"),
    (400, "auto", body("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", "invalid_request_error", "unsupported_parameter"), STOP, "bad_parameter"),
    (400, "auto", body("You uploaded an unsupported image.", "invalid_request_error", "invalid_image_format"), FAIL, "bad_image"),
    (404, "auto", body("This model is unavailable for free. The paid version is available"), STOP, "model_not_found"),
    (400, "auto", body("Invalid content type. image_url is only supported by certain models.", "invalid_request_error"), STOP, "no_vision"),
    (400, "auto", body("Invalid token id 5 in logit_bias", "invalid_request_error", "invalid_value"), FAIL, "bad_request"),
    (403, "auto", body("Your input was flagged", None, 403, metadata={"reasons": ["x"]}), FAIL, "content_policy"),
    (200, "auto", json.loads(completion("The pic")) | {"error": {"message": "Provider died", "code": 502}}, AGAIN, "server_error"),
    (200, "auto", {"choices": [{"message": {"content": "The pic"}, "finish_reason": "error", "error": {"code": 502, "message": "x"}}]}, AGAIN, "server_error"),
    (413, "auto", None, FAIL, "body_too_large"),
    (301, "auto", None, STOP, "wrong_address"),
    (500, "auto", None, AGAIN, "server_error"),
    (418, "auto", None, FAIL, "bad_request"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "endpoint_kind", "content", "expected", "kind"), FIXTURES)
def test_every_reported_error_has_its_action(status, endpoint_kind, content, expected, kind):
    """Code, type and message decide before the status; a relay's words mean what a relay means by them."""
    raw = b"<html><h1>nginx</h1></html>" if content is None else json.dumps(content).encode()
    with pytest.raises(AnswerError) as caught:
        read_answer(status, raw, endpoint_kind)
    assert (type(caught.value), caught.value.kind) == (expected, kind)
    assert caught.value.http_status == status


@pytest.mark.parametrize(
    ("status", "expected", "kind"),
    [(302, STOP, "wrong_address"), (400, FAIL, "bad_request"), (401, STOP, "bad_key"), (402, STOP, "no_quota"),
     (403, STOP, "no_permission"), (404, STOP, "wrong_address"), (405, STOP, "wrong_address"), (407, STOP, "proxy"),
     (425, AGAIN, "server_error"), (498, AGAIN, "overloaded"), (499, AGAIN, "server_error"), (423, AGAIN, "server_error"),
     (408, AGAIN, "server_timeout"), (409, AGAIN, "server_error"), (413, FAIL, "body_too_large"), (415, FAIL, "bad_request"),
     (422, FAIL, "bad_request"), (429, PAUSE, "rate_limited"), (451, FAIL, "bad_request"), (500, AGAIN, "server_error"),
     (502, AGAIN, "server_error"), (503, AGAIN, "server_error"), (504, AGAIN, "server_error"), (529, AGAIN, "overloaded")],
)  # fmt: skip
def test_a_status_alone_has_its_action(status, expected, kind):
    """Where the words say nothing, the status decides."""
    with pytest.raises(AnswerError) as caught:
        read_answer(status, b"")
    assert (type(caught.value), caught.value.kind) == (expected, kind)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"error": {"message": "m", "code": 5}}, "400: m [5]"),
        ({"error": "m"}, "400: m"),
        ([{"error": {"message": "m"}}], "400: m"),
        ({"message": "m", "code": "c"}, "400: m [c]"),
        ({"msg": "m"}, "400: m"),
        ({"err": "m"}, "400: m"),
        ({"error_msg": "m"}, "400: m"),
        ({"title": "m"}, "400: m"),
        ({"statusCode": 429, "message": "m"}, "400: m [429]"),
        ({"detail": [{"loc": ["body"], "msg": "图"}]}, '400: [{"loc": ["body"], "msg": "图"}]'),
        ({"error": {"message": "m", "metadata": {"raw": "why"}}}, "400: m: why"),
        ({"error": {"message": "m", "code": "c", "innererror": {"code": "d"}}}, "400: m [c d]"),
        ({"error": {"message": "400: m"}}, "400: m"),
        ({"error": None}, "400: no message"),
        ([], "400: no message"),
        ("m", "400: m"),
        ({"base_resp": {"status_code": 5, "status_msg": "m"}}, "400: m [5]"),
        ({"error_code": 17, "error_msg": "m"}, "400: m [17]"),
        ({"errors": ["m"]}, '400: ["m"]'),
        ({"data": {"error": {"errMsg": "m"}}}, "400: m"),
        ({"Message": "m"}, "400: m"),
    ],
)
def test_every_envelope_is_unwrapped(content, message):
    """The server's words and its code, wherever they are; an object as JSON."""
    with pytest.raises(AnswerError) as caught:
        read_answer(400, json.dumps(content, ensure_ascii=False).encode())
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("headers", "message", "content", "seconds"),
    [
        ({"retry-after": "7"}, "", None, 7),
        ({"retry-after-ms": "644", "retry-after": "1"}, "", None, 0.644),
        (
            {"retry-after": "Sun, 22 Nov 2026 10:00:30 GMT", "date": "Sun, 22 Nov 2026 10:00:00 GMT"},
            "",
            None,
            30,
        ),
        ({}, "Please try again in 644ms.", None, 0.644),
        ({}, "Please try again in 1m26.4s. Visit", None, 86.4),
        ({}, "Please retry after 37 seconds.", None, 37),
        ({}, "Please try again in 500 milliseconds", None, None),
        ({}, "Please retry in 10h17m5.7s.", None, 37025.7),
        ({}, "", {"error": {"details": [{"retryDelay": "46s"}]}}, 46),
        ({}, "您已达到总请求数限制：1分钟内最多请求60次，包括失败次数，请检查您的请求是否正确", None, 60),
        ({"retry-after": "-1"}, "", None, None),
        ({"retry-after": ""}, "nothing here", None, None),
        ({"retry-after": "soon"}, "", "text", None),
    ],
)
def test_how_long_a_server_asks_to_wait(headers, message, content, seconds):
    """Headers first, then the body's own words, in every form providers use."""
    assert server_hints.retry_after_seconds(headers, message, content) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("6m0s", 360), ("119ms", 0.119), ("14.981s", 14.981), ("1m26.4s", 86.4), ("0", 0), ("60", 60),
     ("-1", None), ("", None), ("inf", None), ("1x", None),
     ("2026-11-22T10:00:59Z", 59), ("2026-11-22T09:00:00Z", 0)],
)  # fmt: skip
def test_reset_values(text, seconds):
    """Durations, integers, dates; -1 and nonsense mean unknown."""
    now = datetime(2026, 11, 22, 10, tzinfo=UTC)
    assert server_hints.parse_seconds(text, now) == pytest.approx(seconds)


def test_a_gateways_page_is_no_overload():
    """nginx's 503 page says nothing about load: the row tries again, nobody else is held up for it."""
    page = b"<html><h1>503 Service Temporarily Unavailable</h1></html>"
    assert error_table.read_error(HttpAnswer(503, {}, page)).kind == "server_error"
    busy = json.dumps(
        {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}
    )
    assert error_table.read_error(HttpAnswer(503, {}, busy.encode())).kind == "overloaded"


def test_a_relays_limits_are_not_trusted():
    """Its x-ratelimit headers describe one of many upstream keys: left out, unless told otherwise."""
    headers = {"x-ratelimit-limit-tokens": "30000", "x-ratelimit-remaining-tokens": "29000"}
    direct = HttpAnswer(200, headers, b"")
    relay = HttpAnswer(200, headers | {"x-oneapi-request-id": "2025"}, b"")
    assert server_hints.limit_reports(direct)[0].remaining == 29000
    assert server_hints.limit_reports(relay) == (None, None)
    assert server_hints.limit_reports(relay, "trust")[0].limit == 30000
    assert server_hints.limit_reports(direct, "ignore") == (None, None)


def read(content) -> Reply:
    return read_answer(200, json.dumps(content).encode())


def test_the_reference_answer_is_kept_whole():
    """The example of the reference endpoint's page: every field it lists."""
    page = {
        "id": "chatcmpl-9I0ZS2JxLKz9yOdh4QDUftcmfly2v",
        "object": "chat.completion",
        "created": 1714079126,
        "model": "gpt-4-turbo-2024-04-09",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "这是一个表情符号"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 268, "completion_tokens": 116, "total_tokens": 384},
        "system_fingerprint": "fp_5d12056990",
    }
    reply = read(page)
    assert (reply.id, reply.created, reply.model) == (page["id"], 1714079126, "gpt-4-turbo-2024-04-09")
    assert reply.system_fingerprint == "fp_5d12056990"
    assert reply.choices[0].content == "这是一个表情符号"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (
        268,
        116,
        384,
    )


def test_unusual_contents():
    """Parts are joined; null content with tool calls or a refusal is an answer; n > 1 and logprobs stay."""
    parts = [{"type": "text", "text": "a "}, "red", {"type": "text", "text": " car"}]
    call = [{"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    reply = read(
        {
            "choices": [
                {
                    "index": 0,
                    "message": {"content": parts},
                    "finish_reason": "stop",
                    "logprobs": {"content": []},
                },
                {"index": 1, "message": {"content": None, "tool_calls": call}, "finish_reason": "tool_calls"},
                {"index": 2, "message": {"content": None, "refusal": "No."}, "finish_reason": "stop"},
            ]
        }
    )
    assert [c.content for c in reply.choices] == ["a red car", None, None]
    assert json.loads(reply.choices[1].tool_calls) == call
    assert reply.choices[2].refusal == "No."
    assert reply.choices[0].logprobs == '{"content": []}'
    assert reply.usage.is_reported is False


@pytest.mark.parametrize(
    ("sent", "normal"),
    [("stop", "stop"), ("length", "length"), ("max_tokens", "length"), ("MAX_TOKENS", "length"),
     ("end_turn", "stop"), ("STOP", "stop"), ("SAFETY", "content_filter"), ("content_filter", "content_filter"),
     ("tool_calls", "tool_calls"), ("function_call", "tool_calls"), ("abort", "error"), ("", None), (None, None),
     ("FinishReason.MAX_TOKENS", "length"), ("FINISH_REASON_MAX_TOKENS", "length"), ("maxTokens", "length"),
     ("max-output-tokens", "length"), ("model_context_window_exceeded", "length"), ("eos", "stop"), ("eos_token", "stop"),
     ("<|im_end|>", "stop"), ("endTurn", "stop"), ("content_filter: sexual", "content_filter"),
     ("FinishReason.SAFETY", "content_filter"), ("guardrail_intervened", "content_filter"), ("null", None), ("None", None),
     ("error", "error"), ("network_error", "error"), ("insufficient_system_resource", "error"),
     ("malformed_function_call", "error"), ("toolUse", "tool_calls"), ("whatever", "other")],
)  # fmt: skip
def test_finish_reasons_are_normalised(sent, normal):
    """The same ending has many names."""
    assert response.normal_finish(sent) == normal


def test_an_answer_that_was_all_thinking_is_kept():
    """Empty content with finish length was paid for: an answer, not a retry."""
    reply = read(
        {
            "choices": [{"message": {"content": ""}, "finish_reason": "length"}],
            "usage": {
                "prompt_tokens": 10,
                "completion_tokens": 100,
                "completion_tokens_details": {"reasoning_tokens": 100},
            },
        }
    )
    assert (reply.usage.reasoning_tokens, reply.usage.total_tokens) == (100, 110)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)
_FIELDS = ("id", "choices", "usage", "model", "created", "system_fingerprint", "error")


@given(
    st.dictionaries(st.sampled_from(_FIELDS), json_values, max_size=7), st.sampled_from([200, 400, 429, 500])
)
@settings(max_examples=300, deadline=None)
def test_no_body_crashes_a_run(content, status):
    """Whatever JSON comes: a Reply or a named error."""
    try:
        reply = read_answer(status, json.dumps(content).encode())
    except AnswerError as error:
        assert str(error)
    else:
        assert reply.choices


_PLACES = (("id",), ("created",), ("model",), ("usage",), ("usage", "prompt_tokens"), ("usage", "total_tokens"),
           ("system_fingerprint",), ("choices", 0, "index"), ("choices", 0, "message"),
           ("choices", 0, "message", "content"), ("choices", 0, "finish_reason"), ("choices", 0, "logprobs"))  # fmt: skip


@given(st.sampled_from(_PLACES), json_values)
@settings(max_examples=300, deadline=None)
def test_one_odd_field_does_not_lose_an_answer(place, value):
    """A good completion with any one field replaced by anything is still read, its rest intact."""
    content = json.loads(completion("a cat"))
    target = content
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    reply = read(content)
    if "message" not in place:
        assert reply.choices[0].content == "a cat"


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_some_error(raw):
    """Half bodies, HTML, noise."""
    with pytest.raises(AnswerError):
        read_answer(502, raw)


def test_a_terminal_takes_no_orders_from_a_server():
    """Neither in the message nor in the code."""
    with pytest.raises(AnswerError) as caught:
        read_answer(400, json.dumps(body("a\x1b[2Jb", None, "\x1b[31mred")).encode())
    assert str(caught.value).isprintable()
