"""Reproduces the paper's two sources of sequences (section 4.1, appendix A): the first trains a model for the second.

    make bootstrap                                   # the sizes of configs/bootstrap/, for two cores
    .venv/bin/python studies/bootstrap.py --problems 24 --samples 4 --temperatures 0.6 --output runs/small

1. `build` plants bugs in solutions of procedural problems: the first source, `configs/bootstrap/mutation.toml`. Their
   instructions give three examples as asserts, like those of many benchmarks.
2. `train` trains the interpreter model on these sequences, `interpreter.toml`.
3. `build --sampler native` makes sequences with that model for problems of another seed, none of which has a
   composition from step 1; all programs are run and all sequences filtered, once for each temperature, `native.toml`.
4. The funnels are compared, and recounted for fewer samples per problem.

Every stage is a command of the command line. Finished stages are skipped, and interrupted stages resume. The last line
is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from reflectioncoder.config.build import BuildConfig
from reflectioncoder.config.toml import load
from reflectioncoder.config.train import TrainConfig
from reflectioncoder.construct.filters.sequence import shows_error
from reflectioncoder.construct.ledger.ledger import progress
from reflectioncoder.dialogues.dialogue import Dialogue, read_jsonl
from reflectioncoder.errors import UserError
from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.problems.problem import Problem
from reflectioncoder.problems.procedural import problems as procedural

CONFIGS = Path(__file__).parent.parent / "configs" / "bootstrap"
ACCEPTED = "sequences"
EXAMPLES = 3  # asserts in an instruction


@dataclass(frozen=True)
class Outcome:
    """Outcome of one conversation.

    Args:
        problem: id of the problem, without the number of the sample.
        sample: number of the sample, from 1.
        reason: reason of the rejection, or `ACCEPTED`.
        rounds: number of programs that were run.
        failed_first: whether the first program failed, so that there was something to reflect on.
        unchanged: number of repairs that changed only asserts, comments and print calls.
    """

    problem: str
    sample: int
    reason: str
    rounds: int
    failed_first: bool
    unchanged: int = 0


@dataclass(frozen=True)
class Figures:
    """Results of one build with the interpreter model.

    Args:
        temperature: sampling temperature.
        conversations: number of problems times samples.
        reasons: number of conversations by outcome.
        failed_first: number of conversations whose first program ran and failed.
        repairs: number of programs after the first of a conversation.
        unchanged: number of repairs that only repeat the program before.
        mean_rounds: mean number of programs per conversation.
        tokens: number of tokens that the model wrote.
        seconds: duration of the build, including loading the model and running programs; None if it was killed.
    """

    temperature: float
    conversations: int
    reasons: dict[str, int]
    failed_first: int
    repairs: int
    unchanged: int
    mean_rounds: float
    tokens: int
    seconds: float | None

    @property
    def yields(self) -> float:
        """Share of accepted sequences among all conversations."""
        return self.reasons.get(ACCEPTED, 0) / self.conversations


class Stages:
    """Runs verbs, each with its own output folder, and stores their wall-clock seconds in `seconds.json`.

    Args:
        root: directory of all output folders.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.path = root, root / "seconds.json"
        root.mkdir(parents=True, exist_ok=True)
        self.seconds: dict[str, float | None] = json.loads(self.path.read_text()) if self.path.is_file() else {}

    def run(self, verb: str, config: str, folder: str, flags: Mapping[str, str]) -> Path:
        """Run one verb, unless its folder has a finished run.

        The times of an interrupted and resumed stage are added up; the time of a stage that was killed is unknown.

        Args:
            verb: `build` or `train`.
            config: name of a configuration file in `CONFIGS`.
            folder: name of the output folder.
            flags: settings that override the configuration.

        Returns:
            the path of the output folder.

        Raises:
            UserError: the verb failed, or the folder has a run with other settings.
        """
        output = self.root / folder
        flags = {"output": str(output), **flags}
        cls, last = (TrainConfig, "result.json") if verb == "train" else (BuildConfig, "funnel.json")
        wanted: Any = load(cls, CONFIGS / config, flags)
        if (output / last).is_file():
            made: Any = load(cls, output / "config.toml")
            if made != (dataclasses.replace(wanted, resume=made.resume) if verb == "train" else wanted):
                raise UserError(f"{output}: finished with other settings; choose another --output or remove it")
            print(f"{folder}: done before", flush=True)
            return output
        resume: tuple[str, ...] = ()
        if verb == "train":
            from reflectioncoder.train.checkpoints import newest_checkpoint  # seconds of imports

            resume = ("--resume",) if newest_checkpoint(output) else ()
        words = [verb, "--config", str(CONFIGS / config), *resume]
        words += [word for key, value in flags.items() for word in (f"--{key}", value)]
        print(f"\n$ reflectioncoder {' '.join(words)}", flush=True)
        before = self.seconds.get(folder, 0.0)
        self._keep(folder, None)  # remains if this process is killed
        began = time.monotonic()
        try:
            status = subprocess.run([sys.executable, "-m", "reflectioncoder", *words]).returncode
        finally:
            self._keep(folder, None if before is None else round(before + time.monotonic() - began, 1))
        # a build that made no sequence has written its files and ends with 1, which is a result here
        if status != 0 and not (status == 1 and verb == "build" and (output / "funnel.json").exists()):
            raise UserError(f"{folder}: ended with status {status}; start again to continue")
        return output

    def _keep(self, name: str, seconds: float | None) -> None:
        self.seconds[name] = seconds
        write_lines(self.path, [json.dumps(self.seconds)])


