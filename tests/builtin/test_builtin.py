"""The built-in endpoint is a real one: openai-python and curl talk to it, and it refuses what OpenAI refuses."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import time
import urllib.error
import urllib.request

import openai
import pytest
from captionmill.builtin.describer import describe, measure
from captionmill.builtin.server import EndpointSettings, go_duration, serving
from captionmill.nouns.rows import HttpAnswer
from captionmill.rules.response import read
from captionmill.rules.tokens import text_tokens
from PIL import Image

PICTURE_TOKENS = 425  # of 640 x 480 px for gpt-4o: two tiles


def jpeg(size=(640, 480), colour="teal", format_name="JPEG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, format_name)
    return out.getvalue()


def data_url(data: bytes, mime: str = "image/jpeg") -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def question(url: str | None = None, text: str = "Describe this image.", **parameters) -> dict:
    content = [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": url or data_url(jpeg())}},
    ]
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": content}]} | parameters


def post(base_url: str, body: dict | bytes, key: str | None = "k") -> tuple[int, dict, dict]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(f"{base_url}/chat/completions", raw, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.load(response), dict(response.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error), dict(error.headers)


@pytest.fixture(scope="module")
def base_url():
    with serving(EndpointSettings()) as url:
        yield url


def test_openai_python_can_talk_to_it(base_url):
    """The official client sends a picture and reads the whole completion, and lists the models."""
    with openai.OpenAI(base_url=base_url, api_key="k", max_retries=0) as client:
        completion = client.chat.completions.create(**question(), max_tokens=200, n=2)
        assert [m.id for m in client.models.list()] == ["describer"]
    assert completion.object == "chat.completion"
    assert [c.index for c in completion.choices] == [0, 1]
    assert completion.choices[0].finish_reason == "stop"
    text = completion.choices[0].message.content
    assert "no vision model" in text
    assert "640 x 480" in text
    assert "teal" in text
    usage = completion.usage
    assert usage.prompt_tokens == PICTURE_TOKENS + text_tokens("Describe this image.")
    assert usage.completion_tokens == sum(text_tokens(c.message.content) for c in completion.choices)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert completion.system_fingerprint == "fp_builtin_describer"


def test_curl_can_talk_to_it(base_url, tmp_path):
    """The command on the API page, with this address."""
    (tmp_path / "body.json").write_text(json.dumps(question(max_tokens=2000)))
    done = subprocess.run(
        ["curl", "-sS", "--location", "--request", "POST", f"{base_url}/chat/completions",
         "--header", "Accept: application/json", "--header", "Authorization: Bearer sk-xxxxx",
         "--header", "Content-Type: application/json", "--data-binary", f"@{tmp_path / 'body.json'}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["choices"][0]["message"]["role"] == "assistant"


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        (question("data:image/jpeg;base64,@@@"), 400, "invalid_base64_image_url", "Invalid base64"),
        (question(data_url(b"no picture at all")), 400, "invalid_image_format", "unsupported image"),
        (question(data_url(jpeg()[:600])), 400, "invalid_image_format", "unsupported image"),
        (question(data_url(jpeg(), "image/png")), 400, "invalid_image_format", "media type image/png"),
        (question(data_url(jpeg(), "image/jpg")), 400, "invalid_image_format", "unsupported image"),
        (question(data_url(jpeg(), "image/tiff")), 400, "invalid_image_format", "unsupported image"),
        (question("https://example.org/a.jpg"), 400, "invalid_image_url", "data:image"),
        (question(n=0), 400, "invalid_value", "'n'"),
        (question(max_tokens="many"), 400, "invalid_value", "'max_tokens'"),
        ({"messages": []}, 400, None, "model"),
        ({"model": "m", "messages": []}, 400, "empty_array", "messages"),
        (b"{not json", 400, None, "parse the JSON"),
        (question(tool_choice={"type": "function", "function": {"name": "f"}}), 400, None, "Tool choice 'f'"),
    ],
)
def test_what_openai_refuses_is_refused(base_url, body, status, code, says):
    """Each bad request gets a 400 with OpenAI's envelope."""
    found, answer, _ = post(base_url, body)
    assert (found, answer["error"]["code"]) == (status, code)
    assert says in answer["error"]["message"]
    assert answer["error"]["type"] == "invalid_request_error"


def test_keys_and_models():
    """Without the right Bearer key 401, for another model 404; the key itself is not repeated."""
    with serving(EndpointSettings(key="right", models=("gpt-4o",))) as url:
        for key in (None, "wrong"):
            status, answer, _ = post(url, question(), key)
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
            assert "wrong" not in json.dumps(answer)
        assert post(url, question(), "right")[0] == 200
        status, answer, _ = post(url, question() | {"model": "gpt-9"}, "right")
        assert (status, answer["error"]["code"]) == (404, "model_not_found")


def test_max_tokens_and_stop_end_an_answer(base_url):
    """finish_reason length at max_tokens, stop at a stop sequence."""
    _, cut, _ = post(base_url, question(max_tokens=5))
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] <= 5
    _, stopped, _ = post(base_url, question(stop=[" of ", "zzz"]))
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert " of " not in stopped["choices"][0]["message"]["content"]


