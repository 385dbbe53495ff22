"""The demo runs the whole pipeline with the embedded model: build, train two arms, score three arms, report.

The arms are the unchanged model, the model after plain instruction tuning, and the model after ReflectionCoder training
on the same problems with equal training tokens. Each stage is a command with its own directory. Finished stages are
skipped, so an interrupted demo resumes.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from reflectioncoder.config.build import BuildConfig
from reflectioncoder.config.evaluate import DemoConfig, EvaluateConfig, GenerateConfig
from reflectioncoder.config.places import changed_values
from reflectioncoder.config.toml import load, save, was_saved
from reflectioncoder.config.train import MaskingConfig, TrainConfig
from reflectioncoder.errors import UserError
from reflectioncoder.files.json_value import parse_json
from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.files.owned import held

ARMS = ("before", "instruction_tuned", "after")
DEMO_SAVE_STEPS = 5  # steps between checkpoints, each some minutes of a slow machine
DEMO_TASKS = ("heldout", "handwritten", "humaneval")


def build_config(demo: DemoConfig) -> BuildConfig:
    """Return the configuration of the build, which makes the training data of both arms."""
    return BuildConfig(output=f"{demo.output}/build", count=demo.problems, seed=demo.seed, levels=demo.levels)


def train_configs(demo: DemoConfig) -> dict[str, TrainConfig]:
    """Return the configurations of the two trained arms; they differ only in output, data and objective."""
    root = f"{demo.output}/build"
    common = TrainConfig(
        batch_size=demo.batch_size,
        micro_tokens=demo.micro_tokens,
        max_tokens=demo.tokens,
        max_length=2048,
        learning_rate=demo.learning_rate,
        seed=demo.seed,
        upsample=1,
        save_steps=DEMO_SAVE_STEPS,
        resume=True,  # a stage that was killed goes on from its last checkpoint
        masking=MaskingConfig(),
    )
    return {
        "after": dataclasses.replace(
            common,
            output=f"{demo.output}/train/reflection",
            data=(f"{root}/sequences.jsonl", *[f"{root}/instructions.jsonl"] * demo.plain),
        ),
        "instruction_tuned": dataclasses.replace(
            common,
            output=f"{demo.output}/train/instruction",
            data=(f"{root}/instructions.jsonl",),
            objective="instruction",
        ),
    }


def evaluate_config(demo: DemoConfig, arm: str, task: str) -> EvaluateConfig:
    """Return the configuration that scores one arm on one task: greedy decoding, one sample."""
    trained = train_configs(demo)
    model = trained[arm].output if arm in trained else TrainConfig().model
    limit = {"heldout": demo.heldout, "handwritten": demo.handwritten, "humaneval": demo.humaneval}[task]
    output = f"{demo.output}/evaluate/{arm}/{task}"
    # The held-out problems are the same for every seed of the demo, so that results are comparable.
    generate = GenerateConfig(
        model=model,
        task=task,
        output=f"{output}/completions.jsonl",
        limit=limit,
        levels=demo.levels,
        max_new_tokens=320 if task == "humaneval" else 0,  # a small model only repeats itself after that
    )
    return EvaluateConfig(generate=generate, output=output, seconds=3.0)


def describe_demo(demo: DemoConfig) -> str:
    """Describe the stages of a run, one line each."""
    lines = [f"build: {demo.problems} procedural problems into {demo.output}/build"]
    for arm, config in train_configs(demo).items():
        lines.append(f"train {arm}: {config.objective}, {config.max_tokens:,} tokens into {config.output}")
    for arm in ARMS:
        lines.append(f"evaluate {arm}: {', '.join(DEMO_TASKS)} into {demo.output}/evaluate/{arm}")
    return "\n".join(lines)


def run_demo(demo: DemoConfig) -> dict[str, Any]:
    """Run the unfinished stages, print the table, and write summary.json and report.html.

    Returns:
        the contents of summary.json: the number of sequences; pass@1 with its 95 % interval and n for each task and
        arm; paired comparisons; training tokens by arm; seconds by stage; and the peak memory in MiB.

    Raises:
        UserError: the directory holds a demo with another configuration.
    """
    with held(Path(demo.output)):
        return _run_demo(demo)


def _run_demo(demo: DemoConfig) -> dict[str, Any]:
    from reflectioncoder.construct.build import build
    from reflectioncoder.evaluate.compare import compare
    from reflectioncoder.evaluate.evaluate import evaluate
    from reflectioncoder.report.page import write_report
    from reflectioncoder.train.train import train

    root = Path(demo.output)
    if (root / "config.toml").is_file():
        before = load(DemoConfig, root / "config.toml") if was_saved(DemoConfig, root) else None
        if before is None or changed_values(vars(before), vars(demo)):
            raise UserError(f"{root}: holds a demo with another configuration; choose another --output or remove it")
    save(demo, root)
    console = Console()
    stages = _Stages(root / "stages.json", console)

    built = stages.run("build", lambda: {"sequences": build(build_config(demo)).sequences})
    tokens = demo.tokens
    for arm, training in train_configs(demo).items():
        # A run ends with a whole step, so the first arm may use more tokens than asked; the second gets at least these.
        equal = dataclasses.replace(training, max_tokens=tokens)
        tokens = stages.run(f"train {arm}", partial(_trained, train, equal))["tokens"]
    scores: dict[str, dict[str, Any]] = {task: {} for task in DEMO_TASKS}
    for arm in ARMS:
        for task in DEMO_TASKS:
            done = stages.run(f"evaluate {arm} {task}", partial(_as_dict, evaluate, evaluate_config(demo, arm, task)))
            scores[task][arm] = {key: done[key] for key in ("pass_at_1", "low", "high", "n")}
    directories = {(arm, task): Path(evaluate_config(demo, arm, task).output) for arm in ARMS for task in DEMO_TASKS}
    comparisons = {
        f"{task}: after against {arm}": dataclasses.asdict(compare(directories[arm, task], directories["after", task]))
        for task in DEMO_TASKS
        for arm in ("before", "instruction_tuned")
    }
    summary = {
        "sequences": built["sequences"],
        **scores,
        "comparisons": comparisons,
        "training_tokens": {arm: stages.done[f"train {arm}"]["tokens"] for arm in train_configs(demo)},
        "seconds": {name: stage["seconds"] for name, stage in stages.done.items()},
        "peak_mb": max(stage["peak_mb"] for stage in stages.done.values()),
    }
    write_lines(root / "summary.json", [json.dumps(summary, indent=2)])
    page = write_report(root)
    console.print(score_table(summary))
    console.print(f"{root / 'summary.json'}\n{page}")
    return summary


def score_table(summary: dict[str, Any]) -> Table:
    """Return the table of scores that `make demo` prints."""
    table = Table(title=f"pass@1 with 95 % intervals, {summary['sequences']} reflection sequences")
    table.add_column("model")
    for task in DEMO_TASKS:
        table.add_column(f"{task} (n = {summary[task]['before']['n']})", justify="right")
    for arm in ARMS:
        cells = [summary[task][arm] for task in DEMO_TASKS]
        table.add_row(
            arm.replace("_", " "),
            *(f"{cell['pass_at_1']:.1%} [{cell['low']:.1%}, {cell['high']:.1%}]" for cell in cells),
        )
    table.caption = f"{sum(summary['seconds'].values()):.0f} s in all, peak memory {summary['peak_mb']} MiB"
    return table


def _trained(train: Callable[[TrainConfig], Any], config: TrainConfig) -> dict[str, Any]:
    """Train an arm; one that was killed after its model was in place, but before that was recorded, is finished."""
    result = Path(config.output) / "result.json"
    try:
        return _as_dict(train, config)
    except UserError:
        if not result.is_file():
            raise
        found: dict[str, Any] = parse_json(result.read_text(encoding="utf-8"))
        return found


def _as_dict(stage: Callable[[Any], Any], config: Any) -> dict[str, Any]:
    """Run a stage, and convert its result, a dataclass, to a dictionary for JSON."""
    return dataclasses.asdict(stage(config))


class _Stages:
    """The finished stages with their results, time and memory; saved after every stage.

    Args:
        path: JSON file of the finished stages.
        console: console for progress.
    """

    def __init__(self, path: Path, console: Console) -> None:
        self.path, self.console = path, console
        self.done: dict[str, dict[str, Any]] = {}
        if path.is_file():
            try:
                self.done = {name: {**stage} for name, stage in parse_json(path.read_bytes()).items()}
            except (ValueError, TypeError, AttributeError):
                raise UserError(f"{path}: not a record of finished stages; remove it to resume") from None

    def run(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if name in self.done:
            self.console.print(f"[dim]{name}: done before, {self.done[name]['seconds']:.0f} s[/dim]")
            return self.done[name]
        self.console.rule(name, align="left")
        start = time.monotonic()
        result = work()
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        self.done[name] = {**result, "seconds": round(time.monotonic() - start, 1), "peak_mb": peak // 1024}
        write_lines(self.path, [json.dumps(self.done, indent=2)])
        return self.done[name]
