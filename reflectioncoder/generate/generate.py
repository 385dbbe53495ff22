"""Prompts of a task to completions on disk, resumable.

Each completion is a line {"task_id", "sample", "completion", "raw", "prompt", "finish"}, written as soon as it is
finished; after a kill the next run makes only the missing ones. The configuration and a fingerprint of the model are
stored beside the file, so that completions of other settings or of a retrained model are not mixed with these.

The back ends are in `registry.py`; torch is imported only by those that decode on this machine.
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
from reflectioncoder.files.owned import held, refuse_inputs
from reflectioncoder.generate.completions import Completion, completion_line, read_completion
from reflectioncoder.models.model_files import check_model_files
from reflectioncoder.models.vllm_engine import check_vllm
from reflectioncoder.tasks.registry import get_task, task_options

if TYPE_CHECKING:  # the server back end must not import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reflectioncoder.models.decode import Report
from reflectioncoder.generate.backend import SampleKey
from reflectioncoder.generate.registry import BACKENDS

# Settings that do not affect a single completion: output path, speed, number of completions; and the path of the
# problems, because each completion has the hash of its prompt.
FREE_SETTINGS = (
    "output", "batch_size", "limit", "samples", "device", "most_stops", "chat", "data", "vllm", "trust_remote_code",
)  # fmt: skip
HERE = ("model", "precision")  # settings without meaning for a model behind a server

CHOOSE_ANOTHER = "choose another file with --output (--generate.output of evaluate)"


@dataclass(frozen=True)
class Generated:
    """Result of a run: all completions in order, and the tokens and seconds of the new ones."""

    path: Path
    completions: tuple[Completion, ...]
    new: int
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed in tokens per second; 0 if no completion was missing."""
        return self.tokens / self.seconds if self.seconds else 0.0


def output_of(config: GenerateConfig) -> str:
    """The output file: `config.output`, or a file per task and model under runs/completions."""
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
    """Generate the completions missing in the output file (`output_of`) and return all completions of the task.

    Args:
        config: model, task and decoding settings.
        report: called after each completion with the number done, the total, and tokens per second.
        model: the model if it is already loaded; otherwise `config.model` is loaded if completions are missing.
        tokenizer: the model's tokenizer.

    Raises:
        UserError: an invalid setting, an output file made with other settings, or an unknown model or task.

    Example:
        from reflectioncoder import GenerateConfig, generate

        made = generate(GenerateConfig(model="runs/train", task="humaneval", output="runs/humaneval.jsonl"))
        print(made.new, made.tokens_per_second, made.completions[0].completion)
    """
    check_settings(config, model is not None)
    config = dataclasses.replace(config, output=output_of(config))
    path = Path(config.output)
    refuse_inputs([path, *_beside(path)], {"task": (config.task,), "data": (config.data,)})
    with held(path, folder=False):
        return _generate(config, report, model, tokenizer)


def _generate(
    config: GenerateConfig,
    report: Report | None,
    model: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> Generated:
    task = get_task(config.task, task_options(config))
    backend = BACKENDS.choose(config.backend)(config, task, model, tokenizer)
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
                    out.write(completion_line(completion) + "\n")
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
    if missing:  # rewrite the lines in the order of the task
        rest = sorted((c for key, c in found.items() if key not in backend.wanted), key=lambda c: (c.task_id, c.sample))
        write_lines(path, map(completion_line, [*completions, *rest]))
    return Generated(path, completions, len(missing), tokens, seconds)


def check_settings(config: GenerateConfig, loaded: bool = False) -> None:
    """Raise UserError for settings that contradict each other, or unless it is `loaded` for an unusable model."""
    if config.samples < 1 or config.batch_size < 1 or config.max_new_tokens < 0 or config.limit < 0:
        raise UserError("generate: samples and batch_size must be at least 1, max_new_tokens and limit at least 0")
    if config.temperature < 0 or not 0 < config.top_p <= 1:
        raise UserError("generate: temperature must be at least 0 and top_p in (0, 1]")
    check_vllm(config.vllm, "generate.")
    if config.backend in ("transformers", "vllm") and not loaded:
        check_model_files(config.model)  # before torch is loaded
    if config.semantics == "release" and (config.backend == "server" or config.prompt_style not in ("auto", "native")):
        raise UserError(
            'generate: semantics = "release" is for prompt_style native, and a server renders its own prompts'
        )
    if config.samples > 1 and config.temperature == 0:
        raise UserError("generate: several samples of greedy decoding are all the same; set a temperature")
    if config.backend == "server":
        from reflectioncoder.clients.address import check_endpoint

        check_endpoint(config.chat, config.chat.model)


def guard(config: GenerateConfig, path: Path, model: str) -> None:
    """Write the configuration beside `path`, or check that the existing one is the same.

    Raises:
        UserError: `path` holds completions of other settings or of another model.
    """
    saved, state = _beside(path)
    if path.exists() and path.stat().st_size:
        if not saved.exists() or not state.exists():
            raise UserError(f"{path}: exists without {saved.name} that says how it was made; {CHOOSE_ANOTHER}")
        old = _deciding(settings.load(GenerateConfig, saved))
        for name, now in _deciding(config).items():
            if name in old and old[name] != now and not _same_place(name, old[name], now):
                raise UserError(f"{path}: was made with {name} = {old[name]!r}, not {now!r}; {CHOOSE_ANOTHER}")
        if json.loads(state.read_text(encoding="utf-8")) != {"fingerprint": model}:
            raise UserError(f"{path}: was made by other weights of {config.model}; {CHOOSE_ANOTHER} or delete it")
    elif saved.exists() and not _is_ours(saved):
        raise UserError(f"{saved}: was not written by reflectioncoder generate; {CHOOSE_ANOTHER}")
    settings.save(config, path.parent, path.stem)
    write_lines(state, [json.dumps({"fingerprint": model})])


def _beside(path: Path) -> tuple[Path, Path]:
    """The files beside completions that say how they were made: settings, and fingerprint of the model."""
    return path.with_name(f"{path.stem}.toml"), path.with_name(f"{path.stem}.model.json")


def _is_ours(saved: Path) -> bool:
    try:
        settings.load(GenerateConfig, saved)
    except UserError:
        return False
    return True


def _same_place(name: str, old: Any, now: Any) -> bool:
    """Whether two paths may name the same file, moved: prompts and weights are compared by their hashes."""
    return name in ("task", "model") and Path(str(old)).name == Path(str(now)).name


def _deciding(config: GenerateConfig) -> dict[str, Any]:
    """The settings that decide a completion, the back end first."""
    names = ["backend", *(entry.name for entry in dataclasses.fields(config) if entry.name not in FREE_SETTINGS)]
    if config.backend != "server":
        return {name: getattr(config, name) for name in names}
    # the server's address and the budget may change between runs, as for a build
    served: dict[str, Any] = {"chat.model": config.chat.model}
    served["chat.temperature left out"] = config.chat.temperature < 0
    served |= {"chat.extra_body": dict(config.chat.extra_body), "chat.endings": config.chat.endings}
    return {name: getattr(config, name) for name in names if name not in HERE} | served


def read_finished(path: Path, wanted: Mapping[SampleKey, str]) -> dict[SampleKey, Completion]:
    """Read the existing completions; a last line cut off by a kill is removed from the file.

    Args:
        path: the file; it need not exist.
        wanted: hashes of the prompts, see `Backend`.

    Raises:
        UserError: a line is not a completion, or belongs to another prompt.
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
            raise UserError(f"{where}: completion of another prompt for problem '{key[0]}'; {CHOOSE_ANOTHER}")
        found[key] = completion
    return found
