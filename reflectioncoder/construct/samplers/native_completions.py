"""The sampler for a fine-tuned model behind a completions endpoint: `/v1/completions` with vLLM's parameters.

The conversation is sent as token ids, so that no content can forge a block, and received as token ids if the server
returns them. The server must behave as vLLM documents: it accepts a list of ids as the prompt, and `stop_token_ids`;
with `return_token_ids` an answer has its ids, including the one it stopped at; with `skip_special_tokens = false` and
`include_stop_str_in_output = true` its text contains the special tokens. An answer without ids is parsed from that
text, where the name of a special token counts as the token even if the model spelt it out. A server that hides special
tokens cannot be used; the first answer that ends with a stop token raises an error.

A server cannot distinguish the end of a code block from the end of an analysis, so it stops at every end of a block.
If the answer continues, the next request sends the tokens so far. Each request counts with its whole prompt, as it is
billed.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reflectioncoder.clients.budget import Budget, BudgetError, Usage
from reflectioncoder.clients.endpoint import Endpoint
from reflectioncoder.clients.messages import Answer, SamplerError, Tools, Turn
from reflectioncoder.clients.reply import EMPTY, read_reply
from reflectioncoder.config.build import ChatConfig, NativeConfig
from reflectioncoder.construct.samplers.native import prompt_of, read_answer, room_for, turns_of
from reflectioncoder.dialogues.tokens import BLOCK_TOKENS, END_OF_BLOCK, END_OF_MESSAGE, ROLE_TOKENS
from reflectioncoder.dialogues.written_blocks import Marks, ending
from reflectioncoder.models.load import load_tokenizer, positions_of

HINT = "; native.backend 'completions' needs a server that takes vLLM's parameters (docs/decisions/0023)"


@dataclass(frozen=True)
class CompletionPart:
    """Result of one request.

    Args:
        ids: token ids of the answer's part.
        cut: whether the token limit cut it off.
        usage: usage of the request.
        model: name of the model, as reported by the server.
    """

    ids: tuple[int, ...]
    cut: bool
    usage: Usage
    model: str


class CompletionsSampler:
    """Sampler for a fine-tuned model behind a completions endpoint; used inside one event loop.

    Args:
        config: the sampling settings and the model, whose tokenizer is loaded on this machine.
        chat: URL, timeouts and retries; its `model` is the model's name on the server.
        seed: random seed; the seed of a request is derived from it, the problem's id and the answer's number.
        budget: budget of all requests; no limit if None.

    Raises:
        UserError: the tokenizer is missing or lacks the format's special tokens, or the URL is invalid.
    """

    name = "native"

    def __init__(self, config: NativeConfig, chat: ChatConfig, seed: int = 0, budget: Budget | None = None) -> None:
        self.model = chat.model or config.model
        self._config, self._seed = config, seed
        self._tokenizer = load_tokenizer(config.model, config.trust_remote_code)
        self._marks = Marks.of(self._tokenizer)
        self._positions = positions_of(config.model) or 1 << 30  # the server may allow fewer
        self._endpoint = Endpoint(chat, self.model, budget, "completions")
        self._create = self._endpoint.client.completions.with_streaming_response.create

    def stop(self) -> None:
        """See `Sampler`."""
        self._endpoint.stop()

    async def close(self) -> None:
        """See `Sampler`."""
        await self._endpoint.close()

    async def answer(self, messages: Sequence[Turn], problem: str, number: int, tools: Tools = "off") -> Answer:
        """See `Sampler`; raises SamplerError "forged_prompt" if text would be read as a special token."""
        started, may_run = time.monotonic(), tools == "offered"
        prompt = prompt_of(messages, self._tokenizer)
        room = room_for(prompt, self._config.max_new_tokens, self._positions)
        text = self._text(messages, prompt) if self._config.prompt == "text" else ""
        ids: list[int] = []
        usage, reason, served = Usage(), "", ""
        while not reason:
            worst = Usage(1, len(prompt) + len(ids), room - len(ids))
            parameters = self._parameters(prompt, text, ids, worst.tokens_out, f"{problem}:{number}", may_run)
            try:
                read = functools.partial(self._read, asked=worst)
                part, wasted = await self._endpoint.ask(self._create, parameters, worst, read)
            except (SamplerError, BudgetError) as error:
                error.usage = usage + error.usage
                if isinstance(error, SamplerError) and error.reason in ("bad_request", "refused"):
                    error.detail += HINT
                raise
            usage, served = usage + wasted + part.usage, part.model
            for id in part.ids:
                ids.append(id)
                if reason := ending(ids, self._marks, may_run):
                    break
            if not reason and (part.cut or len(ids) >= room):
                reason = "length"
        answer = read_answer(ids, reason, self._marks, self._tokenizer, usage, served)
        return dataclasses.replace(answer, seconds=time.monotonic() - started)

    def _text(self, turns: Sequence[Turn], ids: Sequence[int]) -> str:
        """Return the prompt as text. Raises SamplerError if its special tokens are not those of the ids."""
        messages, text = turns_of(turns), str(self._tokenizer.bos_token or "")
        for message in messages:
            text += ROLE_TOKENS[message.role]
            text += "".join(f"{BLOCK_TOKENS[b.type]}{b.content}{END_OF_BLOCK}" for b in message.blocks) + END_OF_MESSAGE
        if messages[-1].role == "assistant":
            text = text.removesuffix(END_OF_MESSAGE)
        else:
            text += ROLE_TOKENS["assistant"]
        every = self._marks.every
        found = [id for id in self._encoded(text) if id in every]
        if found != [id for id in ids if id in every]:
            raise SamplerError("forged_prompt", "the conversation names a special token in its text")
        return text

    def _encoded(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _parameters(
        self, prompt: Sequence[int], text: str, ids: Sequence[int], room: int, name: str, may_run: bool
    ) -> dict[str, Any]:
        config, marks = self._config, self._marks
        stops = marks.stops if may_run else marks.stops | {id for id, kind in marks.types.items() if kind == "code"}
        extra: dict[str, Any] = {
            "stop_token_ids": sorted(stops),
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "include_stop_str_in_output": True,
            "return_token_ids": True,
        }
        said: str | list[int] = [*prompt, *ids]
        if text:
            so_far = self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
            said = text + str(so_far)
            extra["add_special_tokens"] = False  # the text already contains the beginning-of-sequence token
        key = f"{self._seed}:{name}:{len(ids)}"
        return {
            "model": self.model,
            "prompt": said,
            "max_tokens": room,
            "temperature": config.temperature,
            "top_p": config.top_p if config.temperature else 1.0,
            "seed": int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) >> 1,
            "extra_body": extra,
        }

    def _read(self, body: bytes, asked: Usage) -> CompletionPart:
        """Parse the tokens of a response body.

        Args:
            body: the response body.
            asked: the largest usage that the request can have; its input tokens serve as an estimate.
        """

        def estimate(text: str, ids: Sequence[int] | None) -> Usage:
            return Usage(1, asked.tokens_in, len(self._encoded(text) if ids is None else ids))

        error = self._endpoint.error
        reply = read_reply(body, self._endpoint, estimate)
        ids = self._encoded(reply.text) if reply.ids is None else list(reply.ids)
        if not ids:
            raise error("empty", EMPTY, reply.usage)
        if reply.finish != "length" and ids[-1] not in self._marks.every:  # the stop token is missing from the answer
            if reply.ids is None and not (reply.stop_reason is not None and self._marks.every.intersection(ids)):
                detail = f"the server leaves special tokens out of its answers ({reply.text[:40]!r}){HINT}"
                raise error("no_special_tokens", detail, reply.usage)
            ids.append(int(self._tokenizer.eos_token_id) if reply.stop_reason is None else reply.stop_reason)
        return CompletionPart(tuple(ids), reply.finish == "length", reply.usage, reply.model)
