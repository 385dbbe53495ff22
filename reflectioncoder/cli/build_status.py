"""What a build has come to, for whoever looks on while it runs: `reflectioncoder build status DIR`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from reflectioncoder.clients.budget import Price, Usage
from reflectioncoder.construct.ledger.ledger import Progress, progress
from reflectioncoder.errors import UserError


def status_verb(words: Sequence[str]) -> int:
    """`build status DIR [--json]`."""
    places = [word for word in words if word != "--json"]
    if len(places) != 1 or places[0].startswith("-"):
        raise UserError("usage: reflectioncoder build status DIRECTORY [--json]")
    found = progress(places[0])
    print(json.dumps(dataclasses.asdict(found)) if "--json" in words else "\n".join(describe(found)))
    return 0


def describe(found: Progress) -> list[str]:
    """Lines for a person: funnel so far, speed, cost, time left."""
    finished = found.done + sum(found.rejected.values())
    # once the last filters have run, the funnel is the whole truth
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
