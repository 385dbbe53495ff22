"""Encodes prompts, and decodes on this machine with transformers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from reflectioncoder.config.evaluate import GenerateConfig
from reflectioncoder.dialogues.dialogue import fenced
from reflectioncoder.dialogues.written_blocks import Marks, ending, read_blocks
from reflectioncoder.errors import UserError
from reflectioncoder.generate.completions import AnswerForm, Completion, code_of
from reflectioncoder.tasks.base import Prompt, Task

if TYPE_CHECKING:  # the server back end must not import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reflectioncoder.models.decode import Request
from reflectioncoder.generate.backend import Keep, SampleKey


def resolve_style(style: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the prompt style, with `auto` resolved for this model.

    Args:
        style: `native`, `chat`, `plain`, or `auto`: `native` if the tokenizer has the format's special tokens, else
            `chat` if it has a chat template, else `plain`.
        tokenizer: the model's tokenizer.

    Raises:
        UserError: the style is `chat`, and the tokenizer has no chat template.
    """
    from reflectioncoder.dialogues.tokens import knows_format

    if style == "auto":
        return "native" if knows_format(tokenizer) else "chat" if tokenizer.chat_template else "plain"
    if style == "chat" and not tokenizer.chat_template:
        raise UserError(f"tokenizer {tokenizer.name_or_path}: has no chat template; use prompt_style plain")
    return style


