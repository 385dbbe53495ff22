"""`reflectioncoder build`, and `build status`, which shows the progress of a running or stopped build."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reflectioncoder.cli.arguments import Switches, Verb, positional, print_line
from reflectioncoder.config.build import BuildConfig
from reflectioncoder.errors import UserError

if TYPE_CHECKING:  # seconds of imports, which help does not need
    from reflectioncoder.construct.ledger.ledger import BuildProgress


@dataclass(frozen=True)
class StatusArguments:
    """Show the progress of a build: its funnel so far, speed, cost and time left.

    Args:
        directory: output directory of the build.
    """

    directory: str = positional()


def run_build(config: BuildConfig, switches: Switches) -> int:
    """Build, or print what would be built."""
    if switches.dry_run:
        from reflectioncoder.construct.build import describe_build

        print(describe_build(config))
        return 0
    from reflectioncoder.construct.advice import advise
    from reflectioncoder.construct.build import build

    made = build(config)
    if made.sequences:
        return 0
    if not made.stopped:  # why a build was stopped is said already, with what to do
        print_line(f"reflectioncoder build: {advise(made.funnel, _columns(config))}")
    return 1


def _columns(config: BuildConfig) -> str:
    """Name the columns of the first problem; "" if there are none."""
    from reflectioncoder.files.rows import iter_rows
    from reflectioncoder.problems.generators import GENERATORS

    if config.problems in GENERATORS:
        return ""
    try:
        _, row = next(iter(iter_rows(config.problems, config.split)))
    except (UserError, StopIteration):
        return ""
    return ", ".join(map(str, row)) if isinstance(row, dict) else ""


def run_status(arguments: StatusArguments, switches: Switches) -> int:
    """Print the progress of a build."""
    from reflectioncoder.construct.ledger.ledger import progress

    found = progress(arguments.directory)
    print(json.dumps(dataclasses.asdict(found)) if switches.json else "\n".join(describe(found)))
    return 0


def describe(found: BuildProgress) -> list[str]:
    """Format the progress of a build as lines of text: state, funnel so far, cost, speed and time left."""
    from reflectioncoder.clients.budget import Price, Usage

    finished = found.done + sum(found.rejected.values())
    # only a finished build has a funnel, because the last filters run at the end
    state = "finished" if found.funnel else "running" if found.running else "stopped"
    share = f" of {found.total} ({finished / found.total:.1%})" if found.total else ""
    lines = [f"{'state':22}{state}", f"{'problems finished':22}{finished}{share}"]
    if found.funnel:
        lines += [f"  {step.replace('_', ' '):20}{count}" for step, count in found.funnel.items()]
    else:
        lines.append(f"  {'sequences so far':20}{found.done}")
        for reason, count in sorted(found.rejected.items(), key=lambda item: -item[1]):
            lines.append(f"  {reason.replace('_', ' '):20}{count}")
    if found.forked:
        taken = "{finished} finished problems, {answers} answers of {open} others, from {from}"
        lines.append(f"{'taken over':22}{taken.format(**found.forked)}")
    if found.open:
        lines.append(f"{'conversations open':22}{found.open}")
    if found.requests:
        spent = f"{found.requests} requests, {found.tokens_in} tokens in, {found.tokens_out} out"
        if found.prices is not None:
            cost = Price(*found.prices).cost(Usage(found.requests, found.tokens_in, found.tokens_out))
            spent += f", {cost:.4g} in money"
        lines.append(f"{'spent':22}{spent}")
    if found.per_minute and not found.funnel:
        lines.append(f"{'speed':22}{found.per_minute:.1f} problems a minute")
        left = found.total - finished
        if left > 0:
            minutes = left / found.per_minute
            lines.append(
                f"{'time left':22}{f'{minutes / 60:.1f} hours' if minutes >= 90 else f'{minutes:.1f} minutes'}"
            )
    return lines


BUILD = Verb(
    "make reflection sequences from problems, by planted bugs (no language model) or with a model",
    BuildConfig,
    run_build,
    configured=True,
)
STATUS = Verb("show the progress of a build", StatusArguments, run_status, json=True)
