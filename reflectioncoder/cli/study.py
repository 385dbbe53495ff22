"""`reflectioncoder study`: a matrix of variants and seeds over the other commands."""

from __future__ import annotations

import json

from reflectioncoder.cli.arguments import Switches, Verb
from reflectioncoder.config.study import StudyConfig


def run_study_verb(config: StudyConfig, switches: Switches) -> int:
    """Run a study and print its table, or print what it would run."""
    if switches.dry_run:
        from reflectioncoder.study.estimate import describe_study

        print(describe_study(config))
        return 0
    from reflectioncoder.study.study import RESULTS, TABLE_FILE, run_study
    from reflectioncoder.study.tables import failures, results_as_json, summary_lines

    results = run_study(config)
    if switches.json:
        print(json.dumps(results_as_json(results), ensure_ascii=False))
    else:
        failed = [f"failed: {line}" for line in failures(results)]
        places = [f"{config.output}/{name}" for name in (RESULTS, TABLE_FILE, "report.html")]
        print("\n".join([*summary_lines(results), *failed, *places]))
    return int(any(one.state != "done" for one in results.outcomes))


STUDY = Verb(
    "run variants and seeds, and compare their scores: reflectioncoder study CONFIG.toml",
    StudyConfig,
    run_study_verb,
    configured=True,
    json=True,
    aliases={"": "config"},
)