def encode_prompt(prompt: Prompt, style: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Encode a prompt as token ids; in the styles `native` and `chat` they include the opening of the answer."""
    from reflectioncoder.dialogues.tokens import prompt_ids

    if prompt.tries:
        return _encode_tries(prompt, style, tokenizer)
    if style == "native":
        return tuple(prompt_ids(prompt.instruction, tokenizer, prompt.opening))
    if style == "chat":
        messages = [{"role": "user", "content": prompt.instruction}]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return tuple(tokenizer.encode(f"{text}{prompt.opening}", add_special_tokens=False))
    return tuple(tokenizer.encode(prompt.continuation))


def _encode_tries(prompt: Prompt, style: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Encode a prompt with earlier programs: as a reflection sequence that is not finished, or as a conversation.

    Raises:
        UserError: the style is `plain`, which has no place for them.
    """
    from reflectioncoder.dialogues.dialogue import Block, Dialogue, Message
    from reflectioncoder.dialogues.tokens import encode_dialogue

    if style == "plain":
        raise UserError("rounds of debugging need prompt_style native or chat")
    if style == "chat":
        messages = [{"role": "user", "content": prompt.instruction}]
        for item in prompt.tries:
            messages.append({"role": "assistant", "content": item.said})
            messages.append({"role": "user", "content": item.asked})
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return tuple(tokenizer.encode(str(text), add_special_tokens=False))
    blocks = []
    for item in prompt.tries:
        blocks += [Block("text", item.analysis)] if item.analysis else []
        if item.output is not None:
            blocks += [Block("code", item.program), Block("execution", item.output)]
    messages_so_far = (Message("user", (Block("text", prompt.instruction),)), Message("assistant", tuple(blocks)))
    ids = encode_dialogue(Dialogue(messages_so_far), tokenizer).ids[:-2]  # the assistant's message is not finished
    return (*ids, *_begun(prompt, tokenizer))


def _begun(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the ids of the code block that the model continues; none if it begins a block itself."""
    from reflectioncoder.dialogues.tokens import BLOCK_TOKENS, encode_content, special_ids

    if not prompt.tries or prompt.tries[-1].output is not None:
        return ()
    code = BLOCK_TOKENS["code"]
    return (special_ids(tokenizer)[code], *encode_content(prompt.tries[-1].program, tokenizer, code))


def make_requests(
    task: Task, style: str, tokenizer: PreTrainedTokenizerBase, samples: int = 1, max_new_tokens: int = 0
) -> list[Request]:
    """Create one request per sample of each problem, in order. With `max_new_tokens` 0 the task's own limit applies."""
    from reflectioncoder.models.decode import Request

    requests = []
    for prompt in task.prompts():
        ids = encode_prompt(prompt, style, tokenizer)
        if prompt.tries:
            ended = partial(_ended, _begun(prompt, tokenizer), Marks.of(tokenizer)) if style == "native" else None
            most = max_new_tokens or task.max_new_tokens
            requests += [Request(prompt.task_id, sample, ids, most, ended=ended) for sample in range(samples)]
            continue
        stops = prompt.stops if style == "plain" else prompt.fence_stops
        opens_line = (prompt.continuation if style == "plain" else prompt.opening).endswith("\n")
        for sample in range(samples):
            requests.append(
                Request(prompt.task_id, sample, ids, max_new_tokens or task.max_new_tokens, stops, opens_line)
            )
    return requests


def _ended(begun: Sequence[int], marks: Marks, ids: Sequence[int]) -> str:
    """Return why an answer in blocks ends with its last token, or ""; `begun` are the ids of a block before it."""
    return ending([*begun, *ids], marks, may_run=True)


class LocalBackend:
    """Back end that decodes on this machine with transformers; see `Backend`.

    Args:
        config: model and decoding settings.
        task: the task whose prompts are completed.
        model: the model if it is already loaded.
        tokenizer: the model's tokenizer if it is already loaded.
    """

    paid = False

    def __init__(
        self,
        config: GenerateConfig,
        task: Task,
        model: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> None:
        from reflectioncoder.models.decode import prompt_hash
        from reflectioncoder.models.load import load_tokenizer, weights_fingerprint

        self._config, self._model = config, model
        self._tokenizer = load_tokenizer(config.model, config.trust_remote_code) if tokenizer is None else tokenizer
        style = resolve_style(config.prompt_style, self._tokenizer)
        if config.semantics == "release" and style != "native":
            raise UserError(
                f'model {config.model}: semantics = "release" is for models trained on the authors\' format'
            )
        self._task = task
        self._form: AnswerForm = "continuation" if style == "plain" else "block"
        self._prompts = {prompt.task_id: prompt for prompt in task.prompts()}
        made = make_requests(task, style, self._tokenizer, config.samples, config.max_new_tokens)
        self._requests = {(request.task_id, request.sample): request for request in made}
        self.wanted = {key: prompt_hash(request) for key, request in self._requests.items()}
        self.fingerprint = weights_fingerprint(config.model)

    def _answer(self, request: Request, ids: Sequence[int], text: str) -> str:
        """Return the text of an answer; blocks that a model wrote are given as text and a fence, as chat models do."""
        prompt = self._prompts[request.task_id]
        if not prompt.tries or request.ended is None:
            return text
        blocks = read_blocks([*_begun(prompt, self._tokenizer), *ids], Marks.of(self._tokenizer), self._tokenizer)
        return "\n\n".join(fenced(block.content) if block.type == "code" else block.content for block in blocks)

    def _read(self, request: Request, text: str) -> tuple[str, bool]:
        """Return the code of a decoded text, and whether it is a whole program."""
        if self._config.semantics == "release":
            return self._task.read_release(request.task_id, text)
        prompt = self._prompts[request.task_id]
        form: AnswerForm = "chat" if prompt.tries else self._form
        return code_of(text, prompt, form, self._config.chat.thought_marks), False

    def load(self) -> None:
        """See `Backend`."""
        from reflectioncoder.models.load import load_model_and_tokenizer

        if self._model is None:
            config = self._config
            self._model, self._tokenizer = load_model_and_tokenizer(
                config.model, config.precision, config.device, config.trust_remote_code
            )

    def complete(self, missing: Sequence[SampleKey], keep: Keep) -> None:
        """See `Backend`."""
        from reflectioncoder.models.decode import decode_batched

        config, requests = self._config, [self._requests[key] for key in missing]
        assert self._model is not None  # loaded
        for done in decode_batched(
            self._model, self._tokenizer, requests, config.batch_size, config.temperature, config.top_p, config.seed
        ):
            request = done.request
            key = request.task_id, request.sample
            text = self._answer(request, done.ids, done.text)
            code, whole = self._read(request, text)
            keep(Completion(*key, code, text, self.wanted[key], whole, finish=done.reason), len(done.ids))
