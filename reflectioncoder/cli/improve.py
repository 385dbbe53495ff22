"""`reflectioncoder improve`: rounds in which a model learns from its own mistakes."""

from __future__ import annotations

import json

from reflectioncoder.cli.arguments import Switches, Verb
from reflectioncoder.config.improve import ImproveConfig


def run_improve_verb(config: ImproveConfig, switches: Switches) -> int:
    """Run a loop and print its table, or print what it would run."""
    if switches.dry_run:
        from reflectioncoder.improve.estimate import describe_improve

        print(describe_improve(config))
        return 0
    from reflectioncoder.improve.improve import IMPROVE_PAGE, RESULTS, TABLE_FILE, run_improve
    from reflectioncoder.improve.tables import improve_lines, rounds_as_json

    results = run_improve(config)
    if switches.json:
        print(json.dumps(rounds_as_json(results), ensure_ascii=False))
    else:
        places = [f"{config.output}/{name}" for name in (RESULTS, TABLE_FILE, IMPROVE_PAGE)]
        print("\n".join([*improve_lines(results), *places]))
    return int(results.failed)


IMPROVE = Verb(
    "train a model on its own repaired mistakes, in rounds: reflectioncoder improve CONFIG.toml",
    ImproveConfig,
    run_improve_verb,
    configured=True,
    json=True,
    aliases={"": "config"},
)
