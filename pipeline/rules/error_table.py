"""An answer that is no completion -> the named error it amounts to. Pure; the tables below are the policy.

What an error says is read in this order: code, type and message first, the status last. Relays give permanent faults as
500 and a saturated upstream as 429 `insufficient_quota`, so the status alone misleads. A rule may hold for one sort of
endpoint only: from a provider, `insufficient_quota` means that the user's money is gone (stop); through a relay it is
the quota of one of many upstream keys (wait).

Each rule names where its words were seen: a provider's documentation, the source of a relay, or a public report
(repository#number). "Unrecorded" is a rule whose source was not written down when it was made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping
from typing import Any, NamedTuple

from ..nouns.errors import KINDS, AnswerError, RateLimited, ServerBusy, TransientError
from ..nouns.rows import HttpAnswer
from . import lenient
from .envelopes import (
    ErrorText,
    cut,
    error_inside,
    error_text,
    first_words,
    is_html,
    loads,
    looks_like_relay,
    says_something,
)
from .finish import normal_finish
from .server_hints import retry_after_seconds


class Rule(NamedTuple):
    """The first rule that matches decides.

    words: any of them in "code type message", lower case: a text, or a pattern to search for. kind: a key of `KINDS`,
    which has the class. statuses: None for any. where: direct, relay, or any.
    """

    words: tuple[str | re.Pattern[str], ...]
    kind: str
    statuses: Container[int] | None = None
    where: str = "any"

    def holds(self, words: str, status: int, where: str) -> bool:
        """Whether it decides. words: in lower case. where: direct or relay."""
        if (self.statuses is not None and status not in self.statuses) or self.where not in ("any", where):
            return False
        return any(w in words if isinstance(w, str) else w.search(words) for w in self.words)


_REFUSED = range(400, 500)
_IMAGES = r"(?:image|images|vision|multi-?modal|multi-?modality|pictures?|image_url)"
# "image inputs are not supported", but not "image format is not supported", which is about one picture
_IMAGES_ARE_NOT = re.compile(
    rf"{_IMAGES}(?: inputs?| content| contents| data| messages?| parts?| understanding| capabilit\w+| processing| prompts?)?"
    r" (?:is|are|was|were) (?:not|currently not|only) (?:currently |yet )?(?:supported|enabled|available|allowed|accepted)(?! (?:type|format|size))"
)
_NO_IMAGES = re.compile(
    rf"(?:not|n't|cannot|unable to) (?:currently )?(?:support|supported|supporting|accept|handle|process|understand|have|take|see|view)(?: any| the)?(?: \w+)?"
    rf" {_IMAGES}(?! ?(?:format|type|size|mime|file|dimension|url|detail|with|larger|above|over|of this))"
)
_UNKNOWN_MODEL = re.compile(
    r"not a valid model|model\b[^.;]{0,80}?\b(?:not exist|not found|does ?n[o']t exist|unknown|no such|not a valid|isn't valid|not supported)"
    r"|(?:unknown|invalid|unsupported|no such|unrecognized|nonexistent) (?:model|deployment)\b|模型[^。]{0,40}(?:不存在|未找到|无效|不支持)|(?:不存在|无效|未知)的?模型"
)
_KEY_IS_WRONG = re.compile(
    r"(?:invalid|incorrect|wrong|bad|expired|missing|no|unknown|revoked|disabled) (?:api|access|auth|authentication)[ _-]?(?:key|token|credentials?)"
    r"|api[ _-]?key (?:is |has |was )?(?:not valid|invalid|incorrect|wrong|expired|missing|required|revoked|disabled|not found|not provided|been)"
    r"|(?:access )?token (?:is |has )?(?:been )?(?:expired|revoked)|(?:api[ _-]?key|密钥|令牌|鉴权|认证|token) ?(?:无效|错误|已过期|过期|不正确|不存在|失败)|无效的 ?(?:api|密钥|令牌|key)"
)
_MONEY = re.compile(
    r"insufficient[ _](?:account[ _])?(?:balance|funds?|credits?)|not enough (?:balance|credits?|funds|money)|(?:balance|credits?) (?:is |are )?(?:not enough|insufficient|too low|exhausted|depleted|used up)"
    r"|(?:out of|no|requires? more|exceeded your) (?:remaining )?(?:credits?|balance|funds)|overdue|in arrears|(?:budget|credit limit|spend(?:ing)?[ _](?:limit|cap)|key limit|monthly limit|usage cap)s?[ _](?:has |have )?(?:been )?(?:exceeded|reached)"
    r"|exceeded?[ _](?:\w+[ _]){0,3}(?:budget|spending limit|credit limit)|budget_exceeded|payment[ _]required|(?:please|must|need to) (?:recharge|top[ -]?up|add (?:funds|credits?|balance))"
    r"|余额不足|欠费|(?:账户|账号|帐户)余额|请(?:及时)?充值|资源包(?:已)?(?:用尽|用完|不足)|额度(?:已)?(?:用尽|用完|耗尽)|余额已|餘額不足|残高不足|クレジットが不足|잔액(?:이)? ?부족|크레딧(?:이)? ?부족"
    r"|недостаточно (?:средств|кредитов)|saldo insuficiente|sem créditos|solde insuffisant|guthaben (?:reicht nicht|aufgebraucht|nicht ausreichend)|không đủ (?:số dư|tiền)|số dư không đủ"
)
_PARAMETER = re.compile(
    r"(?:unsupported|unknown|unrecognized|unexpected|extra) (?:request )?(?:parameter|keyword|field|argument|option|value)s?\b|invalid parameter|invalid value for [`'\"]"
    r"|(?:not|n't) support[^.]{0,40}(?:parameter|argument|option)|extra (?:inputs|fields) (?:are )?not permitted|(?:parameter|argument|field|option)\b[^.]{0,40}(?:not supported|not permitted|not allowed|unknown|deprecated)"
    r"|`?[a-z_]+`? is (?:deprecated|not supported) (?:for|with|by) this model|unknown name \"|max_(?:completion_)?tokens\b[^.]{0,60}(?:too large|too high|at most|should be|must be|exceed|range|不能|应)"
    r"|(?:不支持的?|未知的?|无效的?)参数|参数[^。]{0,30}(?:不支持|错误|无效|不合法)"
)

# fmt: off
RULES: tuple[Rule, ...] = (
    # -- the picture or the prompt: this row only
    # OpenAI: one request above the whole minute's limit (shell_gpt#653, aider#1880); Groq gives it as 413
    # (gpt-researcher#985); "requested tokens exceed": unrecorded
    Rule(("request too large for", "requested tokens exceed"), "over_limit", _REFUSED),
    Rule(("rate_limit", "tokens per minute", "(tpm)"), "over_limit", (413,)),
    # OpenAI's error codes; vLLM (vllm#12886); "context window": unrecorded
    Rule(("context_length_exceeded", "maximum context length", "context window"), "context_too_long"),
    # OpenAI's safety system (OpenAdapt#674); Azure's content_filter and its inner code; Qwen on DashScope (owl#432);
    # new-api controller/relay.go, as 500; OpenRouter's moderation, as 403
    Rule(("content_policy", "content_filter", "responsibleaipolicyviolation", "data_inspection_failed",
          "datainspectionfailed", "sensitive_words_detected", "prompt_blocked", "safety system", "flagged_input",
          "content management policy", "input was flagged"), "content_policy"),
    # OpenAI (gptpdf#6, STranslate#277, openai-dotnet#708; more than 30,000 patches); Claude (claude-code#15746 for the
    # media type, #19631 for the size, dify#11527)
    Rule(("invalid_image", "image_parse_error", "does not represent a valid image", "unsupported image", "unsupported_image",
          "invalid mime type", "could not process image", "does not match the provided media type", "image exceeds",
          "invalid base64", "invalid_base64", "invalid_image_url", "limit of 30000"), "bad_image", (400, 422)),
    # Claude behind Cloudflare; new-api controller/relay.go (MAX_REQUEST_BODY_MB); nginx
    Rule(("request_too_large", "read_request_body_failed", "request entity too large"), "body_too_large"),

    # -- the model takes no pictures, at any status: llama-server without mmproj (llama.cpp#15377, as 500), vLLM ("at most
    # 0 image(s)", "not a multimodal model"), DeepSeek (unknown variant `image_url`), OpenRouter ("support image input"),
    # OpenAI ("only supported by certain models"); Zhipu and Qwen in Chinese: unrecorded
    Rule(("only supported by certain models", "at most 0 image", "support image input", "mmproj", "text-only model",
          "does not support image input", re.compile(r"unknown (?:variant|part type|content type):? [`'\"]?(?:image_url|input_image|image)"),
          re.compile(r"(?:not an?|non-?|isn't an?) ?(?:multi-?modal|vision)(?:-language)? (?:model|llm)"),
          re.compile(r"(?:unsupported|invalid|unexpected) (?:content|message|part|modality|input)(?: part| content)?(?: type)?s?:? [`'\"]?(?:image_url|image|vision)\b(?! ?(?:format|type|url))"),
          re.compile(r"content[^.]{0,30}(?:must be|should be|expected) a (?:valid )?string"),
          re.compile(r"不支持(?:[^。，]{0,6})(?:图片|图像|图文|视觉|多模态|影像)(?!格式|类型|大小|尺寸)|(?:图片|图像|视觉|多模态)(?:输入|理解)?(?:功能)?(?:不被支持|不支持|暂不支持)"),
          _IMAGES_ARE_NOT, _NO_IMAGES), "no_vision"),

    # -- money
    # the user's own at a relay: one-api relay/controller/helper.go, new-api service/pre_consume_quota.go
    Rule(("user quota is not enough", "insufficient_user_quota", "pre_consume_token_quota_failed", "用户额度不足", "令牌额度不足",
          "预扣费额度失败", "该令牌额度已用尽"), "no_quota"),
    # bounds on requests in flight, as relays and LiteLLM word them (token_concurrency_limit_reached in a fork of new-api)
    Rule(("concurrent requests", "concurrency limit", "concurrency_limit", "max_concurrency",
          "limit type: max_parallel_requests", "limit type = max_parallel_requests", "并发"), "saturated", (429,)),
    # one-api and new-api controller/relay.go put this over any 429 of an upstream
    Rule(("负载已饱和",), "saturated"),
    # an upstream key without money: the relay's next choice is another one (one-api monitor/manage.go)
    Rule(("insufficient_quota",), "saturated", where="relay"),
    # OpenAI's error codes; Claude ("credit balance is too low", billing_error); Qwen on DashScope (arrearage,
    # spring-ai-alibaba#1146); Zhipu's code 1113 as 429 (continue#11823); OpenRouter ("Key limit exceeded", as 403);
    # Volcengine (AccountOverdueError); sub2api (INSUFFICIENT_BALANCE); LiteLLM (budget_exceeded, as 400);
    # billing_hard_limit, MiniMax ("insufficient balance") and the other languages: unrecorded
    Rule(("insufficient_quota", "credit_balance_exhausted", "spend_limit", "organization_usage_limit_exceeded",
          "credit balance is too low", "billing_error", "billing_hard_limit", "arrearage", "1113 ", _MONEY), "no_quota"),

    # -- the key and what it may do
    # trouble in a relay's database, given as 401: one-api model/token.go
    Rule(("令牌验证失败", "数据库查询出错"), "relay_trouble"),
    # OpenAI's error codes; Claude; one-api model/token.go, new-api i18n/zh-CN; Gemini ("API key not valid", as 400);
    # MiniMax ("login fail", in a 200)
    Rule(("invalid_api_key", "api_key_invalid", "authentication_error", "无效的令牌", "该令牌已过期", "未提供令牌", "login fail",
          _KEY_IS_WRONG), "bad_key"),
    # Claude; Gemini; one-api middleware/auth.go; OpenAI (country); Azure (blocked resource, pollinations#9707)
    Rule(("permission_error", "permission_denied", "无权使用模型", "用户已被封禁", "只能在指定网段使用", "unsupported_country",
          "has been temporarily blocked"), "no_permission"),

    # -- the model
    # one-api and new-api middleware/distributor.go; the second gives the code model_not_found with it
    Rule(("无可用渠道", "get_channel_failed", "no available channel"), "no_channel"),
    # OpenAI's error codes; Azure (DeploymentNotFound); Claude (not_found_error); Ollama (chatbox#646)
    Rule(("model_not_found", "deploymentnotfound", "not_found_error", "model not found", "model_not_supported"), "model_not_found"),
    # DeepSeek ("Model Not Exist"), OpenRouter ("is not a valid model ID"), both as 400
    Rule((_UNKNOWN_MODEL,), "model_not_found", (200, *_REFUSED)),
    # OpenAI's reasoning models refuse max_tokens and temperature (YPrompt#26, code-gpt-docs#445), relays without the code;
    # pydantic ("extra inputs are not permitted"); Gemini ("unknown name"); the lengths of an answer: unrecorded
    Rule(("unsupported_parameter", "unsupported_value", "unknown_parameter", _PARAMETER), "bad_parameter", (400, 422)),

    # -- permanent faults that a relay gives as 500: new-api types/error.go, controller/relay.go
    Rule(("count_token_failed", "model_price_error", "convert_request_failed"), "refused_by_relay"),
    Rule(("invalid_request",), "refused_by_relay", (500,)),

    # -- too much, too fast
    # OpenAI (rate_limit_exceeded, slow_down); Claude (rate_limit_error); Gemini (RESOURCE_EXHAUSTED); Azure ("exceeded
    # token rate limit"); new-api middleware/model-rate-limit.go; MiniMax and Baidu in a 200 ("rate limit", "request limit")
    Rule(("rate_limit", "rate limit", "slow_down", "resource_exhausted", "请求数限制", "too many requests", "qps request limit"), "rate_limited"),
    # Claude (overloaded_error, 529); OpenAI (server_is_overloaded, 503); Ollama ("server busy", pull request 4144)
    Rule(("overloaded", "server_is_overloaded", "server busy"), "overloaded"),
)

# where no rule matches: RFC 9110, 529 of Claude, 498 of Groq, and what nginx and gateways say of a request that was given up
BY_STATUS: Mapping[int, str] = {
    400: "bad_request",
    401: "bad_key",
    402: "no_quota",
    403: "no_permission",
    404: "wrong_address",
    405: "wrong_address",
    407: "proxy",
    408: "server_timeout",
    409: "server_error",  # the OpenAI SDK tries it again too
    413: "body_too_large",
    415: "bad_request",
    420: "rate_limited",
    422: "bad_request",
    423: "server_error",
    424: "server_error",  # what is behind the server failed
    425: "server_error",
    429: "rate_limited",
    444: "server_error",
    449: "server_error",
    460: "server_error",
    498: "overloaded",
    499: "server_error",
    529: "overloaded",
}
# fmt: on

# a gateway stopped waiting for an upstream that may have gone on and billed its answer (Cloudflare: 520, 522, 524)
_GATEWAY_TIMEOUTS = frozenset({408, 499, 504, 520, 522, 524})
_KEPT_CHARACTERS = 300  # of a body that was paid for and cannot be read
# "Limit 30000, Requested 31538" without "Used": more than the whole limit, so no wait helps
_LIMIT_AND_REQUEST = re.compile(r"limit:? ([\d,]+)[^\d]{1,20}requested:? ([\d,]+)")
# a page for a browser with a status of success: a gateway's, a firewall's, or else that of another address
PAGES: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(
            r"bad gateway|gateway time-?out|service (?:temporarily )?unavailable|internal server error"
        ),
        "server_error",
    ),
    (re.compile(r"cloudflare|attention required|just a moment|access denied|captcha|firewall"), "blocked"),
    (re.compile(""), "wrong_address"),
)


def read_error(answer: HttpAnswer, endpoint_kind: str = "auto") -> AnswerError:
    """The named error of an answer in which `response.read_reply` found no completion.

    endpoint_kind: direct, relay, or auto, which goes by the relay's own marks in the answer.

    The error's `has_usage` says whether the answer reports tokens: then it is on the invoice all the same.
    """
    body = loads(answer.body)
    if not isinstance(body, dict | list):  # half of it may be JSON
        body = lenient.completion(answer.body, answer.headers) or body
    error = _named(answer, body, endpoint_kind)
    usage = body.get("usage") if isinstance(body, dict) else None
    counts = usage.values() if isinstance(usage, dict) else ()
    error.has_usage = any(isinstance(count, int) and count > 0 for count in counts)
    return error


def may_be_billed(error: AnswerError) -> bool:
    """Whether an attempt that brought no answer may be on the invoice: an answer that cannot be read, half an answer, or
    silence."""
    return (
        error.has_usage
        or error.bought_nothing
        or error.facts.may_be_billed
        or error.http_status in _GATEWAY_TIMEOUTS
    )


def _named(answer: HttpAnswer, body: Any, endpoint_kind: str) -> AnswerError:
    if 200 <= answer.status < 300:
        inner = error_inside(body)
        if inner is not None:
            body = {"error": inner}
        elif (nothing := _no_answer(answer, body)) is not None:
            return nothing
    text = _location(answer) or error_text(body, answer.body)
    is_relay = endpoint_kind == "relay" or (endpoint_kind == "auto" and looks_like_relay(answer, text))
    kind = _page_kind(answer) or _decide(text, answer.status, is_relay)
    error, message = KINDS[kind].error, _message(text, answer)
    if issubclass(error, TransientError):
        wait = retry_after_seconds(answer.headers, text.message, body)
        busy = error(message, kind=kind, http_status=answer.status, retry_after_seconds=wait)
        if isinstance(busy, RateLimited):
            busy.names = named_limit(text.words, answer.headers)
        return busy
    return error(message, kind=kind, http_status=answer.status)


def _message(text: ErrorText, answer: HttpAnswer) -> str:
    """Status, the server's words, and its code where the words do not have it."""
    message, status = text.message, answer.status
    if not message.startswith(f"{status}: "):
        message = f"{status}: {message or 'no message'}"
    if text.code and text.code not in message:
        message += f" [{text.code}]"
    if 200 <= status < 300:
        message += _what_came(answer)
    return _printable(message)


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


