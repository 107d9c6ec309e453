"""Completions in odd frames and fields, and refusals in odd words: what each amounts to, and what the user is told."""

from __future__ import annotations

import json

import pytest
from captionmill.nouns.errors import (
    KINDS,
    AccountError,
    AnswerError,
    RateLimited,
    RowError,
    ServerBusy,
)
from captionmill.nouns.rows import HttpAnswer, Reply, Usage
from captionmill.rules import response
from scripted_chat import completion

STOP, PAUSE, AGAIN, FAIL = AccountError, RateLimited, ServerBusy, RowError
WHOLE = json.loads(completion("a cat"))
USAGE = WHOLE["usage"]


def read(raw: bytes, status: int = 200, **headers: str) -> Reply:
    return response.read(HttpAnswer(status, {k.replace("_", "-"): v for k, v in headers.items()}, raw))


def chunk(delta: dict | None = None, finish: str | None = None, **more) -> dict:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": choices} | more


def stream(*events: dict, end: str = "data: [DONE]\n\n", before: str = "", line: str = "\n") -> bytes:
    return (
        before + "".join(f"data: {json.dumps(e, ensure_ascii=False)}{line}{line}" for e in events) + end
    ).encode()


DELTAS = (
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "a "}),
    chunk({"content": "cat"}),
    chunk({}, "stop"),
    chunk(usage=USAGE),
)


# ------------------------------------------------------------------------------- the frame


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps(WHOLE).encode() + b"\n\ndata: [DONE]\n\n",
        json.dumps(WHOLE).encode() + b"\n<!-- served by relay -->",
        json.dumps(WHOLE).encode() + json.dumps({"trace": 1}).encode(),
        b": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n" + json.dumps(WHOLE).encode(),
        b"\xef\xbb\xbf" + json.dumps(WHOLE).encode(),
        b")]}',\n" + json.dumps(WHOLE).encode(),
        json.dumps(json.dumps(WHOLE)).encode(),
        json.dumps([WHOLE]).encode(),
        json.dumps({"code": 0, "msg": "success", "data": WHOLE}).encode(),
        stream(WHOLE),
        stream(WHOLE, end=""),
        stream(*DELTAS),
        stream(*DELTAS, line="\r\n", before=": keep-alive\r\n\r\n"),
        stream(*DELTAS, end="", before="event: message\nid: 1\n"),
        stream(*DELTAS).replace(b"\n\ndata", b"\ndata"),
        stream(*DELTAS).replace(b"data: ", b"data:"),
        b"\n".join(json.dumps(d).encode() for d in DELTAS),
        json.dumps(list(DELTAS)).encode(),
        stream(*(chunk({"content": t}) for t in ("a ", "cat")), chunk({}, "stop", usage=USAGE)),
        completion("a cat\x01").replace(b"\\u0001", b"\x01").replace(b"cat\x01", b"cat"),
        json.dumps(WHOLE).encode("utf-16"),
    ],
)  # fmt: skip
def test_a_completion_is_read_in_any_frame(raw):
    """It arrived, so it was billed: text, ending and usage are all there."""
    reply = read(raw)
    assert (reply.choices[0].content, reply.choices[0].finish) == ("a cat", "stop")
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (400, 20)


@pytest.mark.parametrize(
    ("raw", "headers", "content"),
    [
        (completion("@").replace(b"@", "eine Kätzchen".encode("latin-1")), {}, "eine K\ufffdtzchen"),
        (
            completion("@").replace(b"@", "一只猫坐在垫子上".encode("gbk")),
            {"content_type": "application/json; charset=GBK"},
            "一只猫坐在垫子上",
        ),
        (
            completion("@").replace(b"@", "猫\xff".encode("latin-1", "ignore") or b"\xff"),
            {"content_type": "application/json; charset=no-such"},
            "\ufffd",
        ),
        (completion("two@lines").replace(b"@", b"\n\x02"), {}, "two\n\x02lines"),
    ],
)
def test_bytes_and_characters_that_json_does_not_allow(raw, headers, content):
    """The charset of the header, else UTF-8 with replacement; control characters stay."""
    assert read(raw, **headers).choices[0].content == content


