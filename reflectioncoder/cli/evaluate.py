"""`reflectioncoder evaluate`, and the verbs that read its results: `compare`, `table` and `report`."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reflectioncoder.cli.arguments import Switches, Verb, positional
from reflectioncoder.cli.generate import decoding, say_truncated
from reflectioncoder.cli.process import keep_freed_memory
from reflectioncoder.clients.address import shown_url
from reflectioncoder.config.evaluate import EvaluateConfig
from reflectioncoder.progress import Meter

if TYPE_CHECKING:
    from reflectioncoder.evaluate.results import AfterRounds
    from reflectioncoder.evaluate.stats import Comparison


@dataclass(frozen=True)
class CompareArguments:
    """Compare two evaluations of one task problem by problem: difference with its interval, exact McNemar test.

    Args:
        first: output directory of the first evaluation (before), or its results.jsonl.
        second: output directory of the second evaluation (after), or its results.jsonl.
    """

    first: str = positional()
    second: str = positional()


@dataclass(frozen=True)
class TableArguments:
    """Print the paper's tables with your evaluations below the published rows.

    Args:
        directories: output directories of evaluations.
    """

    directories: tuple[str, ...] = positional((), many=True)


@dataclass(frozen=True)
class ReportArguments:
    """Write one self-contained HTML page from the files of a run, and print its path.

    Args:
        directory: output directory of a build, a training run or an evaluation.
    """

    directory: str = positional()


def run_evaluate(config: EvaluateConfig, switches: Switches) -> int:
    """Generate completions if none are given, score them, and print the score."""
    decodes_here = not config.completions and config.generate.backend == "transformers"
    if decodes_here and not switches.dry_run:
        keep_freed_memory()
    if switches.dry_run:
        from reflectioncoder.evaluate.evaluate import describe_evaluation

        how = config.generate
        model = f"{how.chat.model} at {shown_url(how.chat.base_url)}" if how.backend == "server" else how.model
        print(describe_evaluation(config, model, _warn))
        return 0
    from reflectioncoder.evaluate.evaluate import evaluate

    if not config.completions:
        print(f"decoding and scoring {config.generate.task} (--completions FILE scores what is there)", file=sys.stderr)
    with decoding() as report, Meter("checking") as meter:
        score = evaluate(config, report, meter.update, warn=_warn)
    say_truncated(score.truncated)
    if score.missing:
        print(f"{score.missing} problems have no completion and count as failed", file=sys.stderr)
    print(f"verdicts are in {score.folder}", file=sys.stderr)
    if switches.json:
        keys = ("task", "pass_at_1", "n", "low", "high", "not_run", "seconds")
        after = {} if score.after is None else {"after": dataclasses.asdict(score.after)}
        print(json.dumps({key: getattr(score, key) for key in keys} | after))
    elif score.pass_at_1 is None:
        print(f"{score.task}: not run on this machine ({score.not_run} problems)")
    else:
        rest = f", {score.not_run} not run" if score.not_run else ""
        at_k = "".join(f", pass@{k} {share:.1%}" for k, share in score.k.items() if k != 1)
        one = f"pass@1 {score.pass_at_1:.1%} [{score.low:.1%}, {score.high:.1%}]"
        print(f"{score.task}: {one}{at_k}, n = {score.n}{rest}")
        if score.after is not None:
            print("\n".join(rounds_table(score.after)))
    return 0


def rounds_table(found: AfterRounds) -> list[str]:
    """Format what rounds of debugging reach as lines of text."""
    rounds = f"{found.rounds} round{'s' if found.rounds > 1 else ''} of its own debugging"
    gap = f"{100 * found.gap:+.1f} points [{100 * found.gap_low:+.1f}, {100 * found.gap_high:+.1f}]"
    return [
        f"after {rounds}: pass@1 {found.pass_at_1:.1%} [{found.low:.1%}, {found.high:.1%}]",
        f"gap {gap}, {found.repaired} problems repaired, {found.broken} broken",
    ]


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def run_compare(arguments: CompareArguments, switches: Switches) -> int:
    """Print the comparison as a table, or as JSON."""
    from reflectioncoder.evaluate.compare import compare

    found = compare(arguments.first, arguments.second)
    if switches.json:
        print(json.dumps(dataclasses.asdict(found)))
    else:
        print("\n".join(comparison_table(arguments.first, arguments.second, found)))
    return 0


def comparison_table(first: str, second: str, found: Comparison) -> list[str]:
    """Format a comparison as lines of text: pass@1 of both, the difference, and problems that only one solved."""
    rows = [
        ("problems in both", f"{found.n}" + (f" ({found.not_run} left out, not run)" if found.not_run else "")),
        (f"pass@1 of {first}", f"{found.first:.1%}"),
        (f"pass@1 of {second}", f"{found.second:.1%}"),
        ("difference", f"{100 * found.difference:+.1f} points [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"),
        (f"solved by {first} only", f"{found.only_first}"),
        (f"solved by {second} only", f"{found.only_second}"),
        ("exact McNemar p", f"{found.p_value:.3g}"),
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name:{width}}  {value}" for name, value in rows]


def run_table(arguments: TableArguments, _: Switches) -> int:
    """Print the tables as Markdown."""
    from reflectioncoder.report.paper_tables import paper_tables

    print(paper_tables(arguments.directories))
    return 0


def run_report(arguments: ReportArguments, _: Switches) -> int:
    """Write the page and print its path."""
    from reflectioncoder.report.page import write_report

    print(write_report(Path(arguments.directory)))
    return 0


EVALUATE = Verb(
    "decode and score a task, or score a file of completions: reflectioncoder evaluate TASK",
    EvaluateConfig,
    run_evaluate,
    configured=True,
    json=True,
    aliases={"": "generate.task", "data": "generate.data"},
)
COMPARE = Verb("compare two evaluations problem by problem", CompareArguments, run_compare, json=True)
TABLE = Verb("print the paper's tables with your evaluations below", TableArguments, run_table)
REPORT = Verb("write one HTML page from the files of a run", ReportArguments, run_report)
