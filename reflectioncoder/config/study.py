"""Settings of `study`: a matrix of variants and seeds over the other commands (docs/studying.md).

A study's tables hold the keys of `build`, `train`, `generate` and `evaluate`. They are read twice: as the free tables
of a `StudyConfig`, and, merged for one variant and one seed, as the settings of these commands (`run_settings`). So a
misspelt key in any table is an error of the configuration file, before anything runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

from reflectioncoder.config.build import BuildConfig
from reflectioncoder.config.evaluate import EvaluateConfig, GenerateConfig
from reflectioncoder.config.tables import (
    RESERVED_KEYS,
    GivenTable,
    ScoreSettings,
    as_table,
    check_placeholders,
    merge_tables,
    placeholders,
    read_tables,
    score_tables,
    sections,
)
from reflectioncoder.config.toml import from_table
from reflectioncoder.config.train import TrainConfig
from reflectioncoder.errors import UserError

VARIANT_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
PROBLEM_KEYS = ("task", "levels", "seed", "data")  # of `generate`: they decide the problems of a score
UNSEEDED = "generate.seed"  # decides the held-out problems, which must be the same in all runs


@dataclass(frozen=True)
class VariantConfig:
    """One row of a study.

    Args:
        label: its name in tables; empty for its key.
        paper: the numbers of the published row, by heading, such as {"HumanEval" = 75.0}; shown beside the measured
            ones.
        trained: whether the model is trained; without, the model of `train` is scored as it is.
        tokens_of: name of a variant; training ends at the first step that reaches as many tokens through the model as
            the training of that variant with the same seed (equal tokens).
        seeded: keys that are set to the seed of a run, in place of the study's `seeded`.
        build: settings of `build`, over those of the study.
        builds: further builds by name, over those of the study.
        train: settings of `train`, over those of the study.
        generate: settings of `generate`, over those of the study.
        evaluate: settings of `evaluate`, over those of the study.
    """

    label: str = ""
    paper: Mapping[str, Any] = field(default_factory=dict, hash=False)
    trained: bool = True
    tokens_of: str = ""
    seeded: tuple[str, ...] = ()
    build: Mapping[str, Any] = field(default_factory=dict, hash=False)
    builds: Mapping[str, Any] = field(default_factory=dict, hash=False)
    train: Mapping[str, Any] = field(default_factory=dict, hash=False)
    generate: Mapping[str, Any] = field(default_factory=dict, hash=False)
    evaluate: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class StudyConfig:
    """Run a matrix of variants and seeds over build, train, generate and evaluate, and compare the scores.

    Every run is a chain of these commands, each in its own process and folder. Steps with the same settings and inputs
    run once and are shared. A study that was killed goes on when it is started again, and failed runs are tried again.

    Args:
        title: heading of the page; empty for the name of the output folder.
        output: directory of the study: its runs, study.json, table.md and report.html.
        seeds: seeds of the runs of each variant.
        seeded: keys that are set to the seed of a run, such as "train.seed" or "build.seed".
        reference: the variant that the others are compared with, problem by problem and seed by seed.
        token_reference: a second variant that the others are compared with, such as one with equal tokens; empty for
            none.
        headline: the variant whose differences to both references stand first on the page; empty for none.
        jobs: runs at the same time; 0 is one per GPU, or one per core on a machine without.
        threads: threads of each run; 0 divides the cores among the runs.
        engine: `local` is this machine; `ray` (an extra) spreads the runs over the devices of a Ray cluster, whose
            nodes must see `output` under the same path.
        ray_address: HOST:PORT of the cluster's head; empty uses the cluster of this machine, or starts one.
        steps: directory of the steps' folders; empty for `steps` in the output. Studies that name the same one share
            equal steps; only one of them runs at a time.
        keep_models: keep the trained models; otherwise each is deleted once all its scores are there.
        build: settings of `build` for all variants.
        builds: further builds by name, each with settings over those of `build`.
        train: settings of `train` for all variants.
        generate: settings of `generate` for all variants.
        evaluate: settings of `evaluate` for all variants.
        scores: several scores of each model by name, each with tables `generate` and `evaluate` over those of the
            study; empty for one score.
        variants: the rows of the study by name, each with the keys of a variant (docs/studying.md).

    Raises:
        UserError: an unknown key in any table, a variant that does not exist, or settings that contradict each other.
    """

    title: str = ""
    output: str = "runs/study"
    seeds: tuple[int, ...] = (0,)
    seeded: tuple[str, ...] = ("train.seed",)
    reference: str = ""
    token_reference: str = ""
    headline: str = ""
    jobs: int = 0
    threads: int = 0
    engine: Literal["local", "ray"] = "local"
    ray_address: str = ""
    steps: str = ""
    keep_models: bool = True
    build: Mapping[str, Any] = sections()
    builds: Mapping[str, Any] = sections()
    train: Mapping[str, Any] = sections()
    generate: Mapping[str, Any] = sections()
    evaluate: Mapping[str, Any] = sections()
    scores: Mapping[str, Any] = sections()
    variants: Mapping[str, Any] = sections()

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UserError(f"key 'seeds': needs one seed or more, each once, found {list(self.seeds)}")
        if self.jobs < 0 or self.threads < 0:
            raise UserError("keys 'jobs' and 'threads' must be at least 0")
        for name in self.variants:
            if not VARIANT_NAME.fullmatch(name):
                raise UserError(f"key 'variants.{name}': a name is made of letters, digits, '_', '-' and '.'")
        if len(self.variants) > 1 and not self.reference:
            known = ", ".join(self.variants)
            raise UserError(f"key 'reference' is missing: name the variant that the others are compared with ({known})")
        for key in ("reference", "token_reference", "headline"):
            if name := getattr(self, key):
                self._check_variant(name, f"key '{key}'")
        for name in self.variants:
            variant = variant_of(self, name)
            if variant.tokens_of:
                self._check_variant(variant.tokens_of, f"key 'variants.{name}.tokens_of'", trained=True)
        runs = {name: run_settings(self, name, self.seeds[0]) for name in self.variants}
        for name, run in runs.items():
            for mine, first in zip(run.scores, next(iter(runs.values())).scores, strict=True):
                for key in PROBLEM_KEYS:
                    one, other = (getattr(score.generate, key) for score in (mine, first))
                    if one != other:
                        raise UserError(
                            f"key 'variants.{name}.generate.{key}': is {one!r}, and {other!r} for variant "
                            f"'{next(iter(runs))}'; a score has the same problems in all variants"
                        )

    def _check_variant(self, name: str, where: str, trained: bool = False) -> None:
        if name not in self.variants:
            near = get_close_matches(name, self.variants, 1)
            rest = f"did you mean '{near[0]}'?" if near else f"the variants are {', '.join(self.variants) or 'none'}"
            raise UserError(f"{where}: there is no variant '{name}'; {rest}")
        if trained and not variant_of(self, name).trained:
            raise UserError(f"{where}: variant '{name}' is not trained")


@dataclass(frozen=True)
class RunSettings:
    """The settings of one run. Texts may contain placeholders for the outputs of other steps (`PLACEHOLDER`).

    Args:
        builds: the builds that the run uses, by name; "" is that of the table `build`.
        train: settings of training; None if the model is scored as it is.
        scores: the scores, at least one.
    """

    builds: Mapping[str, BuildConfig]
    train: TrainConfig | None
    scores: tuple[ScoreSettings, ...]


def variant_of(config: StudyConfig, name: str) -> VariantConfig:
    """Read the table of a variant. Raises UserError with the key that is wrong."""
    table = config.variants[name]
    if not isinstance(table, Mapping):
        raise UserError(f"key 'variants.{name}': expected a table, found {table!r}")
    return from_table(VariantConfig, table, "", f"variants.{name}.")


def run_settings(config: StudyConfig, name: str, seed: int) -> RunSettings:
    """Merge the tables of a study and a variant, and check every key.

    Args:
        config: the study.
        name: name of the variant.
        seed: seed of the run, set for the keys in `seeded`.

    Raises:
        UserError: an unknown key, a value of the wrong type, a key that the study sets itself, or an unknown
            placeholder; the message names the table.
    """
    variant = variant_of(config, name)
    at = f"variants.{name}."
    seeds = _seeds(variant.seeded or config.seeded, seed, at if variant.seeded else "")

    def table(verb: str, tables: Sequence[GivenTable]) -> dict[str, Any]:
        return merge_tables(verb, tables, "the study", seeds.get(verb))

    def both(verb: str) -> list[GivenTable]:
        return [(getattr(config, verb), f"{verb}."), (getattr(variant, verb), f"{at}{verb}.")]

    train = read_tables(TrainConfig, table("train", both("train")), both("train"))
    scores = []
    tables = config.scores or {"score": {}}
    for score in tables:
        parts = score_tables(tables, score)
        decoding, checking = (
            [both(verb)[0], (getattr(parts, verb), f"scores.{score}.{verb}."), both(verb)[1]]
            for verb in ("generate", "evaluate")
        )
        scored = table("generate", decoding)
        if variant.trained and "model" in scored:
            where = next(where for one, where in reversed(decoding) if "model" in one)
            raise UserError(f"key '{where}model': is the trained model; set train.model for what is trained")
        scored.setdefault("model", train.model)
        generate = read_tables(GenerateConfig, scored, decoding)
        evaluate = read_tables(EvaluateConfig, table("evaluate", checking), checking)
        scores.append(ScoreSettings(score, generate, evaluate))
    chosen = train if variant.trained else None
    builds = _builds(config, variant, at, seeds, chosen, scores)
    _check_placeholders(config, name, [*builds.values(), *([train] if chosen else []), *scores])
    return RunSettings(builds, chosen, tuple(scores))


def _builds(
    config: StudyConfig,
    variant: VariantConfig,
    at: str,
    seeds: Mapping[str, Mapping[str, Any]],
    train: TrainConfig | None,
    scores: Sequence[ScoreSettings],
) -> dict[str, BuildConfig]:
    """The builds whose placeholders occur in a run's settings; those of builds are followed too."""
    shared: list[GivenTable] = [(config.build, "build."), (variant.build, f"{at}build.")]
    known = {"build": list(shared)}
    for tables, prefix in ((config.builds, ""), (variant.builds, at)):
        for name, given in tables.items():
            entry = known.setdefault(f"builds.{name}", list(shared))
            entry.append((as_table(given, f"{prefix}builds.{name}"), f"{prefix}builds.{name}."))
    read: dict[str, BuildConfig] = {}
    waiting = list(placeholders([train, *scores]))
    while waiting:
        key = waiting.pop()
        if key in read or key not in known:
            continue
        merged = merge_tables("build", known[key], "the study", seeds.get("build"))
        read[key] = read_tables(BuildConfig, merged, known[key])
        waiting += placeholders(read[key])
    for key, given_tables in known.items():  # a mistake in a table that this run does not use is a mistake, too
        if key not in read:
            for one, where in given_tables:
                from_table(BuildConfig, one, "", where)
    return {key.removeprefix("builds.") if key != "build" else "": made for key, made in sorted(read.items())}


def _check_placeholders(config: StudyConfig, name: str, settings: Sequence[Any]) -> None:
    named = {f"builds.{build}" for tables in (config.builds, variant_of(config, name).builds) for build in tables}
    models = {f"models.{other}" for other in config.variants if variant_of(config, other).trained}
    known = {"build", "seed", *named, *models}
    check_placeholders(settings, known, f"key 'variants.{name}'")


def _seeds(seeded: Sequence[str], seed: int, at: str) -> dict[str, dict[str, Any]]:
    """The tables of the keys that are set to a seed, by command."""
    tables: dict[str, dict[str, Any]] = {}
    for key in seeded:
        verb, _, rest = key.partition(".")
        if verb not in RESERVED_KEYS or not rest:
            raise UserError(f"key '{at}seeded': '{key}' is not COMMAND.KEY, such as train.seed")
        if key == UNSEEDED:
            raise UserError(f"key '{at}seeded': {key} decides the held-out problems, which are the same in all runs")
        table = tables.setdefault(verb, {})
        *parents, last = rest.split(".")
        for parent in parents:
            table = table.setdefault(parent, {})
        table[last] = seed
    return tables
