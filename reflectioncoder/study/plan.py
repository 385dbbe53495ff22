"""The steps of a study: which commands run with which settings, and which runs share them.

A step is one process. Its key is a hash of its settings and of everything that it reads, so steps of several variants
or seeds that would do the same have the same key and run once. Nothing here touches files: the digests of input files
come in through a function.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, cast

from reflectioncoder.config.evaluate import GenerateConfig
from reflectioncoder.config.study import PLACEHOLDER, ScoreSettings, StudyConfig, run_settings, variant_of
from reflectioncoder.errors import UserError

StepVerb = Literal["build", "train", "generate", "evaluate"]
STEP_FOLDERS = "steps"  # folder of the steps' folders in that of the study
STEP_OUTPUT = "output"  # folder of a step's results in the step's folder
COMPLETIONS = "completions.jsonl"
KEY_DIGITS = 12
# Settings that change how fast or where a step runs, but not its result; they are not part of its key.
FREE_KEYS = frozenset(
    "output device workers engine ray_address ray_wait report_to logging_steps save_steps tokens_per_second"
    " rank_timeout".split()
)
WITHOUT_MODEL = ("mutation", "chat", "replay")  # samplers of builds that load no model on this machine
PATH_KEYS = frozenset("model problems data eval_data".split())
FILE_NAME = re.compile(r"/|\.(jsonl|json|parquet|toml|gz|zst|yaml|arrow|csv)$")


@dataclass(frozen=True)
class StudyStep:
    """One process of a study.

    Args:
        key: command and hash, such as "train-1f0c4a2b9d3e"; the name of the step's folder.
        verb: the command.
        settings: its settings, with the paths of other steps' outputs in place of placeholders.
        needs: keys of the steps that must be finished before.
        tokens_of: key of the training whose tokens are the limit of this one; empty for none.
    """

    key: str
    verb: StepVerb
    settings: Any
    needs: tuple[str, ...] = ()
    tokens_of: str = ""

    @property
    def on_device(self) -> bool:
        """Whether it computes on a GPU where there is one."""
        if self.verb == "build":
            return self.settings.sampler not in WITHOUT_MODEL
        decoding = self.decoding
        return self.verb == "train" or (decoding is not None and decoding.backend != "server")

    @property
    def decoding(self) -> GenerateConfig | None:
        """How it decodes: a `generate` step, or an `evaluate` step with rounds of debugging; None for others."""
        if self.verb == "generate":
            return cast(GenerateConfig, self.settings)
        return (
            cast(GenerateConfig, self.settings.generate) if self.verb == "evaluate" and self.settings.rounds else None
        )


@dataclass(frozen=True)
class StudyRun:
    """The steps of one variant with one seed.

    Args:
        variant: name of the variant.
        seed: the seed.
        builds: keys of its builds.
        train: key of its training; empty if the model is scored as it is.
        scores: keys of decoding and checking, by name of the score.
    """

    variant: str
    seed: int
    builds: tuple[str, ...]
    train: str
    scores: Mapping[str, tuple[str, str]]

    @property
    def steps(self) -> tuple[str, ...]:
        """Keys of all steps, in the order in which they run."""
        scored = [key for pair in self.scores.values() for key in pair]
        return (*self.builds, *([self.train] if self.train else []), *scored)


@dataclass(frozen=True)
class StudyPlan:
    """All steps of a study by key, and its runs in the order in which they start: all variants of the first seed, then
    those of the second, and so on, so that a study that is stopped early has comparable runs.

    Args:
        root: folder of the steps' folders.
        steps: all steps by key.
        runs: all runs.
    """

    root: Path
    steps: Mapping[str, StudyStep]
    runs: tuple[StudyRun, ...]

    def folder(self, key: str) -> Path:
        """The folder of a step: config.toml, log.txt, step.json and output/."""
        return self.root / key

    def output(self, key: str) -> Path:
        """The folder of a step's results."""
        return self.root / key / STEP_OUTPUT


def steps_root(config: StudyConfig) -> Path:
    """The folder of the steps' folders, which several studies may share."""
    return Path(config.steps or f"{config.output}/{STEP_FOLDERS}")


def make_plan(config: StudyConfig, digest: Callable[[str], str]) -> StudyPlan:
    """Plan all steps.

    Args:
        config: the study.
        digest: returns a digest of the file or folder at a path, and "" if there is none.

    Raises:
        UserError: variants that wait for each other.
    """
    planner = _Planner(config, digest)
    runs = tuple(planner.run(name, seed) for seed in config.seeds for name in config.variants)
    return StudyPlan(planner.root, planner.steps, runs)


