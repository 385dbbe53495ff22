"""Settings of `improve`: rounds in which a model learns from its own mistakes (docs/improving.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from reflectioncoder.config.build import AttemptsConfig, BuildConfig, NativeConfig
from reflectioncoder.config.evaluate import EvaluateConfig, GenerateConfig
from reflectioncoder.config.tables import (
    GivenTable,
    ScoreSettings,
    check_placeholders,
    merge_tables,
    placeholders,
    read_tables,
    score_tables,
    sections,
)
from reflectioncoder.config.train import TrainConfig
from reflectioncoder.errors import UserError

STOPPING = "stopping"  # name of the score that stops the loop
ROUND_MODEL = "{model}"  # the model that attempts the problems of a round, or that is scored
ROUND_BUILD = "{build}"  # the output of a round's build
ATTEMPTING = ("attempts", "native")  # samplers that need a model
SERVED = ("server", "completions")  # back ends that decode elsewhere


@dataclass(frozen=True)
class ImproveConfig:
    """Let a model learn from its own mistakes, round after round, until a held-out set stops improving.

    In each round the model attempts the training problems, its programs are run, what fails is explained and repaired,
    and a model is trained on that and scored. A loop that was killed goes on when it is started again.

    Args:
        title: heading of the page; empty for the name of the output folder.
        output: directory of the loop: its rounds, improve.json, table.md and report.html.
        start: the model that attempts in the first round: a directory, a hub name, "smollm2-135m-instruct" (embedded)
            or "micro".
        rounds: most rounds.
        patience: stop after this many rounds in a row without a gain of the stopping score; 0 never stops before
            `rounds`.
        min_gain: smallest gain of the stopping score over its last gain that counts, in percentage points.
        train_from: each round trains `start` anew, or goes on from the `last` model.
        keep_data: train on the data of all rounds so far; otherwise on that of the round alone.
        fresh_problems: add the number of rounds before to `build.seed`, which draws new procedural problems in each
            round; otherwise all rounds have the same.
        keep_models: keep `all` trained models, or the weights of the `best` and the last only.
        jobs: steps at the same time; 0 is one per GPU, or one per core on a machine without.
        threads: threads of each step; 0 divides the cores among the steps.
        engine: where the steps run: `local` is this machine; `ray` (an extra) a Ray cluster, whose nodes must see
            `output` under the same path. `build.engine` is another setting: it spreads the programs of one build.
        ray_address: HOST:PORT of the cluster's head; empty uses the cluster of this machine, or starts one.
        build: settings of `build`; the sampler is `attempts` (default) or `native`.
        train: settings of `train`; `data` names the rounds' builds as "{build}".
        generate: how the completions of the stopping score are decoded, and its task.
        evaluate: how they are checked.
        scores: further scores of each model by name, which decide nothing, each with tables `generate` and `evaluate`
            over those of the loop.

    Raises:
        UserError: an unknown key in any table, or settings that contradict each other.
    """

    title: str = ""
    output: str = "runs/improve"
    start: str = ""
    rounds: int = 5
    patience: int = 2
    min_gain: float = 0.0
    train_from: Literal["start", "last"] = "start"
    keep_data: bool = True
    fresh_problems: bool = True
    keep_models: Literal["all", "best"] = "all"
    jobs: int = 0
    threads: int = 0
    engine: Literal["local", "ray"] = "local"
    ray_address: str = ""
    build: Mapping[str, Any] = sections()
    train: Mapping[str, Any] = sections()
    generate: Mapping[str, Any] = sections()
    evaluate: Mapping[str, Any] = sections()
    scores: Mapping[str, Any] = sections()

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UserError(f"key 'rounds': needs at least 1, found {self.rounds}")
        for key in ("patience", "min_gain", "jobs", "threads"):
            if getattr(self, key) < 0:
                raise UserError(f"key '{key}': must be at least 0, found {getattr(self, key)}")
        if STOPPING in self.scores:
            raise UserError(f"key 'scores.{STOPPING}': is the score of [generate], which stops the loop; rename it")
        round_settings(self, 1)


@dataclass(frozen=True)
class RoundSettings:
    """The settings of one round. Texts may contain `ROUND_MODEL` and `ROUND_BUILD`.

    Args:
        build: the attempts and their repair; None in round 0, which scores the first model.
        train: training; None in round 0.
        scores: the score that stops the loop, then those that are only reported.
    """

    build: BuildConfig | None
    train: TrainConfig | None
    scores: tuple[ScoreSettings, ...]


def round_settings(config: ImproveConfig, number: int) -> RoundSettings:
    """Read the tables for a round, and check every key.

    Args:
        config: the loop.
        number: number of the round; round 0 scores the first model as it is.

    Raises:
        UserError: an unknown key, a value of the wrong type, a key that the loop sets itself, an unknown placeholder,
            or settings that contradict each other.
    """
    scores = tuple(_score(config, name) for name in (STOPPING, *config.scores))
    if number == 0:
        return RoundSettings(None, None, scores)
    return RoundSettings(_build(config, number), _train(config), scores)


def _build(config: ImproveConfig, number: int) -> BuildConfig:
    given: list[GivenTable] = [(config.build, "build.")]
    for table in ATTEMPTING:
        own = config.build.get(table, {})
        if isinstance(own, Mapping) and "model" in own:
            raise UserError(f"key 'build.{table}.model': is the model of each round; set start for the first")
    read = read_tables(BuildConfig, merge_tables("build", given, "the loop"), given)
    sampler = config.build.get("sampler", "attempts")
    if sampler not in ATTEMPTING:
        raise UserError(f"key 'build.sampler': '{sampler}' asks no model that learns; take {' or '.join(ATTEMPTING)}")
    own = getattr(read, sampler)
    if own.backend in SERVED and ROUND_MODEL not in read.chat.model and not config.fresh_problems:
        raise UserError(
            f"key 'build.{sampler}.backend': the server has the same model and the same problems in every round; set"
            f" build.chat.model = '{ROUND_MODEL}' for servers that load models by path, or fresh_problems = true"
        )
    model = "" if own.backend == "server" else ROUND_MODEL
    changed: AttemptsConfig | NativeConfig = dataclasses.replace(own, model=model)
    seed = read.seed + (number - 1 if config.fresh_problems else 0)
    build: BuildConfig = dataclasses.replace(read, sampler=sampler, seed=seed, **{sampler: changed})
    check_placeholders(build, {"model"}, "[build]")
    return build


def _train(config: ImproveConfig) -> TrainConfig:
    given: list[GivenTable] = [(config.train, "train.")]
    if "model" in config.train:
        raise UserError("key 'train.model': is set by the loop; set start for the first model, and train_from")
    read: TrainConfig = read_tables(TrainConfig, merge_tables("train", given, "the loop"), given)
    train = dataclasses.replace(read, data=read.data or (ROUND_BUILD,), model=ROUND_MODEL)
    if not any(ROUND_BUILD in text for text in train.data):
        raise UserError(f"key 'train.data': names no {ROUND_BUILD}, so no round would learn from its attempts")
    check_placeholders(train, {"build", "model"}, "[train]")
    for key in ("eval_data", "fields"):
        if list(placeholders(getattr(train, key))):
            raise UserError(f"key 'train.{key}': takes no placeholder; only train.data does")
    return train


def _score(config: ImproveConfig, name: str) -> ScoreSettings:
    decoding: list[GivenTable] = [(config.generate, "generate.")]
    checking: list[GivenTable] = [(config.evaluate, "evaluate.")]
    if name != STOPPING:
        parts = score_tables(config.scores, name)
        decoding.append((parts.generate, f"scores.{name}.generate."))
        checking.append((parts.evaluate, f"scores.{name}.evaluate."))
    for table, where in decoding:
        if "model" in table:
            raise UserError(f"key '{where}model': is the model of each round; leave it out")
    generate: GenerateConfig = read_tables(GenerateConfig, merge_tables("generate", decoding, "the loop"), decoding)
    evaluate: EvaluateConfig = read_tables(EvaluateConfig, merge_tables("evaluate", checking, "the loop"), checking)
    where = "[generate]" if name == STOPPING else f"[scores.{name}]"
    if generate.backend in SERVED and ROUND_MODEL not in generate.chat.model:
        raise UserError(
            f"{where}: a server has the same model in every round, so all scores would be the same; set chat.model ="
            f" '{ROUND_MODEL}' for servers that load models by path, or take another backend"
        )
    score = ScoreSettings(name, dataclasses.replace(generate, model=ROUND_MODEL), evaluate)
    check_placeholders([score.generate, score.evaluate], {"model"}, where)
    return score
