"""Sampler for OpenAI-compatible chat endpoints; `endpoint.py` handles retries, timeouts, budgets and typed errors."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from reflectioncoder.clients.budget import Budget, Usage
from reflectioncoder.clients.endpoint import Endpoint
from reflectioncoder.clients.messages import Answer, Tools, Turn
from reflectioncoder.clients.reply import EMPTY, by_length, read_reply
from reflectioncoder.clients.tool_calls import NOT_RUN, TOOL, ids_of, plain_call
from reflectioncoder.config.build import ChatConfig

ONLY_THOUGHTS = (
    "the model returned thoughts ({} characters) and no answer; raise chat.max_tokens, turn thinking off with"
    " chat.extra_body, or correct the server's reasoning parser"
)


class ChatSampler:
    """A chat model behind an endpoint; used inside one event loop.

    Args:
        config: endpoint, model and sampling settings.
        budget: shared by all requests; no limit if None.
        tool_description: description of the `python` tool sent to the model.

    Raises:
        UserError: see `check_endpoint`.
    """

    name = "chat"

    def __init__(self, config: ChatConfig, budget: Budget | None = None, tool_description: str = "") -> None:
        self.model = config.model
        self._config, self._tool_description = config, tool_description
        self._endpoint = Endpoint(config, config.model, budget)
        self._create = self._endpoint.client.chat.completions.with_streaming_response.create

    def stop(self) -> None:
        """See `Sampler`."""
        self._endpoint.stop()

    async def close(self) -> None:
        """See `Sampler`."""
        await self._endpoint.close()

    async def answer(self, messages: Sequence[Turn], problem: str, number: int, tools: Tools = "off") -> Answer:
        """See `Sampler`."""
        started = time.monotonic()
        # upper bound: assumes two characters per token, fewer than in real text
        length = sum(len(turn.text) + len(turn.tool_code or "") for turn in messages)
        worst = Usage(1, length // 2 + 8 * len(messages) + 64, self._config.max_tokens)
        answer, wasted = await self._endpoint.ask(
            self._create, self._parameters(messages, tools), worst, lambda body: self._read(body, messages, tools)
        )
        return dataclasses.replace(answer, usage=wasted + answer.usage, seconds=time.monotonic() - started)

    def _parameters(self, messages: Sequence[Turn], tools: Tools) -> dict[str, Any]:
        config = self._config
        if config.system_prompt == "merged" and len(messages) > 1 and messages[0].role == "system":
            merged = Turn("user", f"{messages[0].text}\n\n{messages[1].text}")
            messages = [merged, *messages[2:]]
        parameters: dict[str, Any] = {"model": config.model, "messages": messages_of(messages)}
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

    def _read(self, body: bytes, messages: Sequence[Turn], tools: Tools) -> Answer:
        """Parse a response body; a reply without text or tool call is an error."""
        characters = sum(len(turn.text) for turn in messages)
        reply = read_reply(body, self._endpoint, by_length(characters), chat=True, tools=tools != "off")
        if not reply.text.strip() and reply.tool_code is None and reply.finish != "length":
            raise self._endpoint.error(
                "empty", ONLY_THOUGHTS.format(reply.thoughts) if reply.thoughts else EMPTY, reply.usage
            )
        thoughts = self._config.thoughts
        keeps = thoughts == "always" or (thoughts == "with_tools" and tools != "off")
        return Answer(
            reply.text, reply.tool_code, reply.tool_id, reply.finish, reply.usage, reply.model,
            message=reply.message if keeps else None,
        )  # fmt: skip


def messages_of(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Convert turns to messages of the chat completions protocol."""
    messages: list[dict[str, Any]] = []
    last: Turn | None = None  # the assistant's last turn
    for turn in turns:
        if turn.role == "tool":
            came = last.message if last is not None and last.message else {}
            if "function_call" in came:  # the older form of a call has one of its result, too
                messages.append(
                    {"role": "function", "name": came["function_call"].get("name") or TOOL, "content": turn.text}
                )
                continue
            messages.append({"role": "tool", "tool_call_id": turn.tool_id, "content": turn.text})
            others = [id for id in ids_of(came) if id != turn.tool_id]  # each call needs a result
            messages += [{"role": "tool", "tool_call_id": id, "content": NOT_RUN} for id in others]
            continue
        message: dict[str, Any] = {"role": turn.role, "content": turn.text}
        if turn.role == "assistant":
            last = turn
            if turn.tool_code is not None:
                message["tool_calls"] = plain_call(turn.tool_code, turn.tool_id)
            if turn.message is not None:
                if "function_call" in turn.message:
                    message.pop("tool_calls", None)
                message |= turn.message
        messages.append(message)
    return messages