def test_a_stream_with_several_choices_and_a_tool_call():
    """Deltas are joined by their index; the arguments of a call come in pieces."""

    def call(**function: str) -> dict:
        return {
            "index": 0,
            "delta": {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": function}]},
        }

    events = [
        {"choices": [{"index": 1, "delta": {"content": "b", "reasoning_content": "hm"}}]},
        {"choices": [call(name="f", arguments="")]},
        {"choices": [call(arguments='{"a"'), {"index": 1, "delta": {"content": "b"}}]},
        {
            "choices": [
                call(arguments=":1}") | {"finish_reason": "tool_calls"},
                {"index": 1, "delta": {}, "finish_reason": "length"},
            ]
        },
    ]
    first, second = read(stream(*events)).choices
    assert json.loads(first.tool_calls)[0]["function"] == {"name": "f", "arguments": '{"a":1}'}
    assert (first.finish, second.content, second.reasoning, second.finish) == (
        "tool_calls",
        "bb",
        "hm",
        "length",
    )


@pytest.mark.parametrize("status", [200, 201, 202, 203, 206])
def test_any_success_that_holds_a_completion_is_an_answer(status):
    """The status says that it worked, and the answer is there."""
    assert read(completion("a cat"), status).choices[0].content == "a cat"


# ------------------------------------------------------------------------------- the fields


def choice(**fields) -> Reply:
    return read(json.dumps({"choices": [{"finish_reason": "stop"} | fields], "usage": USAGE}).encode())


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        ({"delta": {"content": "a cat"}}, "a cat"),
        ({"message": {"content": None}, "delta": {"content": "a cat"}}, "a cat"),
        ({"message": {"content": " "}, "text": "a cat"}, "a cat"),
        ({"text": "a cat"}, "a cat"),
        ({"message": "a cat"}, "a cat"),
        ({"message": {"content": [{"type": "output_text", "text": "a cat"}]}}, "a cat"),
        ({"message": {"content": [{"type": "text", "text": {"value": "a cat"}}]}}, "a cat"),
        ({"message": {"content": "first"}, "text": "second"}, "first"),
    ],
)
def test_where_a_caption_may_stand(fields, content):
    """In the message, else in the delta, else in the text."""
    assert choice(**fields).choices[0].content == content


@pytest.mark.parametrize(
    ("message", "content", "reasoning"),
    [
        ({"content": None, "reasoning_content": "hm"}, None, "hm"),
        ({"content": "", "reasoning": "hm"}, "", "hm"),
        ({"reasoning": "hm"}, None, "hm"),
        ({"content": "a cat", "reasoning": "hm", "reasoning_details": [{"text": "hm"}]}, "a cat", "hm"),
        ({"content": None, "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}, None, "hm"),
        ({"content": "<think>hm</think>\n\na cat"}, "a cat", "hm"),
        ({"content": "\n<THINK>\nhm\n</THINK> a cat"}, "a cat", "hm"),
        ({"content": "hm\n</think>\n\na cat"}, "a cat", "hm"),
        ({"content": "<think>h</think><think>m</think>a cat"}, "a cat", "h\n\nm"),
        ({"content": "<thinking>hm</thinking>a cat"}, "a cat", "hm"),
        ({"content": "[THINK]hm[/THINK]a cat"}, "a cat", "hm"),
        ({"content": "◁think▷hm◁/think▷a cat"}, "a cat", "hm"),
        (
            {"content": "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>a cat"},
            "a cat",
            "hm",
        ),
        ({"content": "<think>hm, no end"}, None, "hm, no end"),
        ({"content": "<think></think>a cat"}, "a cat", None),
        ({"content": [{"type": "reasoning", "text": "hm"}, {"type": "text", "text": "a cat"}]}, "a cat", "hm"),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a cat"}]},
            "a cat",
            "hm",
        ),
        ({"content": 'a sign with "<think>" and "</think>"'}, 'a sign with "<think>" and "</think>"', None),
        ({"content": "5 < 6, I think"}, "5 < 6, I think", None),
    ],
)  # fmt: skip
def test_thinking_is_no_caption(message, content, reasoning):
    """Thinking has a field of its own, wherever the server put it; marks that a picture shows stay."""
    first = choice(message=message).choices[0]
    assert (first.content, first.reasoning) == (content, reasoning)


def test_a_setting_keeps_the_thinking_in_the_caption():
    """For those who want it."""
    raw = completion("<think>hm</think>a cat")
    assert (
        response.read(HttpAnswer(200, {}, raw), "auto", True).choices[0].content == "<think>hm</think>a cat"
    )


@pytest.mark.parametrize(
    ("message", "is_empty"),
    [
        ({"content": None, "reasoning": "hm"}, True),
        ({"content": " \n"}, True),
        ({"content": "x"}, False),
        ({"content": None, "refusal": "no"}, False),
        ({"content": None, "tool_calls": [{"id": "1"}]}, False),
    ],
)
def test_what_an_empty_answer_is(message, is_empty):
    """One without a caption, a call or a refusal; it was billed, so it is an answer."""
    assert choice(message=message).is_empty is is_empty


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"input_tokens": 10, "output_tokens": 5}, Usage(10, 5, 15)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "input_tokens": 10, "output_tokens": 5}, Usage(10, 5, 15)),
        (
            {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 90},
            Usage(100, 5, 105, 90),
        ),
        (
            {"input_tokens": 10, "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 3}},
            Usage(10, 5, 15, None, 3),
        ),
        ({"promptTokens": 10, "completionTokens": 5, "totalTokens": 15}, Usage(10, 5, 15)),
        ({"prompt_tokens": 10, "completion_tokens": 5}, Usage(10, 5, 15)),
    ],
)  # fmt: skip
def test_the_names_of_counts(usage, expected):
    """By any of the names; zeros beside a count are no count."""
    assert read(json.dumps(WHOLE | {"usage": usage}).encode()).usage == expected


