"""The inputs of a build: read and checked before anything is written, and what decides its sequences.

A build and its dry run read them in the same way, so both refuse the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflectioncoder.config.build import BuildConfig, ChatConfig
from reflectioncoder.config.libraries import DEFAULT_LIBRARIES
from reflectioncoder.config.toml import versions
from reflectioncoder.construct import outputs
from reflectioncoder.construct.attempts.wordings import ATTEMPTS_VERSION
from reflectioncoder.construct.conversation.samples import sample_id
from reflectioncoder.construct.engines import engine
from reflectioncoder.construct.export import FILES
from reflectioncoder.construct.filters import sequence as filters
from reflectioncoder.construct.filters.references import Reference, load_references
from reflectioncoder.construct.ledger.database import check_not_lost
from reflectioncoder.construct.mutation.kinds import BUG_KINDS
from reflectioncoder.construct.mutation.reasons import WORDING_VERSION
from reflectioncoder.construct.prompts import load_prompts
from reflectioncoder.construct.samplers import replay
from reflectioncoder.construct.samplers.registry import check_answers, check_sampler
from reflectioncoder.errors import UserError
from reflectioncoder.files.folders import PASSED_FILE
from reflectioncoder.files.json_text import ReadLimits
from reflectioncoder.files.owned import refuse_foreign, refuse_inputs
from reflectioncoder.interpreter.warm_process import check_libraries
from reflectioncoder.problems.cache import Loaded, load_once
from reflectioncoder.problems.generators import GENERATORS, generated_problems
from reflectioncoder.problems.load import load_problems
from reflectioncoder.problems.problem import Problem

# chat settings that affect the answers; the server's address and the budget may change between runs
CHAT_SETTINGS = ("model", "protocol", "system_prompt", "temperature", "top_p", "max_tokens")
# the same, but recorded only if they are set, as earlier versions did not know them
FREE_CHAT_SETTINGS = ("extra_body", "endings", "thoughts", "thought_marks")
# native settings that do not affect the answers (as in `generate`, the effect of the batch on a row is ignored)
NATIVE_FREE = ("batch_size", "device", "replicas", "trust_remote_code", "vllm")
ATTEMPTS_FREE = ("batch_size", "device", "trust_remote_code", "vllm")
# settings that do not affect the sequences, or only through the problems
NOT_FINGERPRINTED = ("output", "workers", "formats", "fork", "skip_bad", "max_row_mb", "max_file_mb", *engine.KEYS)
NOTES = "problem_notes.txt"  # file that lists all bad rows


@dataclass(frozen=True)
class Inputs:
    """What a build reads.

    Args:
        loaded: the problems, with notes about rows.
        references: problems of evaluation sets.
        decided: see `build_fingerprint`.
    """

    loaded: Loaded
    references: list[Reference]
    decided: dict[str, Any]


def read_inputs(config: BuildConfig, keep: bool = True) -> Inputs:
    """Read the problems and references of a build, and check its settings.

    Args:
        config: configuration of the build.
        keep: whether the problems may be cached in the output.

    Raises:
        UserError: a setting is invalid, or a file is missing or cannot be read.
    """
    outputs.check_formats(config.formats)
    check_answers(config)
    if config.engine == "local":  # the nodes of a cluster have libraries of their own
        check_libraries(config.libraries)
    limits = ReadLimits(config.max_row_mb, config.max_file_mb)
    loaded = _problems(config, limits, keep)
    references = load_references(
        config.decontaminate, config.decontaminate_fields, config.decontaminate_split, config.problems, limits
    )
    return Inputs(loaded, list(references), build_fingerprint(config, loaded.problems))


def check_place(config: BuildConfig, output: Path) -> None:
    """Make sure that a build may write to a folder; changes nothing.

    Raises:
        UserError: a file would overwrite an input or a file that no build wrote, or a build has lost its ledger.
    """
    names = [*output_files(config), NOTES, "config.toml", "config.versions.json"]
    inputs = {
        "problems": (config.problems,),
        "decontaminate": config.decontaminate,
        "chat.replay": (config.chat.replay,),
        "chat.prompts": (config.chat.prompts,),
    }
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; --output is the folder of the build")
    refuse_inputs([output / name for name in names], inputs)
    if (output / "ledger.lock").exists():  # a build has been here
        check_not_lost(output / "ledger.sqlite")
    if not (output / "ledger.sqlite").exists():
        refuse_foreign(output, names, "build")


def output_files(config: BuildConfig) -> list[str]:
    """Return the names of all files that a finished build has written."""
    passed = [PASSED_FILE] if config.sampler == "attempts" else []
    return [*FILES, *passed, *(outputs.FORMATS[name] for name in config.formats)]


def _problems(config: BuildConfig, limits: ReadLimits, keep: bool) -> Loaded:
    if config.count < 1:
        raise UserError(f"count = {config.count}: give a number above 0")
    if config.problems == "handwritten":
        raise UserError("problems = 'handwritten': these are an evaluation set and are never trained on")
    check_sampler(config)

    def read() -> Loaded:
        if config.problems in GENERATORS:
            return Loaded(generated_problems(config.problems, config.count, config.seed, "train", config.levels))
        skipped: list[str] = []
        renamed: list[str] = []
        fields, split, count = config.fields, config.split, config.count
        left_out = skipped if config.skip_bad else None
        return Loaded(load_problems(config.problems, fields, split, count, left_out, renamed, limits), skipped, renamed)

    reading = (config.count, config.seed, config.levels, config.fields, config.split, config.skip_bad)
    loaded = load_once(config.problems, reading, Path(config.output), read, keep)
    if config.sampler != "mutation" and any(problem.answer for problem in loaded.problems):
        raise UserError(
            f"problems = {config.problems}: their answers are text, which only the sampler mutation writes, not"
            f" {config.sampler}"
        )
    many = {"native": config.native.samples, "attempts": config.attempts.samples}.get(config.sampler, 1)
    if many == 1:
        return loaded
    numbers = range(1, many + 1)
    samples = [
        dataclasses.replace(problem, id=sample_id(problem.id, k)) for problem in loaded.problems for k in numbers
    ]
    return dataclasses.replace(loaded, problems=samples)


def build_fingerprint(config: BuildConfig, problems: Sequence[Problem]) -> dict[str, Any]:
    """Return everything that affects the sequences: a digest of the problems, versions, and most settings.

    Settings that do not affect the sequences, such as output paths and worker counts, are left out.
    """
    settings = {key: value for key, value in dataclasses.asdict(config).items() if key not in NOT_FINGERPRINTED}
    native, attempts = settings.pop("native"), settings.pop("attempts")
    del settings["chat"]
    if config.libraries == DEFAULT_LIBRARIES:
        del settings["libraries"]  # as in builds from before this setting
    for key in ("decontaminate_fields", "decontaminate_split"):
        if settings[key] == getattr(BuildConfig, key):
            del settings[key]
    if config.sampler == "mutation":
        del settings["sampler"]
        settings["wording_version"] = WORDING_VERSION
    elif config.sampler == "native":
        from reflectioncoder.models.load import weights_fingerprint as weights  # seconds of imports

        settings |= {f"native.{key}": native[key] for key in native if key not in NATIVE_FREE}
        settings["native.weights"] = weights(config.native.model)
        if config.native.backend == "completions":
            settings["chat.model"] = config.chat.model
            settings |= chat_settings(config, ())
    elif config.sampler == "attempts":
        settings |= {f"attempts.{key}": attempts[key] for key in attempts if key not in ATTEMPTS_FREE}
        settings["wording_version"] = f"{WORDING_VERSION}.{ATTEMPTS_VERSION}"
        served, repair = config.attempts.backend == "server", config.attempts.repair
        if served:
            del settings["attempts.model"]
        elif config.attempts.backend in ("transformers", "vllm"):
            from reflectioncoder.models.load import weights_fingerprint

            settings["attempts.weights"] = weights_fingerprint(config.attempts.model)
        if served or repair == "chat":
            settings |= chat_settings(config, ("model",) if repair == "reference" else CHAT_SETTINGS)
    else:
        settings |= chat_settings(config, CHAT_SETTINGS)
    if config.sampler != "mutation" and (config.sampler != "attempts" or config.attempts.repair != "reference"):
        prompts = load_prompts(config.chat.prompts)
        settings |= {"prompt_version": prompts.version, "prompt_texts": prompts.digest}
    if config.sampler == "replay":
        settings["recorded_answers"] = replay.replay_fingerprint(config.chat.replay)
    # filters and bug kinds that the caller has registered
    added = {"filters": filters.FILTERS.added, "bug_kinds": BUG_KINDS.added if config.sampler == "mutation" else ()}
    settings |= {f"added_{kind}": list(names) for kind, names in added.items() if names}
    digest = hashlib.sha256()
    for problem in problems:
        given: tuple[object, ...] = (problem.given,) if problem.given else ()
        if problem.answer or problem.mistakes:
            given = (problem.given, problem.answer, problem.plan, problem.mistakes)
        digest.update(repr((problem.id, problem.instruction, problem.solution, problem.tests, *given)).encode())
    # the sequences contain tracebacks, which differ between Python versions
    known = {key: value for key, value in versions().items() if key in ("reflectioncoder", "ipython")}
    python = ".".join(platform.python_version_tuple()[:2])
    stable: dict[str, Any] = json.loads(json.dumps({**settings, **known, "python": python}))
    return {**stable, "problem_texts": digest.hexdigest()}


def chat_settings(config: BuildConfig, always: Sequence[str], prefix: str = "chat.") -> dict[str, Any]:
    """Return the settings of the chat model that affect the answers.

    Args:
        config: configuration of the build.
        always: those that are returned in any case; some others only if they are set.
        prefix: beginning of their names in the result.
    """
    given, default = dataclasses.asdict(config.chat), dataclasses.asdict(ChatConfig())
    free = [key for key in FREE_CHAT_SETTINGS if given[key] != default[key]]
    return {f"{prefix}{key}": given[key] for key in (*always, *free)}
