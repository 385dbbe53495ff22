"""The demo: a study of five rows on the bench, with a micro model that is made first (docs/studies.md).

It has no machinery of its own: the model comes from `pretrain`, and all rows are runs of a study. So an interrupted
demo goes on, and the table and the page are those of every study.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reflectioncoder.config.demo import DemoConfig
from reflectioncoder.config.pretrain import MICRO_MODEL, PretrainConfig
from reflectioncoder.config.study import StudyConfig
from reflectioncoder.errors import UserError
from reflectioncoder.models.micro import micro_folder
from reflectioncoder.study.results import StudyResults

ANSWER_TOKENS = 160  # longest answer; an answer of the bench's problems has about 50
PLAIN, SEQUENCES = "{build}/instructions.jsonl", ("{builds.planted}/sequences.jsonl", "{builds.own}/sequences.jsonl")


def demo_study(demo: DemoConfig) -> StudyConfig:
    """Return the study that the demo runs.

    Raises:
        UserError: a number of problems is out of its range.
    """
    for name in ("problems", "sequences", "heldout"):
        if getattr(demo, name) < 1:
            raise UserError(f"{name} = {getattr(demo, name)}: must be at least 1")
    if demo.sequences > demo.problems:
        raise UserError(f"sequences = {demo.sequences}: must be at most problems = {demo.problems}")
    plain: dict[str, Any] = {"data": [PLAIN], "objective": "instruction"}
    return StudyConfig(
        title="What learning from debugging does to a micro model",
        output=demo.output,
        seeds=demo.seeds,
        seeded=("train.seed", "build.seed"),
        reference="plain",
        token_reference="plain_equal_tokens",
        headline="reflection",
        jobs=demo.jobs,
        build={
            "problems": "procedural_micro",
            "levels": list(demo.levels),
            "count": demo.problems,
            "repeats": 0,
            "formats": ["jsonl"],
        },
        builds={
            "planted": {"count": demo.sequences},
            "own": {
                "count": demo.sequences,
                "sampler": "attempts",
                "attempts": {
                    "model": demo.model,
                    "max_new_tokens": ANSWER_TOKENS,
                    "largest_repair": 1.0,
                    "precision": "float32",
                },
            },
        },
        train={
            "model": demo.model,
            "data": [*SEQUENCES, PLAIN],
            "batch_size": 4,
            "micro_tokens": 8192,
            "max_length": 2048,
            "learning_rate": demo.learning_rate,
            "upsample": 1,
            "epochs": demo.passes,
            "precision": "float32",
            "save_steps": 0,
            "report_to": ["none"],
        },
        generate={
            "task": "heldout_micro",
            "levels": list(demo.levels),
            "limit": demo.heldout,
            "max_new_tokens": ANSWER_TOKENS,
            "batch_size": 128,
            "precision": "float32",
        },
        variants={
            "before": {"label": "before tuning", "trained": False},
            "plain": {"label": "plain tuning", "train": plain},
            "reflection": {"label": "ReflectionCoder"},
            "answers": {"label": "plain tuning + the sequences' answers", "train": {"objective": "instruction"}},
            "plain_equal_tokens": {"label": "plain tuning, equal tokens", "tokens_of": "reflection", "train": plain},
        },
    )


def describe_demo(demo: DemoConfig) -> str:
    """Describe what a run would do."""
    from reflectioncoder.study.estimate import describe_study

    study = demo_study(demo)
    folder = micro_folder(PretrainConfig())
    if demo.model == MICRO_MODEL and not (folder / "config.json").is_file():
        rows = "; ".join(variant["label"] for variant in study.variants.values())
        return f"pretrain: the model micro into {folder}, some minutes, once\nstudy in {demo.output}: {rows}"
    return describe_study(study)


def run_demo(demo: DemoConfig) -> StudyResults:
    """Make the model if it is not there, run the study, and write study.json, table.md and report.html.

    Raises:
        UserError: see `demo_study`; or the directory holds something else.
    """
    from reflectioncoder.pretrain.pretrain import pretrain
    from reflectioncoder.study.study import check_same_study, run_study

    study = demo_study(demo)
    check_same_study(study)
    if demo.model == MICRO_MODEL:
        pretrain(PretrainConfig())
    return run_study(study)


def to_look_at(demo: DemoConfig) -> list[str]:
    """Commands that show what a finished demo made."""
    run = Path(demo.output) / "runs" / "reflection" / f"seed-{demo.seeds[0]}"
    return [
        f"a sequence: reflectioncoder inspect {run}/build/output/sequences.jsonl",
        f"its training: reflectioncoder report {run}/train/output",
        f"the tuned model: {run}/train/output",
    ]
