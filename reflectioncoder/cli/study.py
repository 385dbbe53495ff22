"""`reflectioncoder study`: a matrix of variants and seeds over the other commands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reflectioncoder.cli.arguments import Switches, Verb
from reflectioncoder.config.study import StudyConfig

if TYPE_CHECKING:  # its intervals need scipy, which takes a second to import
    from reflectioncoder.study.results import StudyResults


def run_study_verb(config: StudyConfig, switches: Switches) -> int:
    """Run a study and print its table, or print what it would run."""
    if switches.dry_run:
        from reflectioncoder.study.estimate import describe_study

        print(describe_study(config))
        return 0
    from reflectioncoder.study.study import run_study

    return show_study(run_study(config), config.output, switches.json)


def show_study(results: StudyResults, output: str, as_json: bool, more: Sequence[str] = ()) -> int:
    """Print the results of a study with the lines `more`, and return the exit status: 1 if a run is missing."""
    from reflectioncoder.study.study import PAGE, RESULTS, TABLE_FILE
    from reflectioncoder.study.tables import failures, results_as_json, summary_lines, verdict_lines

    if as_json:
        print(json.dumps(results_as_json(results), ensure_ascii=False))
    else:
        failed = [f"failed: {line}" for line in failures(results)]
        places = [f"{output}/{name}" for name in (RESULTS, TABLE_FILE, PAGE)]
        print("\n".join([*verdict_lines(results), *summary_lines(results), *failed, *places, *more]))
    return int(any(one.state != "done" for one in results.outcomes))


STUDY = Verb(
    "run variants and seeds, and compare their scores: reflectioncoder study CONFIG.toml",
    StudyConfig,
    run_study_verb,
    configured=True,
    json=True,
    aliases={"": "config"},
)