def test_response_formats_and_tools(base_url):
    """JSON when JSON is asked for, a value for every property of a schema, a call when a tool is forced."""
    _, answer, _ = post(
        base_url, question(text="Describe it in JSON.", response_format={"type": "json_object"})
    )
    assert json.loads(answer["choices"][0]["message"]["content"])["pictures"][0]["width"] == 640
    schema = {
        "type": "object",
        "properties": {
            "caption": {"type": "string"},
            "width": {"type": "integer"},
            "kind": {"enum": ["photo", "drawing"]},
            "tags": {"type": "array", "items": {"type": "string"}},
            "sharp": {"type": ["boolean", "null"]},
        },
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    _, answer, _ = post(base_url, question(response_format=wanted))
    label = json.loads(answer["choices"][0]["message"]["content"])
    assert (set(label), label["width"], label["kind"]) == (set(schema["properties"]), 640, "photo")
    tools = [{"type": "function", "function": {"name": "save", "parameters": schema}}]
    for choice in ("required", {"type": "function", "function": {"name": "save"}}):
        _, answer, _ = post(base_url, question(tools=tools, tool_choice=choice))
        call = answer["choices"][0]["message"]["tool_calls"][0]["function"]
        assert answer["choices"][0]["finish_reason"] == "tool_calls"
        assert (call["name"], json.loads(call["arguments"])["width"]) == ("save", 640)
    _, answer, _ = post(base_url, question(tools=tools, tool_choice="auto"))
    assert answer["choices"][0]["message"]["content"]


def test_limits_are_enforced_and_told():
    """Tokens charged at arrival with max_tokens; a 429 says when to come back, and then it is let in."""
    with serving(EndpointSettings(tokens_per_minute=60_000, requests_per_minute=1000)) as url:
        need = PICTURE_TOKENS + text_tokens("Describe this image.") + 40_000
        status, _, headers = post(url, question(max_tokens=40_000))
        assert status == 200
        assert headers["x-ratelimit-limit-tokens"] == "60000"
        assert int(headers["x-ratelimit-remaining-tokens"]) == pytest.approx(60_000 - need, abs=3000)
        assert headers["x-ratelimit-remaining-requests"] == "999"
        status, answer, headers = post(url, question(max_tokens=20_500))
        assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
        wait = int(headers["retry-after-ms"]) / 1000
        assert int(headers["retry-after"]) >= wait > 0
        time.sleep(wait)  # a real server's real bucket
        assert post(url, question(max_tokens=20_500))[0] == 200
        status, answer, _ = post(url, question(max_tokens=70_000))
        assert status == 429
        assert "Request too large" in answer["error"]["message"]


def test_a_quota_may_start_empty_and_say_nothing():
    """The first request is refused, without a word of the limit; what was to be had and taken is counted."""
    with serving(EndpointSettings(tokens_per_minute=60_000, starts_empty=True, says_limits=False)) as url:
        status, _, headers = post(url, question(max_tokens=1000))
        assert status == 429
        assert "retry-after" in headers
        assert not [name for name in headers if name.startswith("x-ratelimit")]
        time.sleep(int(headers["retry-after-ms"]) / 1000)  # a real server's real bucket
        assert post(url, question(max_tokens=1000))[0] == 200
        with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as answer:
            tokens = json.load(answer)["quotas"]["tokens"]
    need = PICTURE_TOKENS + text_tokens("Describe this image.") + 1000
    assert tokens["taken"] == pytest.approx(need, abs=20)
    assert need <= tokens["available"] <= 3 * need


def test_faults_come_at_their_rate():
    """A third of the requests fails as asked, the others are answered."""
    with serving(EndpointSettings(faults={"500": 0.2, "truncate": 0.1}, seed=3)) as url:
        results = []
        for _ in range(60):
            try:
                results.append(post(url, question())[0])
            except json.JSONDecodeError:
                results.append("truncated")
    assert 5 <= results.count(500) <= 20
    assert 1 <= results.count("truncated") <= 14
    assert results.count(200) >= 30


def test_the_description_is_measured():
    """Shape, size, brightness, contrast and colours follow the picture, not its name."""
    stripes = Image.new("RGB", (300, 600), "black")
    stripes.paste((250, 250, 250), (0, 0, 150, 600))
    out = io.BytesIO()
    stripes.save(out, "PNG")
    measured = measure(out.getvalue())
    assert (measured.format, measured.shape) == ("png", "portrait")
    assert measured.contrast > 100
    assert set(measured.colours) == {"black", "white"}
    text = describe(measured)
    assert "300 x 600" in text
    assert "strong contrast" in text
    dark = measure(jpeg((100, 100), "#101010"))
    assert (dark.shape, dark.colours) == ("square", ("black",))
    assert "dark" in describe(dark)


def test_durations_as_openai_writes_them():
    """ms below a second, minutes above one."""
    assert [go_duration(s) for s in (0, 0.119, 14.981, 86.4, 360)] == [
        "0ms",
        "119ms",
        "14.981s",
        "1m26.4s",
        "6m0s",
    ]


@pytest.mark.parametrize("wants_usage", [True, False])
def test_it_streams_when_asked(base_url, wants_usage):
    """The official client puts the same text together from the events; usage comes last, on request."""
    client = openai.OpenAI(base_url=base_url, api_key="k")
    whole = client.chat.completions.create(**question())
    options = {"stream_options": {"include_usage": True}} if wants_usage else {}
    chunks = list(client.chat.completions.create(**question(), stream=True, **options))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 5
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    counts = [c.usage.total_tokens for c in chunks if c.usage]
    assert counts == ([whole.usage.total_tokens] if wants_usage else [])


def test_its_stream_is_a_completion_for_us(base_url):
    """What a run reads of a stream that it did not ask for: text, ending and usage."""
    body = json.dumps(question(stream=True, stream_options={"include_usage": True})).encode()
    request = urllib.request.Request(f"{base_url}/chat/completions", body, {"Authorization": "Bearer k"})
    with urllib.request.urlopen(request, timeout=20) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        reply = read(HttpAnswer(200, {}, response.read()))
    assert reply.choices[0].content.startswith("Measured by the built-in describer")
    assert (reply.choices[0].finish, reply.usage.is_reported) == ("stop", True)
