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
from reflectioncoder.config.places import moved, same_value
from reflectioncoder.errors import UserError, first_line
from reflectioncoder.files.json_value import parse_json
from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.files.owned import check_writable, held, refuse_foreign, refuse_inputs
from reflectioncoder.generate.completions import Completion, completion_line, read_completion
from reflectioncoder.models.model_files import check_model_files
from reflectioncoder.models.vllm_engine import check_vllm
from reflectioncoder.tasks.base import Task
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
    config = _checked(config, model is not None)
    return complete_task(config, get_task(config.task, task_options(config)), report, model, tokenizer)


def complete_task(
    config: GenerateConfig,
    task: Task,
    report: Report | None = None,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Generated:
    """Generate the completions of a task that are missing in `config.output`; see `generate`.

    Args:
        config: settings that are known to be valid, with an output file.
        task: the task; `config.task` is not looked at.
        report, model, tokenizer: see `generate`.
    """
    with held(Path(config.output), folder=False):
        return _generate(config, task, report, model, tokenizer)


def describe_generation(config: GenerateConfig) -> str:
    """Say what `generate` would do; writes nothing and loads no weights. Raises UserError where `generate` would."""
    config = _checked(config, False)
    path = Path(config.output)
    check_writable(path.parent)
    task = get_task(config.task, task_options(config))
    backend = BACKENDS.choose(config.backend)(config, task, None, None)
    check_file(config, path, backend.fingerprint)
    there = len(read_finished(path, backend.wanted, cut=False).keys() & backend.wanted.keys())
    made = f", of which {there} are there" if there else ""
    return f"would write {len(task.prompts())} x {config.samples} completions to {path}{made}"


def _checked(config: GenerateConfig, loaded: bool) -> GenerateConfig:
    """The settings with the output file filled in. Raises UserError if they, or the paths in them, cannot be used."""
    check_settings(config, loaded)
    config = dataclasses.replace(config, output=output_of(config))
    path = Path(config.output)
    refuse_inputs([path, *_beside(path)], {"task": (config.task,), "data": (config.data,)})
    return config


def _generate(
    config: GenerateConfig,
    task: Task,
    report: Report | None,
    model: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> Generated:
    backend = BACKENDS.choose(config.backend)(config, task, model, tokenizer)
    path = Path(config.output)
    check_file(config, path, backend.fingerprint)
    found = read_finished(path, backend.wanted)
    _record(config, path, backend.fingerprint, bool(found))
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
                    if backend.paid or not found:
                        os.fsync(out.fileno())
                    if not found:  # from now on an empty file is one that has lost something
                        _record(config, path, backend.fingerprint, True)
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


def check_file(config: GenerateConfig, path: Path, model: str) -> None:
    """Make sure that completions may be written to a file; changes nothing.

    A file without completions, as a killed run may leave it, is continued with any settings, but only beside records
    that this command wrote: an empty file of another program is left alone.

    Args:
        config: settings of the run.
        path: the file of completions; need not exist.
        model: fingerprint of the model.

    Raises:
        UserError: `path` holds completions of other settings, of another model or another program, or is empty although
            completions were in it; or a file that would be written beside it is another program's.
    """
    saved, _, state = _beside(path)
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is not a file; {CHOOSE_ANOTHER}")
    facts = _read_state(state)
    if not path.exists() or not path.stat().st_size:
        ours = facts is not None, settings.was_saved(GenerateConfig, path.parent, path.stem)
        refuse_foreign(path.parent, [state.name] if not ours[0] else (), "generate")
        refuse_foreign(path.parent, [saved.name] if not ours[1] else (), "generate")
        if path.exists():
            refuse_foreign(path.parent, [path.name] if not all(ours) else (), "generate")
            if facts and facts.get("begun"):
                raise UserError(
                    f"{path}: is empty, but {state.name} says that completions were in it; restore it, or delete it "
                    "to start again"
                )
        return
    if not saved.exists() or not state.exists():
        raise UserError(f"{path}: exists without {saved.name} that says how it was made; {CHOOSE_ANOTHER}")
    old = _deciding(settings.load(GenerateConfig, saved))
    for name, now in _deciding(config).items():
        same = same_value(name, old.get(name), now) or (name in ("task", "model") and moved(old.get(name), now))
        if name in old and not same:
            raise UserError(f"{path}: was made with {name} = {old[name]!r}, not {now!r}; {CHOOSE_ANOTHER}")
    if facts is None:
        raise UserError(f"{state}: not a record of generate; {CHOOSE_ANOTHER} or delete {path}")
    if facts["fingerprint"] != model:
        raise UserError(f"{path}: was made by other weights of {config.model}; {CHOOSE_ANOTHER} or delete it")


def _record(config: GenerateConfig, path: Path, model: str, begun: bool) -> None:
    """Record beside a file of completions how they are made, and whether there are any."""
    settings.save(config, path.parent, path.stem)
    write_lines(_beside(path)[2], [json.dumps({"fingerprint": model, "begun": begun})])


def _beside(path: Path) -> tuple[Path, Path, Path]:
    """The files beside completions that say how they were made: settings, versions, and fingerprint of the model."""
    names = (f"{path.stem}.toml", f"{path.stem}.versions.json", f"{path.stem}.model.json")
    saved, versions, state = (path.with_name(name) for name in names)
    return saved, versions, state


def _read_state(path: Path) -> dict[str, Any] | None:
    """The record of the model beside completions; None if there is none, or if it is another program's file."""
    try:
        found = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("fingerprint"), str) else None


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


def read_finished(path: Path, wanted: Mapping[SampleKey, str], cut: bool = True) -> dict[SampleKey, Completion]:
    """Read the existing completions; a last line cut off by a kill is removed from the file.

    Args:
        path: the file; it need not exist.
        wanted: hashes of the prompts, see `Backend`.
        cut: whether the file may be changed.

    Raises:
        UserError: a line is not a completion, or belongs to another prompt.
    """
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if cut and whole < len(data):
        os.truncate(path, whole)
    found = {}
    for number, line in enumerate(data[:whole].split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"file {path}, line {number}"
        try:
            row = parse_json(line)
        except ValueError as error:
            raise UserError(f"{where}: not JSON ({first_line(error)}); {CHOOSE_ANOTHER}") from None
        completion = read_completion(row, where)
        key = completion.task_id, completion.sample
        if wanted.get(key, completion.prompt) != completion.prompt:
            raise UserError(f"{where}: completion of another prompt for problem '{key[0]}'; {CHOOSE_ANOTHER}")
        found[key] = completion
    return found
