"""An error of a server is classified by its code or its words, whatever its form."""

from __future__ import annotations

from typing import Any

import pytest

from reflectioncoder.clients.failures import failure_of, is_error

# the words of servers for a request that is too long, with the limit that they name
TOO_LONG: dict[str, tuple[int, Any, int | None]] = {
    "OpenAI": (400, "This model's maximum context length is 8192 tokens. Your messages resulted in 9000", 8192),
    "OpenAI, output": (400, "max_tokens is too large: 99999. It supports at most 16384 completion tokens", 16384),
    "OpenAI, rate": (429, "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 45000.", None),
    "vLLM": (400, "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4000 in the"
             " messages, 1000 in the completion). Please reduce the length of the messages or completion.", 4096),
    "vLLM 0.9": (400, "'max_tokens' or 'max_completion_tokens' is too large: 10000. This model's maximum context length"
                 " is 4096 tokens and your request has 30 input tokens (10000 > 4096 - 30).", 4096),
    "vLLM, prompt": (400, "The decoder prompt (length 5000) is longer than the maximum model length of 4096.", 4096),
    "vLLM, negative": (400, "max_tokens must be at least 1, got -186.", None),
    "vLLM 0.32": (400, "max_tokens=600 cannot be greater than max_model_len=512. Please request fewer output tokens.",
                  512),
    "SGLang": (400, "The input (5000 tokens) is longer than the model's context length (4096 tokens).", None),
    "SGLang, sum": (400, "Requested token count exceeds the model's maximum context length of 4096 tokens.", 4096),
    "llama.cpp": (400, "request (5000 tokens) exceeds the available context size (4096 tokens)", 4096),
    "llama.cpp, old": (500, "the request exceeds the available context size. try increasing the context size", None),
    "TGI": (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 30 `inputs`"
            " tokens and 4000 `max_new_tokens`", 2048),
    "TGI, prompt": (422, "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000", None),
    "Mistral": (400, "Prompt contains 40000 tokens, too large for model with 32768 maximum context length", 32768),
    "Gemini": (400, "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).", None),
    "Bedrock": (400, "Input is too long for requested model.", None),
    "Anthropic": (400, "prompt is too long: 210000 tokens > 200000 maximum", None),
    "payload": (413, "", None),
}  # fmt: skip


@pytest.mark.parametrize("server", TOO_LONG)
@pytest.mark.parametrize("form", ["error", "text", "object", "list", "detail"])
def test_words_for_a_context_that_is_too_long(server: str, form: str) -> None:
    status, said, limit = TOO_LONG[server]
    body = {
        "error": {"error": {"message": said, "type": "x"}}, "text": {"error": said},
        "object": {"object": "error", "message": said, "code": status}, "list": [{"error": {"message": said}}],
        "detail": {"detail": [{"loc": ["body"], "msg": said}]},
    }[form]  # fmt: skip
    found = failure_of(status, body)
    assert (found.reason, found.limit, found.final) == ("too_long", limit, True)
    assert said in found.said


OTHERS: list[tuple[int, Any, str]] = [
    (401, {"error": {"message": "no"}}, "authentication"), (403, {"message": "no"}, "authentication"),
    (400, [{"error": {"message": "API key not valid. Please pass a valid API key."}}], "authentication"),
    (402, {"error": {"message": "Insufficient Balance"}}, "quota"),
    (429, {"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}}, "quota"),
    (429, {"error": {"message": "You exceeded your current quota", "status": "RESOURCE_EXHAUSTED"}}, "rate_limited"),
    (503, "<html><h1>busy</h1></html>", "server_error"), (529, {"type": "error"}, "server_error"),
    (404, {"error": {"message": "No endpoints found that support tool use."}}, "unknown_model"),
    (404, "404 page not found", "wrong_url"), (301, "", "wrong_url"),
    (400, {"error": {"message": "Unknown parameter: 'x'"}}, "refused"),
    (422, {"object": "error", "message": {"detail": [{"loc": ["body", "x"], "msg": "Extra inputs"}]}}, "refused"),
    (403, {"error": {"code": 403, "message": "your input was flagged"}}, "refused"),
    (400, {"error": {"message": "Content Exists Risk"}}, "refused"),
    (200, {"error": {"message": "no", "code": 429}}, "rate_limited"), (200, {"error": {"code": 502}}, "server_error"),
    (200, {"error": {"type": "overloaded_error", "message": "Overloaded"}}, "server_error"),
    (200, {"error": {"type": "invalid_request_error", "message": "role 'tool'"}}, "refused"),
    (200, {"error": {"type": "authentication_error", "message": "no"}}, "authentication"),
    (200, {"error": "out of memory"}, "server_error"),
    (200, {"choices": [{"error": {"code": 502, "message": "x"}, "finish_reason": "error"}]}, "server_error"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "reason"), OTHERS)
def test_other_errors_are_of_their_kind(status: int, body: Any, reason: str) -> None:
    assert failure_of(status, body).reason == reason
    assert status != 200 or is_error(body)


def test_a_server_says_how_long_to_wait_in_a_header_or_in_its_text() -> None:
    busy = {"error": {"message": "Rate limit. Please retry after 26 seconds."}}
    assert failure_of(429, busy, {"retry-after": "3"}).wait == 3
    assert failure_of(429, busy, {"retry-after-ms": "250"}).wait == 0.25
    assert failure_of(429, busy).wait == 26
    assert failure_of(429, [{"error": {"details": [{"retryDelay": "34s"}]}}]).wait == 34
    assert failure_of(429, {"error": "Please try again in a moment"}).wait is None


def test_the_servers_own_words_are_kept_with_those_of_its_provider() -> None:
    body = {"error": {"message": "Provider returned error", "metadata": {"raw": "role 'tool' is unknown"}}}
    assert failure_of(400, body).said == "Provider returned error: role 'tool' is unknown"
    detail = {"message": {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]}}
    assert failure_of(422, detail).said == "body.stream_options: Extra inputs are not permitted"
    for odd in (None, [], {}, 5, {"error": None}, {"error": [1]}, [[]], {"choices": [None]}):
        assert failure_of(400, odd).reason == "refused"
    assert not any(map(is_error, ({"error": None, "choices": []}, [], [1], None, {"choices": [{"text": "x"}]})))
