"""The sampler for a model fine-tuned on the format (appendix A), which writes blocks in many concurrent conversations.

The conversation is the state machine of `conversation/conversation.py`; only its encoding for the model differs. The
model and the interpreter alternate in one assistant message: a `<|text|>` analysis, a `<|code|>` program, its output as
an `<|execution|>` block, and so on until a program's asserts pass. Then come an optional closing remark and the plain
instruction, which the model answers with the final code. An answer is the model's output between two turns of other
roles. It is stored as text and encoded again for the next turn. Contents are encoded separately from the special
tokens, so contents cannot forge blocks, and a resumed conversation has the same prompts.

One thread decodes. Pending answers join its running batch and finished ones leave it, while programs run. Each answer
recomputes the keys and values of the whole conversation: they are not kept while a program runs, because prefill is
cheap compared with decoding, and vLLM caches prefixes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from reflectioncoder.clients.budget import Budget, Usage
from reflectioncoder.clients.messages import Answer, SamplerError, Tools, Turn
from reflectioncoder.config.build import NativeConfig
from reflectioncoder.dialogues.dialogue import Block, Dialogue, Message
from reflectioncoder.dialogues.tokens import ROLE_TOKENS, encode_dialogue, special_ids
from reflectioncoder.dialogues.written_blocks import MALFORMED, Marks, ending, read_blocks
from reflectioncoder.errors import UserError
from reflectioncoder.models.decode import Decoded, More, Request, decode_batched
from reflectioncoder.models.load import load_model_and_tokenizer, load_tokenizer

CHARS_SHOWN = 120  # a rejection quotes this many characters from the end of a malformed answer
NATIVE_TURN = "native"  # tool id of turns that are code or its execution
DecodeStream = Callable[[More], Iterator[Decoded]]


def turns_of(turns: Sequence[Turn]) -> list[Message]:
    """Convert a conversation to messages; if the last message is the assistant's, it is unfinished.

    Args:
        turns: user turns, assistant turns with their code, and tool turns with the executions.
    """
    messages: list[Message] = []
    for turn in turns:
        if turn.role == "user":
            messages.append(Message("user", (Block("text", turn.text),)))
            continue
        if turn.role == "tool":
            blocks: tuple[Block, ...] = (Block("execution", turn.text),)
        else:
            blocks = (Block("text", turn.text),) if turn.text else ()
            blocks += () if turn.tool_code is None else (Block("code", turn.tool_code),)
        if messages[-1].role == "user":
            messages.append(Message("assistant", ()))
        messages[-1] = Message("assistant", messages[-1].blocks + blocks)
    return messages


def prompt_of(turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Encode a conversation (see `turns_of`) as token ids, up to the point where the model continues."""
    messages = turns_of(turns)
    ids = encode_dialogue(Dialogue(tuple(messages)), tokenizer).ids[:-1]  # without the end of the sequence
    if messages[-1].role == "assistant":
        return ids[:-1]  # the assistant's message is unfinished
    return (*ids, special_ids(tokenizer)[ROLE_TOKENS["assistant"]])


def read_answer(
    ids: Sequence[int], reason: str, marks: Marks, tokenizer: PreTrainedTokenizerBase, usage: Usage, model: str
) -> Answer:
    """Convert the token ids of a model's output to an answer.

    Args:
        ids: token ids of the output.
        reason: why the output ended, see `ending`.
        marks: special tokens of the tokenizer.
        tokenizer: the model's tokenizer.
        usage: usage of the answer.
        model: name of the model.
    """
    blocks = read_blocks(ids, marks, tokenizer)
    text = "\n\n".join(block.content for block in blocks if block.type == "text" and block.content)
    if reason in MALFORMED:  # kept unparsed, so that the rejection shows the error
        text = str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
    code = next((block.content for block in blocks if block.type == "code"), None)
    return Answer(text, code, "" if code is None else NATIVE_TURN, reason, usage, model)


def room_for(ids: Sequence[int], most: int, positions: int) -> int:
    """Return how many tokens an answer may have after a prompt, at most `most`. Raises SamplerError if none fits."""
    room = min(most, positions - len(ids))
    if room < 1:
        raise SamplerError("too_long", f"{len(ids)} tokens, and the model has {positions} positions")
    return room


class _StoppedError(Exception):
    """Raised in the decoding thread to end it."""


