"""Prompts of a task to completions on disk, resumable.

Each completion is a line {"task_id", "sample", "completion", "raw", "prompt", "finish"}, written as soon as it ends;
a run that was killed goes on with what is missing. Beside the file lie its configuration and a fingerprint of the
model, so that completions of another setting or of a model that was trained anew are not taken for this one's.

This module needs no torch until a model is decoded with here; `generate_server.py` asks one behind a server,
`generate_vllm.py` runs one in vLLM.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflectioncoder.config import toml as settings
from reflectioncoder.config.evaluate import GenerateConfig
from reflectioncoder.errors import UserError
from reflectioncoder.files.jsonl import iter_jsonl, write_lines
from reflectioncoder.generate.completions import Completion, line_of, read_completion
from reflectioncoder.tasks.registry import get_task, task_options

if TYPE_CHECKING:  # a server's completions take no torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reflectioncoder.models.decode import Report
from reflectioncoder.generate.backend import Backend, Key
from reflectioncoder.generate.local import Local

# Settings that do not change what a completion is: where it is kept, how fast it comes, how many there are; and where
# the problems are, for each completion has its prompt's hash.
FREE = ("output", "batch_size", "limit", "samples", "device", "most_stops", "chat", "data")
HERE = ("model", "precision")  # say nothing about a model behind a server

ELSEWHERE = "choose another file with --output (--generate.output of evaluate)"


@dataclass(frozen=True)
class Generated:
    """What a run made: all completions in order, and of those that were new the tokens and seconds."""

    path: Path
    completions: tuple[Completion, ...]
    new: int
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed, 0 where nothing was missing."""
        return self.tokens / self.seconds if self.seconds else 0.0


def output_of(config: GenerateConfig) -> str:
    """Where completions go: `config.output`, or a file of its own for each task and model below runs/completions."""
    if config.output:
        return config.output
    model = config.chat.model if config.backend == "server" else config.model
    task = re.sub(r"\.(jsonl|jsonl\.gz|parquet)$", "", config.task)
    name = "-".join(re.sub(r"[^\w.-]+", "-", part).strip("-.")[-100:] for part in (task, model))
    return f"runs/completions/{name}.jsonl"


def generate(
    config: GenerateConfig,
    report: Report | None = None,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Generated:
    """Generate what is missing in the file of completions (`output_of`) and return all completions of the task.

    Args:
        config: model, task and decoding.
        report: called after each completion with how many are done, of how many, and tokens a second.
        model: the model, where it is loaded already; otherwise `config.model` is loaded if anything is missing.
        tokenizer: the model's.

    Raises:
        UserError: a bad setting, a file of another setting, or no such model or task.
    """
    check_settings(config)
    config = dataclasses.replace(config, output=output_of(config))
    task = get_task(config.task, task_options(config))
    backend: Backend
    if config.backend == "server":
        from reflectioncoder.generate.server import Server

        backend = Server(config, task)
    elif config.backend == "vllm":
        from reflectioncoder.generate.vllm import Vllm

        backend = Vllm(config, task, model, tokenizer)
    else:
        backend = Local(config, task, model, tokenizer)
    path = Path(config.output)
    guard(config, path, backend.fingerprint)
    found = read_finished(path, backend.wanted)
    missing = [key for key in backend.wanted if key not in found]
    tokens, seconds = 0, 0.0
    if missing:
        backend.load()
        started = time.perf_counter()
        try:
            with path.open("a", encoding="utf-8") as out:

                def keep(completion: Completion, size: int) -> None:
                    nonlocal tokens
                    out.write(line_of(completion) + "\n")
                    out.flush()
                    if backend.paid:
                        os.fsync(out.fileno())
                    found[completion.task_id, completion.sample] = completion
                    tokens += size
                    if report is not None:
                        report(len(found), len(backend.wanted), tokens / (time.perf_counter() - started))

                backend.complete(missing, keep)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; what is in it can be resumed") from None
        seconds = time.perf_counter() - started
    completions = tuple(found[key] for key in backend.wanted)
    if missing:  # lines in the order of the task, whatever order they ended in
        rest = sorted((c for key, c in found.items() if key not in backend.wanted), key=lambda c: (c.task_id, c.sample))
        write_lines(path, map(line_of, [*completions, *rest]))
    return Generated(path, completions, len(missing), tokens, seconds)


def check_settings(config: GenerateConfig) -> None:
    """Raise UserError for settings that contradict each other."""
    if config.samples < 1 or config.batch_size < 1 or config.max_new_tokens < 0 or config.limit < 0:
        raise UserError("generate: samples and batch_size must be at least 1, max_new_tokens and limit at least 0")
    if config.temperature < 0 or not 0 < config.top_p <= 1:
        raise UserError("generate: temperature must be at least 0 and top_p in (0, 1]")
    if config.samples > 1 and config.temperature == 0:
        raise UserError("generate: several samples of greedy decoding are all the same; set a temperature")


def guard(config: GenerateConfig, path: Path, model: str) -> None:
    """Write the configuration beside `path`, or make sure that the one there is the same.

    Raises:
        UserError: completions of another setting or model are there already.
    """
    state = path.with_name(f"{path.stem}.model.json")
    saved = path.with_name(f"{path.stem}.toml")
    if path.exists() and path.stat().st_size:
        if not saved.exists() or not state.exists():
            raise UserError(f"{path}: exists without {saved.name} that says how it was made; {ELSEWHERE}")
        old = _deciding(settings.load(GenerateConfig, saved))
        for name, now in _deciding(config).items():
            if name in old and old[name] != now:
                raise UserError(f"{path}: was made with {name} = {old[name]!r}, not {now!r}; {ELSEWHERE}")
        if json.loads(state.read_text(encoding="utf-8")) != {"fingerprint": model}:
            raise UserError(f"{path}: was made by other weights of {config.model}; {ELSEWHERE} or delete it")
    settings.save(config, path.parent, path.stem)
    try:
        state.write_text(json.dumps({"fingerprint": model}) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {state}: {error.strerror}") from None


def _deciding(config: GenerateConfig) -> dict[str, Any]:
    """The settings that decide what a completion is, the back end first."""
    names = ["backend", *(entry.name for entry in dataclasses.fields(config) if entry.name not in FREE)]
    if config.backend != "server":
        return {name: getattr(config, name) for name in names}
    # where the server is and what it may cost may change, as for a build
    served = {"chat.model": config.chat.model, "chat.temperature left out": config.chat.temperature < 0}
    return {name: getattr(config, name) for name in names if name not in HERE} | served


def read_finished(path: Path, wanted: Mapping[Key, str]) -> dict[Key, Completion]:
    """Completions that are in the file already; a last line cut off by a kill is removed from it.

    Args:
        path: the file, which need not be there.
        wanted: hashes of the prompts, see `Backend`.

    Raises:
        UserError: a line that is not a completion, or one of another prompt.
    """
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
    found = {}
    for where, row in iter_jsonl(path):
        completion = read_completion(row, where)
        key = completion.task_id, completion.sample
        if wanted.get(key, completion.prompt) != completion.prompt:
            raise UserError(f"{where}: completion of another prompt for problem '{key[0]}'; {ELSEWHERE}")
        found[key] = completion
    return found
