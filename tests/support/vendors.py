"""Servers as their documentation describes them: what each demands of a request, and how it answers and fails.

Each is a script for `ChatServer`. Nothing here was recorded from a real server; docs/servers.md has the sources.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from chatserver import ChatServer, Reply, failure, streamed

KEY = "sk-a-secret-of-the-tests-0123456789"
CODE = "def f():\n    return 1\n\nassert f() == 2"
SAID = "It fails since f returns 1."


def error(status: int, body: Any, **headers: str) -> Reply:
    return Reply(json.dumps(body).encode(), status, {key.replace("_", "-"): value for key, value in headers.items()})


@dataclass
class Vendor:
    """A server that is asked for a call of the tool first, and then for a text.

    Args:
        chat: settings that its users need.
        whole: its words for the end of a text and of a call.
        fields: fields of the message with the call, beside the call itself.
        call: fields of the call, beside the function.
        arguments: the arguments of the call; None is JSON text of an object with "code".
        too_long, busy, filtered, bad_key, unknown_model: its errors.
        paths: where it answers.
    """

    name: str
    too_long: Reply
    busy: Reply
    bad_key: Reply
    unknown_model: Reply
    filtered: Reply | bytes | None = None
    chat: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=lambda: {"OPENAI_API_KEY": KEY})
    whole: tuple[str, str] = ("stop", "tool_calls")
    fields: dict[str, Any] = field(default_factory=lambda: {"content": None})
    call: dict[str, Any] = field(default_factory=lambda: {"id": "call_1", "type": "function"})
    arguments: Any = None
    path: str = "/v1"
    authorization: tuple[str, str] = ("authorization", f"Bearer {KEY}")
    strict: bool = False
    needs_back: tuple[str, ...] = ()
    prefix: bytes = b""

    def text(self, text: str = SAID, finish: str | None = None) -> bytes:
        return self._body({"content": text}, self.whole[0] if finish is None else finish)

    def tool_call(self, **changes: Any) -> bytes:
        given = json.dumps({"code": CODE}) if self.arguments is None else self.arguments
        function = {"name": "python", "arguments": given}
        calls = [{**self.call, "function": function}]
        return self._body({**self.fields, "tool_calls": calls, **changes}, self.whole[1])

    def _body(self, message: dict[str, Any], finish: str) -> bytes:
        data = {
            "id": "x", "object": "chat.completion", "created": 0, "model": "served",
            "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }  # fmt: skip
        return self.prefix + json.dumps(data).encode()

    def __call__(self, number: int, request: dict[str, Any]) -> Reply | bytes:
        """Refuse what the server documents that it refuses; otherwise call the tool first, and then say something."""
        headers = self.server.headers[number]
        if headers.get(self.authorization[0]) != self.authorization[1]:
            return self.bad_key
        known = {"model", "messages", "max_tokens", "temperature", "tools", "tool_choice", "stream"}
        if self.strict and (extra := sorted(set(request) - known)):
            detail = [{"type": "extra_forbidden", "loc": ["body", extra[0]], "msg": "Extra inputs are not permitted"}]
            return error(422, {"object": "error", "message": {"detail": detail}, "type": "invalid_request_error"})
        answers = [message for message in request["messages"] if message["role"] == "assistant"]
        for message in answers:
            if wrong := self.wrong(message, request["messages"]):
                return failure(400, wrong)
        body = self.text() if answers else self.tool_call()
        return Reply(streamed(body), headers={"Content-Type": "text/event-stream"}) if request.get("stream") else body

    def wrong(self, message: dict[str, Any], messages: list[dict[str, Any]]) -> str:
        """What is wrong with an answer that was sent back."""
        came = json.loads(self.tool_call())["choices"][0]["message"]
        for name in self.needs_back:
            if message.get(name) != came.get(name):
                return f"The `{name}` in the thinking mode must be passed back to the API."
        for call, sent in zip(came["tool_calls"], message.get("tool_calls", []), strict=True):
            if call.get("extra_content") != sent.get("extra_content"):
                return "Function call is missing a thought_signature in functionCall parts."
            if not isinstance(json.loads(sent["function"]["arguments"]), dict):
                return "arguments must be the text of an object"
        asked = {call["id"] for call in message["tool_calls"]}
        given = {item["tool_call_id"] for item in messages if item["role"] == "tool"}
        return "" if asked == given else "each tool_call_id needs a response message"

    def serve(self) -> ChatServer:
        self.server = ChatServer(self)
        return self.server

    def base_url(self) -> str:
        return self.server.url.removesuffix("/v1") + self.path


def vendors() -> list[Vendor]:
    """Return all servers, fresh."""
    openai = {
        "bad_key": failure(401, f"Incorrect API key provided: {KEY}.", "invalid_api_key"),
        "unknown_model": failure(404, "The model `m` does not exist or you do not have access.", "model_not_found"),
        "busy": failure(429, "Rate limit reached.", "rate_limit_exceeded", Retry_After="0.01"),
        "too_long": failure(400, "This model's maximum context length is 8192 tokens.", "context_length_exceeded"),
    }
    azure_filter = {
        "error": {
            "message": "The response was filtered due to the prompt triggering the content management policy.",
            "code": "content_filter", "status": 400, "innererror": {"code": "ResponsibleAIPolicyViolation"},
        }
    }  # fmt: skip
    vllm = {
        "bad_key": error(401, {"error": "Unauthorized"}),
        "unknown_model": error(404, {"error": {"message": "The model `m` does not exist.", "code": 404}}),
    }
    return [
        Vendor(
            "OpenAI", **openai,
            chat={"token_limit_key": "max_completion_tokens", "temperature": -1.0},
            filtered=Vendor("", **openai)._body({"content": None, "refusal": "I cannot help with that."}, "stop"),
            fields={"content": None, "refusal": None, "annotations": []},
        ),
        Vendor(
            "Azure",
            failure(400, "This model's maximum context length is 8192 tokens.", "context_length_exceeded"),
            error(429, {"error": {"code": "429", "message": "Over the limit. Please retry after 0.01 s."}}),
            error(401, {"error": {"code": "401", "message": "Access denied due to invalid subscription key."}}),
            error(404, {"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist."}}),
            error(400, azure_filter),
            {"extra_headers": {"api-key": "$AZURE_KEY"}, "extra_query": {"api-version": "2024-10-21"}},
            {"AZURE_KEY": KEY}, path="/openai/deployments/m", authorization=("api-key", KEY),
        ),
        Vendor(
            "vLLM",
            error(400, {"error": {
                "message": "This model's maximum context length is 9048 tokens. However, your request has 9000 input"
                " tokens plus 2048 'max_tokens'. Please reduce one or the other.",
                "type": "BadRequestError", "param": "input_tokens", "code": 400,
            }}),
            error(503, {"error": {"message": "Engine is overloaded", "code": 503}}), **vllm,
            chat={"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}},
            fields={"content": None, "reasoning_content": "f must return 2."}, needs_back=("reasoning_content",),
            call={"id": "chatcmpl-tool-1", "type": "function"},
        ),
        Vendor(
            "SGLang",
            error(400, {
                "object": "error", "type": "BadRequestError", "param": None, "code": 400,
                "message": "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
            }),
            error(503, {"object": "error", "message": "The request queue is full.", "code": 503}), **vllm,
            fields={"content": "", "reasoning_content": "Hm."}, needs_back=("content", "reasoning_content"),
        ),
        Vendor(
            "llama.cpp",
            error(400, {"error": {
                "code": 400, "message": "the request exceeds the available context size. try increasing it",
                "type": "exceed_context_size_error", "n_prompt_tokens": 9000, "n_ctx": 8192,
            }}),
            error(503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}),
            error(401, {"error": {"code": 401, "message": "Invalid API Key", "type": "authentication_error"}}),
            error(404, {"error": {"code": 404, "message": "model not found", "type": "not_found_error"}}),
            fields={"content": None, "reasoning_content": "Hm."}, needs_back=("content",),
        ),
        Vendor(
            "Ollama",
            error(400, {"error": {"message": "input length exceeds the context length", "type": "api_error"}}),
            error(503, {"error": {"message": "server busy, please try again. maximum pending requests exceeded"}}),
            error(401, {"error": "unauthorized"}),
            error(404, {"error": {"message": 'model "m" not found, try pulling it first', "type": "not_found_error"}}),
            fields={"content": "", "reasoning": "Hm."}, needs_back=("reasoning",),
            call={"id": "call_x7", "index": 0, "type": "function"},
        ),
        Vendor(
            "TGI",
            error(422, {
                "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000"
                " `inputs` tokens and 2048 `max_new_tokens`", "error_type": "validation",
            }),
            error(429, {"error": "Model is overloaded", "error_type": "overloaded"}),
            error(401, {"error": "Unauthorized"}), error(404, {"error": "Model m not found"}),
            whole=("eos_token", "stop"), arguments={"code": CODE}, call={"id": "0", "type": "function"},
        ),
        Vendor(
            "Mistral",
            error(400, {
                "object": "error", "type": "invalid_request_prompt", "param": None, "code": "3051",
                "message": "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum"
                " context length",
            }),
            error(429, {"object": "error", "message": "Service tier capacity exceeded.", "code": "3505"}),
            error(401, {"detail": "Unauthorized"}),
            error(400, {"object": "error", "message": "Invalid model: m", "type": "invalid_model", "code": "1500"}),
            chat={"extra_body": {"stream_options": None}}, strict=True,
            fields={"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
                                {"type": "text", "text": "I write a test."}]},
            needs_back=("content",), call={"id": "D681PevKs", "type": "function"},
        ),
        Vendor(
            "DeepSeek",
            failure(400, "This model's maximum context length is 131072 tokens.", "invalid_request_error"),
            error(503, {"error": {"message": "Service is too busy", "code": "service_unavailable_error"}}),
            error(401, {"error": {"message": "Authentication Fails", "type": "authentication_error"}}),
            error(400, {"error": {"message": "Model Not Exist", "type": "invalid_request_error"}}),
            error(400, {"error": {"message": "Content Exists Risk", "type": "invalid_request_error"}}),
            fields={"content": "", "reasoning_content": "f must return 2."},
            needs_back=("reasoning_content", "content"), prefix=b"\n\n\n",
        ),
        Vendor(
            "Gemini",
            error(400, [{"error": {
                "code": 400, "status": "INVALID_ARGUMENT",
                "message": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
            }}]),
            error(429, [{"error": {
                "code": 429, "message": "You exceeded your current quota, please check your plan and billing details.",
                "status": "RESOURCE_EXHAUSTED", "details": [{"@type": "RetryInfo", "retryDelay": "0.01s"}],
            }}]),
            error(400, [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}}]),
            error(404, [{"error": {"code": 404, "message": "models/m is not found for API version v1main"}}]),
            Vendor("", **openai)._body({"content": None}, "content_filter: PROHIBITED_CONTENT"),
            fields={}, path="/v1beta/openai",
            call={"id": "", "type": "function", "extra_content": {"google": {"thought_signature": "c2ln"}}},
        ),
        Vendor(
            "Bedrock",
            error(400, {"message": "Input is too long for requested model."}),
            error(429, {"message": "Too many tokens, please wait.", "__type": "ThrottlingException"}),
            error(403, {"message": "Authentication failed: Please make sure your API Key is valid."}),
            error(404, {"message": "The model 'm' does not exist"}),
            Vendor("", **openai)._body({"content": "Sorry."}, "guardrail_intervened"),
            whole=("end_turn", "tool_use"), path="/openai/v1", env={"AWS_KEY": KEY},
            chat={"api_key_variable": "AWS_KEY"},
        ),
        Vendor(
            "OpenRouter",
            error(400, {"error": {"code": 400, "message": "Provider returned error", "metadata": {
                "raw": '{"message":"prompt is too long: 210000 tokens > 200000 maximum"}', "provider_name": "P"}}}),
            error(200, {"error": {"code": 502, "message": "Provider returned error"}}),
            error(401, {"error": {"code": 401, "message": "No auth credentials found"}}),
            error(400, {"error": {"code": 400, "message": "m is not a valid model ID"}}),
            error(403, {"error": {"code": 403, "message": "Your chosen model requires moderation and your input was"
                                  " flagged", "metadata": {"reasons": ["violence"], "flagged_input": "kill"}}}),
            fields={"content": "", "reasoning": "Hm.", "reasoning_details": [
                {"type": "reasoning.text", "text": "Hm.", "signature": "c2ln", "index": 0}]},
            needs_back=("reasoning", "reasoning_details"), path="/api/v1",
            chat={"extra_body": {"provider": {"require_parameters": True}}, "extra_headers": {"X-Title": "tests"}},
        ),
    ]  # fmt: skip