def _printable(text: str) -> str:
    return "".join(
        c if c.isprintable() else " " for c in text
    )  # a control character would steer the terminal


def _what_came(answer: HttpAnswer) -> str:
    """The beginning of a body that was paid for, for the user to see. As text: a key in it must be found to be removed."""
    body = loads(answer.body)
    if isinstance(body, dict | list):
        text = cut(json.dumps(body, ensure_ascii=False), _KEPT_CHARACTERS)
    else:
        text = first_words(lenient.decoded(answer.body[:4000], answer.headers).encode(), _KEPT_CHARACTERS)
    return f"; the server sent: {text or 'nothing'}"


def _location(answer: HttpAnswer) -> ErrorText | None:
    """Where a redirect points; None where the answer is none. It is not followed, since the key would go along."""
    if not 300 <= answer.status < 400:
        return None
    return ErrorText(f"a redirect to {answer.headers.get('location', 'nowhere')}; give that address")


def _page_kind(answer: HttpAnswer) -> str | None:
    """The kind of an error that a page for a browser stands for; None where the table says enough."""
    if "cf-mitigated" in answer.headers:
        return "blocked"
    if answer.status == 403 and is_html(answer.body):
        return "blocked"
    if answer.status == 503 and is_html(answer.body) and b"just a moment" in answer.body[:4000].lower():
        return "blocked"  # Cloudflare asks whether we are human
    return None