@pytest.mark.parametrize(
    "error",
    [None, "", {}, [], False, {"message": "", "code": None}, {"message": "", "type": "", "param": None, "code": 0},
     {"code": 200, "message": "success"}, "null"],
)  # fmt: skip
def test_an_empty_error_is_none(error):
    """Beside the choices or in them: where nothing is said, nothing is wrong."""
    assert read(json.dumps(WHOLE | {"error": error}).encode()).choices[0].content == "a cat"
    first = WHOLE["choices"][0] | {"error": error}
    assert read(json.dumps(WHOLE | {"choices": [first]}).encode()).choices[0].content == "a cat"


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps({"choices": [{"message": {"content": "half a"}, "finish_reason": "error"}], "usage": USAGE}).encode(),
        json.dumps({"choices": [{"message": {"content": "half a"}, "finish_reason": "network_error"}]}).encode(),
        stream(*DELTAS[:3], end=""),
        stream(*DELTAS[:3], chunk({}, "error")),
    ],
)  # fmt: skip
def test_half_a_caption_is_no_answer(raw):
    """The server says that it broke off, or its stream has no end: billed, kept for the user to see, asked again."""
    with pytest.raises(ServerBusy) as caught:
        read(raw)
    assert caught.value.kind == "broken_answer"
    assert caught.value.bought_nothing
    assert "half a" in str(caught.value) or "a " in str(caught.value)


def test_what_came_is_kept_to_its_first_300_characters():
    """So that the user can see it; never with a part of a word at the end, which could be half a key."""
    with pytest.raises(ServerBusy) as caught:
        read(b"some words " * 26 + b"sk-" + b"k" * 100)
    message = str(caught.value)
    assert "some words some words" in message
    assert "sk-k" not in message
    with pytest.raises(ServerBusy) as caught:
        read(json.dumps({"half": "x" * 1000}).encode())
    assert len(str(caught.value)) < 400


# ------------------------------------------------------------------------------- refusals: kind, action, advice


def body(message: str, code: object = None, kind: str = "", **more: object) -> dict:
    return {"error": {"message": message, "type": kind, "code": code} | more}