def examples(problem: Problem) -> tuple[str, ...]:
    """Return the shortest tests of a problem in their order, which are the examples of its instruction."""
    shortest = set(sorted(problem.tests, key=len)[:EXAMPLES])
    return tuple(test for test in problem.tests if test in shortest)


def write_problems(root: Path, first: BuildConfig, native: BuildConfig) -> None:
    """Write the problems of both sources: procedural problems with examples in their instructions.

    The problems of the first source have only these examples as tests, so that its sequences assert what the
    instruction says. The new problems keep their other tests for the final check. None of them has the same composition
    as a problem of the first source, in any wording.
    """
    old = procedural.procedural_problems(first.count, first.seed, "train", first.levels)
    seen = {problem.extra["composition"] for problem in old}
    fresh = (
        problem
        for problem in procedural.iter_problems(native.seed, "train", native.levels)
        if problem.extra["composition"] not in seen
    )
    new = list(itertools.islice(fresh, native.count))
    for name, problems in (("first", old), ("unseen", new)):
        lines = []
        for problem in problems:
            shown = examples(problem)
            row = {
                "id": problem.id,
                "instruction": "\n".join([problem.instruction, "Examples:", *shown]),
                "solution": problem.solution,
                "tests": shown if name == "first" else problem.tests,
                "entry_point": problem.entry_point,
                "level": problem.level,
            }
            lines.append(json.dumps(row))
        write_lines(root / f"{name}.jsonl", lines)


def outcomes(folder: Path) -> list[Outcome]:
    """Read the outcomes of all conversations of a finished build."""
    found = []
    if (folder / "sequences.jsonl").stat().st_size:
        found += [_outcome(d.extra["id"], ACCEPTED, d) for d in read_jsonl(folder / "sequences.jsonl")]
    for line in (folder / "rejects.jsonl").read_text(encoding="utf-8").splitlines():
        reject = json.loads(line)
        made = reject["sequence"]
        found.append(_outcome(reject["id"], reject["reason"], made and Dialogue.from_dict(made, line[:60])))
    return found


def _outcome(id: str, reason: str, dialogue: Dialogue | None) -> Outcome:
    problem, _, sample = id.partition("#")
    blocks = dialogue.messages[1].blocks if dialogue is not None and len(dialogue.messages) > 1 else ()
    executions = [block.content for block in blocks if block.type == "execution"]
    failed_first = bool(executions) and shows_error(executions[0])
    programs = [_program(block.content) for block in blocks if block.type == "code"][: len(executions)]
    unchanged = sum(before == after for before, after in itertools.pairwise(programs))
    return Outcome(problem, int(sample or 1), reason, len(executions), failed_first, unchanged)


def _program(code: str) -> list[str]:
    """Return the lines of a program without blank lines and top-level asserts, comments and print calls."""
    lines = (line.rstrip() for line in code.splitlines())
    return [line for line in lines if line and not line.startswith(("assert ", "#", "print("))]


def figures(folder: Path, found: Sequence[Outcome], temperature: float, seconds: float | None) -> Figures:
    """Summarise a finished build with the interpreter model."""
    return Figures(
        temperature=temperature,
        conversations=len(found),
        reasons=dict(Counter(one.reason for one in found).most_common()),
        failed_first=sum(one.failed_first for one in found),
        repairs=sum(max(one.rounds - 1, 0) for one in found),
        unchanged=sum(one.unchanged for one in found),
        mean_rounds=round(sum(one.rounds for one in found) / len(found), 2),
        tokens=progress(folder).tokens_out,
        seconds=seconds,
    )


def by_samples(found: Sequence[Outcome], samples: int) -> dict[str, float]:
    """Compute the results for fewer samples per problem; the draws of a sample do not depend on their number."""
    taken = [one for one in found if one.sample <= samples]
    accepted = [one for one in taken if one.reason == ACCEPTED]
    problems = {one.problem for one in taken}
    solved = {one.problem for one in accepted}
    return {
        "samples": samples,
        "conversations": len(taken),
        "sequences": len(accepted),
        "yield": round(len(accepted) / len(taken), 4),
        "problems_with_one": round(len(solved) / len(problems), 4),
    }