def _no_answer(answer: HttpAnswer, body: Any) -> AnswerError | None:
    """The error of a success that says nothing: half a body, HTML, no choices, or empty with zero usage.

    None where the body has words of its own, which the tables may know.
    """
    status = answer.status
    if is_html(answer.body):
        return _web_page(answer)
    if isinstance(body, dict) and _broke_off(body):
        return ServerBusy(
            _printable(f"{status}: the server broke the answer off{_what_came(answer)}"),
            kind="broken_answer",
            http_status=status,
        )
    if body is None and answer.body.strip():
        return ServerBusy(
            _printable(f"{status}: the answer is not JSON{_what_came(answer)}"),
            kind="broken_answer",
            http_status=status,
        )
    choices = body.get("choices") if isinstance(body, dict) else None
    text = error_text(body, b"")
    if not choices and says_something(text.message):
        return None
    what = "the answer is empty" if choices or not answer.body.strip() else "no completion in the answer"
    return ServerBusy(
        _printable(f"{status}: {what}{_what_came(answer)}"), kind="empty_answer", http_status=status
    )


def _broke_off(body: dict[str, Any]) -> bool:
    """Whether the server itself says that the answer is half (finish_reason "error", pydantic-ai#2844), or a stream ended
    before its end."""
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(first, dict):
        return normal_finish(str(first.get("finish_reason"))) == "error"
    return "choices" not in body and str(body.get("object") or "").endswith(".chunk")


