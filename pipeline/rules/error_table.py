"""An answer that is no completion -> the named error it amounts to. Pure; the two tables below are the policy.

What an error says is read in this order: code, type and message first, the status last. Relays give permanent faults as
500 and a saturated upstream as 429 `insufficient_quota`, so the status alone misleads. A rule may hold for one sort of
endpoint only: from a provider, `insufficient_quota` means that the user's money is gone (stop); through a relay it is
the quota of one of many upstream keys (wait).

Each rule names where its words were seen: a provider's documentation, the source of a relay, or a public report
(repository#number). "Unrecorded" is a rule whose source was not written down when it was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..nouns.errors import KINDS, AnswerError, ServerBusy, TransientError
from ..nouns.rows import HttpAnswer
from .envelopes import ErrorText, error_inside, error_text, first_words, loads, looks_like_relay
from .server_hints import retry_after_seconds


class Rule(NamedTuple):
    """The first rule that matches decides.

    words: any of them in "code type message", lower case. kind: a key of `KINDS`, which has the class.
    status: None for any. where: direct, relay, or any.
    """

    words: tuple[str, ...]
    kind: str
    status: int | None = None
    where: str = "any"


# fmt: off
RULES: tuple[Rule, ...] = (
    # -- the picture or the prompt: this row only
    # OpenAI: one request above the whole minute's limit (shell_gpt#653, aider#1880); "requested tokens exceed": unrecorded
    Rule(("request too large for", "requested tokens exceed"), "over_limit", 429),
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
          "invalid base64", "invalid_base64", "invalid_image_url", "limit of 30000"), "bad_image", 400),
    # Claude behind Cloudflare; new-api controller/relay.go (MAX_REQUEST_BODY_MB); nginx
    Rule(("request_too_large", "read_request_body_failed", "request entity too large"), "body_too_large"),

    # -- money
    # the user's own at a relay: one-api relay/controller/helper.go, new-api service/pre_consume_quota.go
    Rule(("user quota is not enough", "insufficient_user_quota", "pre_consume_token_quota_failed", "用户额度不足", "令牌额度不足",
          "预扣费额度失败", "该令牌额度已用尽"), "no_quota"),
    # bounds on requests in flight, as relays word them (token_concurrency_limit_reached in a fork of new-api)
    Rule(("concurrent requests", "concurrency limit", "concurrency_limit", "max_concurrency", "并发"), "saturated", 429),
    # one-api and new-api controller/relay.go put this over any 429 of an upstream
    Rule(("负载已饱和",), "saturated"),
    # an upstream key without money: the relay's next choice is another one (one-api monitor/manage.go)
    Rule(("insufficient_quota",), "saturated", where="relay"),
    # OpenAI's error codes; Claude ("credit balance is too low", billing_error); Qwen on DashScope (arrearage,
    # spring-ai-alibaba#1146); billing_hard_limit: unrecorded
    Rule(("insufficient_quota", "credit_balance_exhausted", "spend_limit", "organization_usage_limit_exceeded",
          "credit balance is too low", "billing_error", "billing_hard_limit", "arrearage"), "no_quota"),

    # -- the key and what it may do
    # trouble in a relay's database, given as 401: one-api model/token.go
    Rule(("令牌验证失败", "数据库查询出错"), "relay_trouble"),
    # OpenAI's error codes; Claude; one-api model/token.go, new-api i18n/zh-CN
    Rule(("invalid_api_key", "authentication_error", "incorrect api key", "无效的令牌", "该令牌已过期", "未提供令牌"), "bad_key"),
    # Claude; Gemini; one-api middleware/auth.go; OpenAI (country); Azure (blocked resource, pollinations#9707)
    Rule(("permission_error", "permission_denied", "无权使用模型", "用户已被封禁", "只能在指定网段使用", "unsupported_country",
          "has been temporarily blocked"), "no_permission"),

    # -- the model
    # one-api and new-api middleware/distributor.go; the second gives the code model_not_found with it
    Rule(("无可用渠道", "get_channel_failed"), "no_channel"),
    # OpenAI ("image_url is only supported by certain models"); the others: unrecorded
    Rule(("only supported by certain models", "does not support image", "image input is not supported"), "no_vision", 400),
    # OpenAI's error codes; Azure (DeploymentNotFound); Claude (not_found_error); Ollama (chatbox#646)
    Rule(("model_not_found", "deploymentnotfound", "not_found_error", "model not found"), "model_not_found"),
    # OpenAI's reasoning models refuse max_tokens and temperature (YPrompt#26, code-gpt-docs#445)
    Rule(("unsupported_parameter", "unsupported_value", "unknown_parameter", "unrecognized request argument"),
         "bad_parameter", 400),

    # -- permanent faults that a relay gives as 500: new-api types/error.go, controller/relay.go
    Rule(("count_token_failed", "model_price_error", "convert_request_failed"), "refused_by_relay"),
    Rule(("invalid_request",), "refused_by_relay", 500),

    # -- too much, too fast
    # OpenAI (rate_limit_exceeded, slow_down); Claude (rate_limit_error); Gemini (RESOURCE_EXHAUSTED); Azure ("exceeded
    # token rate limit"); new-api middleware/model-rate-limit.go
    Rule(("rate_limit", "slow_down", "resource_exhausted", "请求数限制", "token rate limit", "too many requests"), "rate_limited"),
    # Claude (overloaded_error, 529); OpenAI (server_is_overloaded, 503); Ollama ("server busy", pull request 4144)
    Rule(("overloaded", "server_is_overloaded", "server busy"), "overloaded"),
)

# where no rule matches: RFC 9110, and 529 of Claude
BY_STATUS: Mapping[int, str] = {
    400: "bad_request",
    401: "bad_key",
    402: "no_quota",
    403: "no_permission",
    404: "model_not_found",
    405: "wrong_address",
    408: "server_timeout",
    409: "server_error",  # the OpenAI SDK tries it again too
    413: "body_too_large",
    415: "bad_request",
    422: "bad_request",
    429: "rate_limited",
    529: "overloaded",
}
# fmt: on

# a gateway stopped waiting for an upstream that may have gone on and billed its answer (Cloudflare: 520, 522, 524)
_GATEWAY_TIMEOUTS = frozenset({408, 504, 520, 522, 524})


def read_error(answer: HttpAnswer, endpoint_kind: str = "auto") -> AnswerError:
    """The named error of an answer in which `response.read_reply` found no completion.

    endpoint_kind: direct, relay, or auto, which goes by the relay's own marks in the answer.

    The error's `has_usage` says whether the answer reports tokens: then it is on the invoice all the same.
    """
    body = loads(answer.body)
    error = _named(answer, body, endpoint_kind)
    usage = body.get("usage") if isinstance(body, dict) else None
    counts = usage.values() if isinstance(usage, dict) else ()
    error.has_usage = any(isinstance(count, int) and count > 0 for count in counts)
    return error


def may_be_billed(error: AnswerError) -> bool:
    """Whether an attempt that brought no answer may be on the invoice: half an answer, or silence."""
    return error.has_usage or error.facts.may_be_billed or error.http_status in _GATEWAY_TIMEOUTS


def _named(answer: HttpAnswer, body: Any, endpoint_kind: str) -> AnswerError:
    if answer.status == 200:
        inner = error_inside(body)
        if inner is None:
            return _no_answer(answer, body)
        body = {"error": inner}
    text = _location(answer) or error_text(body, answer.body)
    is_relay = endpoint_kind == "relay" or (endpoint_kind == "auto" and looks_like_relay(answer, text))
    kind = _decide(text.words, answer.status, is_relay)
    error, message = KINDS[kind].error, _message(text, answer.status)
    if issubclass(error, TransientError):
        wait = retry_after_seconds(answer.headers, text.message, body)
        return error(message, kind=kind, http_status=answer.status, retry_after_seconds=wait)
    return error(message, kind=kind, http_status=answer.status)


def _message(text: ErrorText, status: int) -> str:
    """Status, the server's words, and its code where the words do not have it."""
    message = text.message
    if not message.startswith(f"{status}: "):
        message = f"{status}: {message or 'no message'}"
    if text.code and text.code not in message:
        message += f" [{text.code}]"
    return "".join(
        c if c.isprintable() else " " for c in message
    )  # a control character would steer the terminal


def _location(answer: HttpAnswer) -> ErrorText | None:
    """Where a redirect points; None where the answer is none. It is not followed, since the key would go along."""
    if not 300 <= answer.status < 400:
        return None
    return ErrorText(f"a redirect to {answer.headers.get('location', 'nowhere')}; give that address")


def _no_answer(answer: HttpAnswer, body: Any) -> ServerBusy:
    """The error of a 200 that says nothing: half a body, HTML, no choices, or empty with zero usage."""
    if body is None:
        return ServerBusy(
            f"200: the answer is not JSON ({first_words(answer.body)!r})",
            kind="broken_answer",
            http_status=200,
        )
    return ServerBusy("200: the answer is empty", kind="empty_answer", http_status=200)


def _decide(words: str, status: int, is_relay: bool) -> str:
    """The kind of an error that says `words`."""
    where = "relay" if is_relay else "direct"
    for rule in RULES:
        if (
            rule.status in (None, status)
            and rule.where in ("any", where)
            and any(w in words for w in rule.words)
        ):
            return rule.kind
    if status in BY_STATUS:
        return BY_STATUS[status]
    if 300 <= status < 400:
        return "wrong_address"
    return "server_error" if status >= 500 or status == 200 else "bad_request"