class NativeSampler:
    """Sampler for a fine-tuned model on this machine; used inside one event loop, decodes in its own thread.

    Args:
        config: model, back end and sampling settings, already checked by `check_native`.
        seed: random seed; the draws of an answer depend on it, on the problem's id and on the answer's number.
        backend: replaces the configured back end; a function of `more`, which is defined as in `decode.decode_batched`.
        budget: budget of all answers, each of which counts as a request; no limit if None.

    Raises:
        UserError: the model is missing or lacks the format's special tokens.
    """

    name = "native"

    def __init__(
        self, config: NativeConfig, seed: int = 0, backend: DecodeStream | None = None, budget: Budget | None = None
    ) -> None:
        self.model = config.model
        self._config, self.budget = config, budget or Budget()
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple[asyncio.AbstractEventLoop, asyncio.Future[Decoded]]] = {}
        self._over: SamplerError | None = None
        self._tokenizer = load_tokenizer(config.model, config.trust_remote_code)
        self._marks = Marks.of(self._tokenizer)
        self._positions = 1 << 30
        if backend is None:
            backend, self._positions = load_backend(config, seed, self._marks)
        self._thread = threading.Thread(target=self._work, args=(backend,), name="decoding", daemon=True)
        self._thread.start()

    async def answer(self, messages: Sequence[Turn], problem: str, number: int, tools: Tools = "off") -> Answer:
        """See `Sampler`."""
        started = time.monotonic()
        ids = prompt_of(messages, self._tokenizer)
        room = room_for(ids, self._config.max_new_tokens, self._positions)
        ended = functools.partial(ending, marks=self._marks, may_run=tools == "offered")
        request = Request(f"{problem}:{number}", 0, ids, room, ended=ended)
        worst, used = Usage(1, len(ids), room), Usage()
        await self.budget.reserve(worst)
        try:
            finished = await self._decoded(request)
            used = Usage(1, len(ids), len(finished.ids))
        finally:
            self.budget.settle(worst, used)
        answer = read_answer(finished.ids, finished.reason, self._marks, self._tokenizer, used, self.model)
        return dataclasses.replace(answer, seconds=time.monotonic() - started)

    async def _decoded(self, request: Request) -> Decoded:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Decoded] = loop.create_future()
        with self._lock:
            if self._over is not None:
                raise self._over
            self._waiting[request.task_id] = loop, future
        self._queue.put(request)
        return await future

    def stop(self) -> None:
        """See `Sampler`."""
        self._end(SamplerError("stopped", "the build is stopping"))

    async def close(self) -> None:
        """See `Sampler`; waits for the decoding step in progress."""
        self.stop()
        await asyncio.to_thread(self._thread.join)

    def _end(self, why: SamplerError) -> None:
        with self._lock:
            self._over = self._over or why
            waiting = list(self._waiting.values())
            self._waiting.clear()
        for loop, future in waiting:
            loop.call_soon_threadsafe(_settle, future, why)
        self._queue.put(None)

    def _more(self, wait: bool) -> list[Request]:
        """Return the new requests since the last call; the decoding thread calls this between two steps."""
        found: list[Request] = []
        try:
            while True:
                request = self._queue.get(block=wait and not found)
                if request is None:
                    raise _StoppedError
                found.append(request)
        except queue.Empty:
            return found

    def _work(self, backend: DecodeStream) -> None:
        try:
            for finished in backend(self._more):
                with self._lock:
                    asked = self._waiting.pop(finished.request.task_id, None)
                if asked is not None:
                    asked[0].call_soon_threadsafe(_settle, asked[1], finished)
        except _StoppedError:
            return
        except Exception as error:
            # a further step would fail in the same way
            line = " ".join(str(error).split())[:300]
            if not isinstance(error, UserError):
                line = f"decoding failed ({type(error).__name__}: {line})"
            if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
                line += f"; lower native.batch_size, now {self._config.batch_size}"
            self._end(SamplerError("server_down", line))


def _settle(future: asyncio.Future[Decoded], value: Decoded | SamplerError) -> None:
    if future.done():  # cancelled
        return
    if isinstance(value, SamplerError):
        future.set_exception(value)
    else:
        future.set_result(value)


def load_backend(config: NativeConfig, seed: int, marks: Marks) -> tuple[DecodeStream, int]:
    """Load the back end; return it with the model's number of positions."""
    if config.backend == "vllm":
        from reflectioncoder.construct.samplers.native_vllm import load_vllm

        return load_vllm(config, seed, sorted(marks.stops))
    model, tokenizer = load_model_and_tokenizer(config.model, config.precision, config.device, config.trust_remote_code)
    positions = int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)

    def run(more: More) -> Iterator[Decoded]:
        return decode_batched(model, tokenizer, (), config.batch_size, config.temperature, config.top_p, seed, more)

    return run, positions