def _web_page(answer: HttpAnswer) -> AnswerError:
    """The error of a page for a browser with a status of success."""
    start, words = answer.body[:4000].decode("utf-8", "replace").lower(), first_words(answer.body)
    kind = next(kind for pattern, kind in PAGES if pattern.search(start))
    message = f"{answer.status}: this looks like a web page, not like an API: check the address ({words!r})"
    return KINDS[kind].error(_printable(message), kind=kind, http_status=answer.status)


def _decide(text: ErrorText, status: int, is_relay: bool) -> str:
    """The kind of an error by what it says, else by its status."""
    words, where = f"{text.words} ", "relay" if is_relay else "direct"
    if (found := _LIMIT_AND_REQUEST.search(words)) and _number(found[2]) > _number(found[1]):
        return "over_limit"
    if (rule := next((r for r in RULES if r.holds(words, status, where)), None)) is not None:
        return rule.kind
    if status in (400, 422) and text.parameter:
        return "model_not_found" if text.parameter == "model" else "bad_parameter"
    if status == 404 and ("model" in words or "模型" in words):
        return "model_not_found"
    if status in BY_STATUS:
        return BY_STATUS[status]
    if 300 <= status < 400:
        return "wrong_address"
    return "server_error" if status >= 500 or status < 300 else "bad_request"


def _number(digits: str) -> int:
    return int(digits.replace(",", "") or 0)