HTML = "<!DOCTYPE html><html><head><title>Open WebUI</title></head><body>%s</body></html>"
# status, body, action, kind, a word of the advice (hint or message)
REFUSALS = [
    # B1, B2, B5: money, at any status and in any language
    (429, body("Insufficient balance or no resource package. Please recharge.", "1113"), STOP, "no_quota", "pay"),
    (429, body("余额不足或无可用资源包,请充值。", "1113"), STOP, "no_quota", "pay"),
    (403, body("Key limit exceeded (total limit). Manage it using https://openrouter.ai/settings/keys", 403), STOP, "no_quota", "pay"),
    (403, body("The request failed because your account has an overdue balance.", "AccountOverdueError", "Forbidden"), STOP, "no_quota", "pay"),
    (403, {"code": "INSUFFICIENT_BALANCE", "message": "Insufficient account balance"}, STOP, "no_quota", "pay"),
    (402, body("Insufficient Balance", "invalid_request_error"), STOP, "no_quota", "pay"),
    (400, body("Budget has been exceeded! Current cost: 10.1, Max budget: 10.0", "400", "budget_exceeded"), STOP, "no_quota", "pay"),
    (401, body("クレジットが不足しています"), STOP, "no_quota", "pay"),
    (400, body("недостаточно средств на балансе"), STOP, "no_quota", "pay"),
    (403, {"message": "Saldo insuficiente"}, STOP, "no_quota", "pay"),
    (429, body("You have run out of credits. Please top up your account."), STOP, "no_quota", "pay"),
    (200, {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}, STOP, "no_quota", "pay"),
    # ... but a limit that passes is none
    (429, body("Rate limit reached. Limit 30000, Used 29937, Requested 385. You can increase your rate limit by adding a payment method to your account at https://platform.openai.com/account/billing.", "rate_limit_exceeded"), PAUSE, "rate_limited", ""),
    # B3: one request above the whole limit
    (413, body("Request too large for model `llama-4` in organization `o` on tokens per minute (TPM): Limit 6000, Requested 7205", "rate_limit_exceeded", "tokens"), FAIL, "over_limit", "7205"),
    (429, body("on tokens per min. Limit: 6,000 / min. Requested: 7,205", "rate_limit_exceeded"), FAIL, "over_limit", "7,205"),
    (413, body("TPM exceeded", "rate_limit_exceeded"), FAIL, "over_limit", ""),
    # B4: no picture can be shown to this model, at any status
    (500, body("image input is not supported - hint: if this is unexpected, you may need to provide the mmproj", 500), STOP, "no_vision", "vision model"),
    (400, body("google/gemma is not a multimodal model"), STOP, "no_vision", "vision model"),
    (400, body("At most 0 image(s) may be provided in one prompt."), STOP, "no_vision", "vision model"),
    (422, body("Failed to deserialize the JSON body: messages[0]: unknown variant `image_url`, expected `text`"), STOP, "no_vision", "vision model"),
    (404, body("No endpoints found that support image input", 404), STOP, "no_vision", "vision model"),
    (400, body("This model does not support images."), STOP, "no_vision", "vision model"),
    (500, body("images are not supported by this backend"), STOP, "no_vision", "vision model"),
    (400, body("当前模型不支持图片输入"), STOP, "no_vision", "vision model"),
    (400, body("该模型不支持多模态"), STOP, "no_vision", "vision model"),
    (400, body("Image format is not supported: image/bmp"), FAIL, "bad_request", ""),
    (400, body("The model does not support image format webp"), FAIL, "bad_request", ""),
    # B5: the key, the model, a setting, as 400
    (400, [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT"}}], STOP, "bad_key", "key_env"),
    (400, body("Invalid API-key provided.", "InvalidApiKey"), STOP, "bad_key", "key_env"),
    (400, body("Model Not Exist", "invalid_request_error"), STOP, "model_not_found", "models"),
    (400, body("foo/bar is not a valid model ID", 400), STOP, "model_not_found", "models"),
    (400, body("模型不存在，请检查模型代码。", "1211"), STOP, "model_not_found", "models"),
    (404, body("model 'llava' not found, try pulling it first"), STOP, "model_not_found", "models"),
    (400, body("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."), STOP, "bad_parameter", "setting"),
    (400, body("`temperature` is deprecated for this model."), STOP, "bad_parameter", "setting"),
    (400, body("no good", None, "invalid_request_error", param="top_p"), STOP, "bad_parameter", "setting"),
    (422, {"detail": [{"loc": ["body", "top_k"], "msg": "extra fields not permitted"}]}, STOP, "bad_parameter", "setting"),
    (400, body("no good", None, "invalid_request_error", param="messages.[0].content"), FAIL, "bad_request", ""),
    # B7: a success without choices
    (200, {"base_resp": {"status_code": 1004, "status_msg": "login fail: please carry the API secret key"}}, STOP, "bad_key", "key_env"),
    (200, {"error_code": 18, "error_msg": "Open api qps request limit reached"}, PAUSE, "rate_limited", "qps"),
    (200, {"detail": "worker died"}, AGAIN, "server_error", "worker died"),
    (200, {"errors": [{"message": "worker died"}]}, AGAIN, "server_error", "worker died"),
    (200, "worker died", AGAIN, "server_error", "worker died"),
    (200, {"object": "list", "stuff": 1}, AGAIN, "empty_answer", '"stuff": 1'),
    # B8: the wrong address
    (200, HTML % "Chat", STOP, "wrong_address", "this looks like a web page"),
    (200, HTML % "502 Bad Gateway", AGAIN, "server_error", "this looks like a web page"),
    (404, {"detail": "Not Found"}, STOP, "wrong_address", "/chat/completions"),
    (404, "404 page not found", STOP, "wrong_address", "/chat/completions"),
    (405, HTML % "", STOP, "wrong_address", "/chat/completions"),
    # B9: what stands before the endpoint
    (407, "", STOP, "proxy", "--proxy"),
    (403, HTML % "Attention Required! | Cloudflare", STOP, "blocked", "firewall"),
    (503, HTML % "Just a moment...", STOP, "blocked", "firewall"),
    # B10: it passes
    (425, "", AGAIN, "server_error", ""),
    (498, "", AGAIN, "overloaded", ""),
    (499, "", AGAIN, "server_error", ""),
]  # fmt: skip


@pytest.mark.parametrize(("status", "content", "action", "kind", "advice"), REFUSALS)
def test_every_refusal_has_its_kind_its_action_and_its_advice(status, content, action, kind, advice):
    """What is final about the account stops; what is about one row fails it; what passes is asked again."""
    raw = (
        content.encode()
        if isinstance(content, str) and kind != "server_error"
        else json.dumps(content).encode()
    )
    if isinstance(content, str) and content.startswith("<"):
        raw = content.encode()
    with pytest.raises(AnswerError) as caught:
        read(raw, status)
    error = caught.value
    assert (type(error), error.kind) == (action, kind), str(error)
    assert advice in f"{KINDS[kind].hint} {error}"
