"""Pre-training of a micro model: documents, a tokenizer made for them, and a small Llama trained on all tokens.

A run that was killed goes on from its last state, which is kept beside the model's directory until the model is there.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from reflectioncoder.config.pretrain import PretrainConfig
from reflectioncoder.config.toml import save
from reflectioncoder.errors import UserError
from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.files.owned import held, remove_tree
from reflectioncoder.files.whole import NEW, replace_with
from reflectioncoder.models.micro import micro_fingerprint, micro_folder
from reflectioncoder.models.tokenizer import write_tokenizer
from reflectioncoder.pretrain.documents import debugging_documents, documents, instruction_documents

TOKENIZER_DOCUMENTS = 6000
REPORT_SECONDS = 20.0
STATE_SECONDS = 60.0
FINAL_RATE = 0.1
WARMUP = 0.05
SMALLEST_VOCABULARY = 258
UNFINISHED = ".unfinished"  # ends the name of the folder of an unfinished run


def pretrain(config: PretrainConfig, say: Callable[[str], None] | None = None) -> Path:
    """Make a micro model, unless it is there already; a run that was killed goes on.

    Args:
        config: settings of the run.
        say: receives one-line messages; by default they go to standard error.

    Returns:
        the directory of the model.

    Raises:
        UserError: a setting is out of its range, or the directory holds something else or cannot be written.
    """
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    _check(config)
    folder = micro_folder(config)
    with held(folder, folder=False):
        if (folder / "config.json").is_file() and not config.output:
            say(f"{folder}: was made before")
            return folder
        if folder.exists():
            raise UserError(f"{folder}: exists already; choose another --output or remove it")
        work = _Work(folder.with_name(folder.name + UNFINISHED), micro_fingerprint(config))

        def write(staging: Path) -> None:
            (staging / NEW).mkdir()
            _pretrain(config, staging / NEW, work, say)

        replace_with(folder, write)
        remove_tree(work.folder)
    return folder


def _check(config: PretrainConfig) -> None:
    next(instruction_documents(config))
    for name in ("tokens", "layers", "width", "heads", "window", "batch_tokens"):
        if getattr(config, name) < 1:
            raise UserError(f"{name} = {getattr(config, name)}: must be at least 1")
    if config.sequences < 0 or not 0 <= config.share < 1:
        raise UserError("sequences must be at least 0, and share in [0, 1)")
    if config.vocabulary < SMALLEST_VOCABULARY:
        raise UserError(
            f"vocabulary = {config.vocabulary}: must be at least {SMALLEST_VOCABULARY}, the bytes and two more"
        )
    if config.width % (2 * config.heads):
        raise UserError(f"width = {config.width}: must be a multiple of twice the {config.heads} heads")


@dataclasses.dataclass(frozen=True)
class _Work:
    """The folder of an unfinished run; files of a run with other settings in it are not used."""

    folder: Path
    fingerprint: str

    def debugging(self) -> list[str] | None:
        """Return the debugging documents if they were all built."""
        path = self.folder / "debugging.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return found["documents"] if found.get("run") == self.fingerprint else None

    def keep_debugging(self, texts: list[str]) -> None:
        write_lines(self.folder / "debugging.json", [json.dumps({"run": self.fingerprint, "documents": texts})])

    def state(self) -> dict[str, Any] | None:
        """Return the last state of training, if there is one."""
        path = self.folder / "state.pt"
        found = torch.load(path, weights_only=True) if path.is_file() else {}
        return found if found.get("run") == self.fingerprint else None

    def keep_state(self, state: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save({"run": self.fingerprint, **state}, self.folder / "state.pt.new")
        (self.folder / "state.pt.new").replace(self.folder / "state.pt")


def make_tokenizer(texts: Iterator[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Make a byte-level BPE tokenizer from texts, with BOS, EOS and single digits."""
    inner = Tokenizer(models.BPE())
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    inner.pre_tokenizer = pre_tokenizers.Sequence(split)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def make_model(config: PretrainConfig, vocabulary: int) -> LlamaForCausalLM:
    """Make a Llama with random weights."""
    torch.manual_seed(config.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=config.width,
            intermediate_size=3 * config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def rows(texts: Iterator[str], tokenizer: PreTrainedTokenizerFast, window: int) -> Iterator[list[int]]:
    """Yield rows of `window` tokens; documents follow each other in them, each with BOS and EOS."""
    waiting: list[int] = []
    while True:
        for ids in tokenizer(list(itertools.islice(texts, 500)), add_special_tokens=False)["input_ids"]:
            waiting += [0, *ids, 1]
        while len(waiting) >= window:
            yield waiting[:window]
            waiting = waiting[window:]


def rate(step: int, steps: int) -> float:
    """Return the factor on the learning rate at a step: a linear rise, then a cosine to a tenth."""
    rise = max(1, math.ceil(WARMUP * steps))
    if step < rise:
        return (step + 1) / rise
    passed = (step - rise) / max(1, steps - rise)
    return FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * passed)) / 2


def _pretrain(config: PretrainConfig, folder: Path, work: _Work, say: Callable[[str], None]) -> None:
    """Train a micro model and write it to an empty folder."""
    transformers_logging.disable_progress_bar()
    debugging = work.debugging()
    if debugging is None:
        debugging = debugging_documents(config, _reporter(say, config.sequences)) if config.sequences else []
        work.keep_debugging(debugging)
    texts = documents(config, debugging)
    first = list(itertools.islice(texts, TOKENIZER_DOCUMENTS))
    tokenizer = make_tokenizer(iter(first), config.vocabulary)
    model = make_model(config, len(tokenizer))
    size = sum(p.numel() for p in model.parameters())
    say(f"{size:,} parameters, {len(tokenizer)} tokens in the vocabulary, {len(debugging)} debugging documents")
    _train(config, model, rows(itertools.chain(first, texts), tokenizer, config.window), work, say)
    model.save_pretrained(folder)
    write_tokenizer(tokenizer, folder)
    save(config, folder)


def _reporter(say: Callable[[str], None], total: int) -> Callable[[int], None]:
    start = last = time.monotonic()

    def report(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_SECONDS or done == total:
            last = time.monotonic()
            say(f"{done} of {total} debugging sequences, {last - start:.0f} s")

    return report


def _train(
    config: PretrainConfig,
    model: LlamaForCausalLM,
    data: Iterator[list[int]],
    work: _Work,
    say: Callable[[str], None],
) -> None:
    size = max(1, config.batch_tokens // config.window)
    steps = max(1, config.tokens // (size * config.window))
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule}
    begun, state = 0, work.state()
    if state is not None:
        for name, part in parts.items():
            part.load_state_dict(state[name])
        begun = state["step"]
        say(f"continuing after step {begun}")
        for _ in range(begun * size):
            next(data)
    start = last = kept = time.monotonic()
    losses: list[float] = []
    model.train()
    for step in range(begun + 1, steps + 1):
        ids = torch.tensor(list(itertools.islice(data, size)))
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        now = time.monotonic()
        if now - kept >= STATE_SECONDS:
            kept = now
            work.keep_state({"step": step, **{name: part.state_dict() for name, part in parts.items()}})
        if now - last >= REPORT_SECONDS or step == steps:
            last = now
            recent, done = losses[-50:], step * size * config.window
            speed = (step - begun) * size * config.window / (now - start)
            left = (steps * size * config.window - done) / speed
            say(
                f"step {step} of {steps}: loss {sum(recent) / len(recent):.3f}, {done:,} tokens, "
                f"{speed:,.0f} a second, {left / 60:.1f} minutes left"
            )
    model.eval()