def reasons_table(runs: Sequence[Figures]) -> Table:
    """Return a table of the funnels side by side."""
    table = Table("conversations that ended with", title="Outcomes of the model's own sequences")
    for run in runs:
        table.add_column(f"temperature {run.temperature:g}", justify="right")
    for reason in dict.fromkeys(reason for run in runs for reason in run.reasons if reason != ACCEPTED):
        table.add_row(reason.replace("_", " "), *(str(run.reasons.get(reason, 0)) for run in runs))
    table.add_section()
    table.add_row("accepted", *(str(run.reasons.get(ACCEPTED, 0)) for run in runs), style="bold")
    table.add_row("of conversations", *(str(run.conversations) for run in runs))
    table.add_row("yield", *(f"{run.yields:.1%}" for run in runs), style="bold")
    table.add_section()
    table.add_row("first program failed", *(f"{run.failed_first / run.conversations:.1%}" for run in runs))
    table.add_row("repairs that change nothing", *(f"{run.unchanged} of {run.repairs}" for run in runs))
    table.add_row("programs a conversation", *(f"{run.mean_rounds:.2f}" for run in runs))
    table.add_row("tokens written", *(f"{run.tokens:,}" for run in runs))
    table.add_row("seconds", *("-" if run.seconds is None else f"{run.seconds:.0f}" for run in runs))
    table.add_row(
        "tokens a second", *("-" if run.seconds is None else f"{run.tokens / run.seconds:.0f}" for run in runs)
    )
    return table


def samples_table(grid: Sequence[dict[str, float]]) -> Table:
    """Return a table of yield and coverage by temperature and number of samples."""
    table = Table(title="Temperature and samples of each problem")
    for name in ("temperature", "samples", "conversations", "sequences", "yield", "problems with one"):
        table.add_column(name, justify="right")
    for row in grid:
        shares = (f"{row['yield']:.1%}", f"{row['problems_with_one']:.1%}")
        table.add_row(*(f"{row[key]:g}" for key in ("temperature", "samples", "conversations", "sequences")), *shares)
    return table


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run all stages, and return the contents of the last line."""
    root, began = Path(options.output), time.monotonic()
    stages = Stages(root)
    first, native = load(BuildConfig, CONFIGS / "mutation.toml"), load(BuildConfig, CONFIGS / "native.toml")
    first = dataclasses.replace(first, count=options.sequences or first.count)
    native = dataclasses.replace(native, count=options.problems or native.count)
    write_problems(root, first, native)
    flags = _given(problems=root / "first.jsonl", count=first.count)
    source = stages.run("build", "mutation.toml", "mutation", flags)
    training = load(TrainConfig, CONFIGS / "interpreter.toml")
    data = ",".join(str(source / Path(path).name) for path in training.data)
    flags = _given(model=options.model, data=data, max_tokens=options.tokens, max_length=options.max_length)
    model = stages.run("train", "interpreter.toml", "interpreter", flags)
    runs, grid = [], []
    for temperature in options.temperatures:
        sampling = {"samples": options.samples, "max_new_tokens": options.max_new_tokens, "temperature": temperature}
        flags = _given(problems=root / "unseen.jsonl", count=native.count, **{"native.model": model})
        flags |= _given(**{f"native.{key}": value for key, value in sampling.items()})
        folder = stages.run("build", "native.toml", f"native-t{temperature:g}", flags)
        found = outcomes(folder)
        runs.append(figures(folder, found, temperature, stages.seconds.get(folder.name)))
        most = max(one.sample for one in found)
        grid += [{"temperature": temperature, **by_samples(found, n)} for n in sorted({1, min(4, most), most})]
    trained = json.loads((model / "result.json").read_text())
    console.print(reasons_table(runs))
    console.print(samples_table(grid))
    console.print(
        f"first source: {progress(source).done} sequences of planted bugs; the interpreter model read"
        f" {trained['tokens']:,} tokens in {trained['steps']} steps, {trained['seconds']:.0f} s",
        highlight=False,
    )
    return {
        "first_source": progress(source).done,
        "training": {key: trained[key] for key in ("tokens", "steps", "seconds", "loss")},
        "runs": [{**dataclasses.asdict(run), "yield": round(run.yields, 4)} for run in runs],
        "grid": grid,
        "stage_seconds": stages.seconds,
        "seconds": round(time.monotonic() - began, 1),
    }


def _given(**flags: Any) -> dict[str, str]:
    """Return the flags that have a value; the configuration sets the others."""
    return {key: str(value) for key, value in flags.items() if value is not None}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="runs/bootstrap")
    parser.add_argument("--temperatures", default="0.2,0.6,1.0", type=_numbers, help="a build for each")
    parser.add_argument("--model", help="model to train as the interpreter model; default: the embedded model")
    parser.add_argument("--sequences", type=int, help="problems of the first source")
    parser.add_argument("--tokens", type=int, help="training tokens")
    parser.add_argument("--max-length", type=int, help="longest training sequence in tokens; longer ones are left out")
    parser.add_argument("--problems", type=int, help="problems of the second source")
    parser.add_argument("--samples", type=int, help="conversations per problem")
    parser.add_argument("--max-new-tokens", type=int, help="longest answer in tokens")
    try:
        print(json.dumps(run(parser.parse_args(), Console(width=110))))
    except UserError as error:
        print(f"bootstrap: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bootstrap: interrupted; start again to continue", file=sys.stderr)
        return 130
    return 0


def _numbers(text: str) -> list[float]:
    return [float(item) for item in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
