"""Steps of a study or a loop: which commands run with which settings, and which chains of them share some.

A step is one process. Its key is a hash of its settings and of everything that it reads, so steps of several chains
that would do the same have the same key and run once. Nothing here touches files: the digests of input files come in
through a function.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from reflectioncoder.config.evaluate import EvaluateConfig, GenerateConfig
from reflectioncoder.config.tables import PLACEHOLDER

StepVerb = Literal["build", "train", "generate", "evaluate"]
STEP_FOLDERS = "steps"  # folder of the steps' folders in the output
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
Find = Callable[[str], str]  # the key of the step that a placeholder stands for


@dataclass(frozen=True)
class Step:
    """One process.

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
class StepRun:
    """A chain of steps: builds, a training, and scores of its model.

    Args:
        name: what messages call it, such as "plain, seed 0" or "round 2".
        builds: keys of its builds.
        train: key of its training; empty if the model is scored as it is.
        scores: keys of decoding and checking, by name of the score.
    """

    name: str
    builds: tuple[str, ...]
    train: str
    scores: Mapping[str, tuple[str, str]]

    @property
    def where(self) -> str:
        """What messages about its settings call it."""
        return self.name

    @property
    def steps(self) -> tuple[str, ...]:
        """Keys of all steps, in the order in which they run."""
        scored = [key for pair in self.scores.values() for key in pair]
        return (*self.builds, *([self.train] if self.train else []), *scored)

    @property
    def links(self) -> list[tuple[str, str]]:
        """Short names of the steps, such as "train", with their keys."""
        builds = [(f"build-{place}" if place else "build", key) for place, key in enumerate(self.builds)]
        trained = [("train", self.train)] if self.train else []
        scores = []
        for name, (decoded, checked) in self.scores.items():
            end = f"-{name}" if len(self.scores) > 1 else ""
            scores += [(f"generate{end}", decoded), (f"evaluate{end}", checked)]
        return [*builds, *trained, *scores]


@dataclass(frozen=True)
class StepPlan:
    """All steps by key, and the chains of steps in the order in which they start.

    Args:
        root: folder of the steps' folders.
        steps: all steps by key.
        runs: all chains.
    """

    root: Path
    steps: Mapping[str, Step]
    runs: tuple[StepRun, ...]

    def folder(self, key: str) -> Path:
        """The folder of a step: config.toml, log.txt, step.json and output/."""
        return self.root / key

    def output(self, key: str) -> Path:
        """The folder of a step's results."""
        return self.root / key / STEP_OUTPUT


class StepPlanner:
    """Collects steps, each once.

    Args:
        root: folder of the steps' folders.
        digest: returns a digest of the file or folder at a path, and "" if there is none.
    """

    def __init__(self, root: Path, digest: Callable[[str], str]) -> None:
        self.root, self.digest = root, digest
        self.steps: dict[str, Step] = {}

    def add(
        self,
        verb: StepVerb,
        settings: Any,
        find: Find,
        texts: Mapping[str, str] | None = None,
        limit: str = "",
        decoded: str = "",
    ) -> str:
        """Add a step, and return its key.

        Args:
            verb: the command.
            settings: its settings; texts may contain placeholders.
            find: gives the key of the step for whose output a placeholder stands.
            texts: placeholders that stand for a text, such as the seed.
            limit: key of the training whose tokens are the limit of this one; empty for none.
            decoded: key of the step whose completions are checked; empty for none.
        """
        texts = texts or {}
        needs = {name: find(name) for name in _named(settings) if name not in texts}
        marked = _fill(settings, {**{name: f"@{key}" for name, key in needs.items()}, **texts})
        paths = {name: str(self.root / key / STEP_OUTPUT) for name, key in needs.items()}
        filled = _fill(settings, {**paths, **texts})
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
        self.steps.setdefault(key, Step(key, verb, filled, tuple(before), limit))
        return key

    def add_score(
        self, decoding: GenerateConfig, checking: EvaluateConfig, find: Find, texts: Mapping[str, str] | None = None
    ) -> tuple[str, str]:
        """Add the two steps of a score, and return their keys; see `add`."""
        decoded = self.add("generate", decoding, find, texts)
        completions = str(self.root / decoded / STEP_OUTPUT / COMPLETIONS)
        generate = dataclasses.replace(self.steps[decoded].settings, output=completions)
        whole = dataclasses.replace(checking, generate=generate, completions=completions)
        return decoded, self.add("evaluate", whole, find, texts, decoded=decoded)


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