class _Planner:
    def __init__(self, config: StudyConfig, digest: Callable[[str], str]) -> None:
        self.config, self.digest = config, digest
        self.root = steps_root(config)
        self.settings = cache(partial(run_settings, config))
        self.steps: dict[str, StudyStep] = {}
        self.trained: dict[tuple[str, int], str] = {}
        self.under_way: list[str] = []

    def run(self, variant: str, seed: int) -> StudyRun:
        settings = self.settings(variant, seed)
        builds = tuple(self.build(variant, seed, name) for name in settings.builds)
        train = self.train(variant, seed) if settings.train else ""
        scores = {score.name: self.score(variant, seed, score, bool(train)) for score in settings.scores}
        return StudyRun(variant, seed, builds, train, scores)

    def build(self, variant: str, seed: int, name: str) -> str:
        return self.add("build", self.settings(variant, seed).builds[name], variant, seed)

    def train(self, variant: str, seed: int) -> str:
        """The key of a variant's training. Raises UserError if it waits for itself."""
        if (variant, seed) in self.trained:
            return self.trained[variant, seed]
        if variant in self.under_way:
            circle = " -> ".join([*self.under_way[self.under_way.index(variant) :], variant])
            raise UserError(f"variants wait for each other: {circle}")
        self.under_way.append(variant)
        other = variant_of(self.config, variant).tokens_of
        limit = self.train(other, seed) if other else ""
        settings = self.settings(variant, seed).train
        key = self.add("train", settings, variant, seed, limit)
        self.under_way.pop()
        self.trained[variant, seed] = key
        return key

    def score(self, variant: str, seed: int, score: ScoreSettings, trained: bool) -> tuple[str, str]:
        decoding = score.generate
        if trained:
            decoding = dataclasses.replace(decoding, model=f"{{models.{variant}}}")
        decoded = self.add("generate", decoding, variant, seed)
        completions = str(self.root / decoded / STEP_OUTPUT / COMPLETIONS)
        generate = dataclasses.replace(self.steps[decoded].settings, output=completions)
        checking = dataclasses.replace(score.evaluate, generate=generate, completions=completions)
        return decoded, self.add("evaluate", checking, variant, seed, decoded=decoded)

    def add(self, verb: StepVerb, settings: Any, variant: str, seed: int, limit: str = "", decoded: str = "") -> str:
        needs = {name: self.needed(name, variant, seed) for name in _named(settings) if name != "seed"}
        marked = _fill(settings, {**{name: f"@{key}" for name, key in needs.items()}, "seed": str(seed)})
        paths = {name: str(self.root / key / STEP_OUTPUT) for name, key in needs.items()}
        filled = _fill(settings, {**paths, "seed": str(seed)})
        if decoded:  # what was decoded, and how, is in that step's key
            changed = {key: value for key, value in _changed(filled).items() if not key.startswith("generate.")}
            changed |= {"completions": f"@{decoded}"}
        else:
            changed = _changed(marked)
        facts: dict[str, Any] = {"verb": verb, "settings": changed, "tokens_of": limit}
        facts["inputs"] = {text: found for text in _paths(changed) if (found := self.digest(text))}
        text = json.dumps(facts, sort_keys=True, ensure_ascii=False)
        key = f"{verb}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:KEY_DIGITS]}"
        before = dict.fromkeys([*needs.values(), *([limit] if limit else []), *([decoded] if decoded else [])])
        if decoded and settings.rounds:  # the model answers again
            before |= dict.fromkeys(self.steps[decoded].needs)
        self.steps.setdefault(key, StudyStep(key, verb, filled, tuple(before), limit))
        return key

    def needed(self, name: str, variant: str, seed: int) -> str:
        kind, _, rest = name.partition(".")
        if kind == "models":
            return self.train(rest, seed)
        return self.build(variant, seed, rest)


def _named(settings: Any) -> list[str]:
    texts = [text for value in _changed(settings).values() for text in _texts(value)]
    return list(dict.fromkeys(name for text in texts for name in PLACEHOLDER.findall(text)))


def _fill(value: Any, found: Mapping[str, str]) -> Any:
    """Settings with texts in place of placeholders, at any depth."""
    if isinstance(value, str):
        return PLACEHOLDER.sub(lambda match: found.get(match.group(1), match.group()), value)
    if isinstance(value, tuple):
        return tuple(_fill(item, found) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        new = {entry.name: _fill(getattr(value, entry.name), found) for entry in dataclasses.fields(value)}
        return dataclasses.replace(value, **new)
    return value


def _changed(settings: Any, prefix: str = "") -> dict[str, Any]:
    """The settings that decide a result and are not the defaults, by dotted key."""
    found: dict[str, Any] = {}
    for entry in dataclasses.fields(settings):
        value = getattr(settings, entry.name)
        key = f"{prefix}{entry.name}"
        if dataclasses.is_dataclass(value):
            found |= _changed(value, f"{key}.")
            continue
        default = entry.default_factory() if callable(entry.default_factory) else entry.default
        if value != default and entry.name not in FREE_KEYS:
            found[key] = value
    return found


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return [text for item in items for text in _texts(item)]


def _paths(changed: Mapping[str, Any]) -> list[str]:
    """The texts among settings that may be paths of inputs; those of other steps ("@...") are not."""
    found: dict[str, None] = {}
    for key, value in changed.items():
        named = key.rpartition(".")[2] in PATH_KEYS
        found |= dict.fromkeys(text for text in _texts(value) if text and (named or FILE_NAME.search(text)))
    return [text for text in found if not text.startswith("@")]
