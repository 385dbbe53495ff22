"""Sampler for OpenAI-compatible chat endpoints; `endpoint.py` handles retries, timeouts, budgets and typed errors."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from reflectioncoder.clients.budget import Budget, Usage
from reflectioncoder.clients.endpoint import Endpoint
from reflectioncoder.clients.messages import Answer, Tools, Turn
from reflectioncoder.clients.reply import EMPTY, by_length, read_reply
from reflectioncoder.config.build import ChatConfig

TOOL = "python"


class ChatSampler:
    """A chat model behind an endpoint; used inside one event loop.

    Args:
        config: endpoint, model and sampling settings.
        budget: shared by all requests; no limit if None.
        tool_description: description of the `python` tool sent to the model.
        single: see `Endpoint`.

    Raises:
        UserError: no model is named, or the URL is invalid or contains a password.
    """

    name = "chat"

    def __init__(
        self, config: ChatConfig, budget: Budget | None = None, tool_description: str = "", single: bool = False
    ) -> None:
        self.model = config.model
        self._config, self._tool_description = config, tool_description
        self._endpoint = Endpoint(config, config.model, budget, single=single)
        self._create = self._endpoint.client.chat.completions.with_streaming_response.create

    def stop(self) -> None:
        """See `Sampler`."""
        self._endpoint.stop()

    async def close(self) -> None:
        """See `Sampler`."""
        await self._endpoint.close()

    async def answer(self, messages: Sequence[Turn], problem: str, number: int, tools: Tools = "off") -> Answer:
        """See `Sampler`."""
        started, public = time.monotonic(), self._endpoint.public
        # upper bound: assumes two characters per token, fewer than in real text
        length = sum(len(turn.text) + len(turn.tool_code or "") for turn in messages)
        worst = Usage(1, length // 2 + 8 * len(messages) + 64, self._config.max_tokens)
        answer, wasted = await self._endpoint.ask(
            self._create, self._parameters(messages, tools), worst, lambda body: self._read(body, messages)
        )
        return Answer(
            public(answer.text), None if answer.tool_code is None else public(answer.tool_code), answer.tool_id,
            answer.finish, wasted + answer.usage, answer.model, time.monotonic() - started,
        )  # fmt: skip

    def _parameters(self, messages: Sequence[Turn], tools: Tools) -> dict[str, Any]:
        config = self._config
        if config.system_prompt == "merged" and len(messages) > 1 and messages[0].role == "system":
            merged = Turn("user", f"{messages[0].text}\n\n{messages[1].text}")
            messages = [merged, *messages[2:]]
        parameters: dict[str, Any] = {"model": config.model, "messages": [_message(turn) for turn in messages]}
        parameters[config.token_limit_key] = config.max_tokens
        if config.temperature >= 0:
            parameters["temperature"] = config.temperature
        if 0 < config.top_p < 1:
            parameters["top_p"] = config.top_p
        if tools != "off":
            schema = {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}
            function = {"name": TOOL, "description": self._tool_description, "parameters": schema}
            parameters["tools"] = [{"type": "function", "function": function}]
            parameters["tool_choice"] = "auto" if tools == "offered" else "none"
        return parameters

    def _read(self, body: bytes, messages: Sequence[Turn]) -> Answer:
        """Parse a response body; a reply without text or tool call is an error."""
        characters = sum(len(turn.text) for turn in messages)
        reply = read_reply(body, self._endpoint, by_length(characters), chat=True)
        if not reply.text.strip() and reply.tool_code is None and reply.finish != "length":
            raise self._endpoint.error("empty", EMPTY, reply.usage)
        return Answer(reply.text, reply.tool_code, reply.tool_id, reply.finish, reply.usage, reply.model)


def _message(turn: Turn) -> dict[str, Any]:
    """A turn as a message of the chat completions protocol."""
    if turn.role == "tool":
        return {"role": "tool", "tool_call_id": turn.tool_id, "content": turn.text}
    message: dict[str, Any] = {"role": turn.role, "content": turn.text}
    if turn.tool_code is not None:
        function = {"name": TOOL, "arguments": json.dumps({"code": turn.tool_code})}
        message["tool_calls"] = [{"id": turn.tool_id, "type": "function", "function": function}]
    return message
