"""Says what to do about a build that made no sequence."""

from __future__ import annotations

from collections.abc import Mapping

NOT_REASONS = ("skipped_rows", "problems", "unfinished", "sequences")
FILE = "rejects.jsonl"  # in the output directory: each rejected problem with its reason
REMEDIES: Mapping[str, str] = {
    "no_solution": "name the column of the reference code with --fields solution=COLUMN, or use --sampler chat, which"
    " needs no solutions",
    "no_tests": "name the column of the tests with --fields tests=COLUMN",
    "tests_not_read": f"convert the tests to asserts; {FILE} says what they hold",
    "test_is_not_a_single_assert": f"convert the tests to asserts; {FILE} says what they hold",
    "solution_does_not_parse": f"the solutions must be Python 3; {FILE} has the errors",
    "solution_fails_its_tests": f"check that the columns of --fields belong together; {FILE} says how the tests fail",
    "given_code_fails": f"the set-up code needs what the interpreter does not have; {FILE} has its errors",
    "no_failing_mutant": "the tests find no planted bug: give more or stricter tests",
    "no_usable_failure": "the failures are too long or change from run to run: give shorter tests",
    "contaminated": "every problem is in an evaluation set of --decontaminate (contamination.jsonl): take other ones",
    "single_round": "the model's first code passed each time: take harder problems or a weaker model",
    "passed_at_once": "the model solved the problems: passed.jsonl has its answers; take harder problems for sequences",
    "repair_too_large": "the attempts have little in common with the solutions: take easier problems, a stronger model,"
    " or raise --attempts.largest_repair",
    "no_code": "the model's answers hold no program: look at the prompt style (--attempts.prompt_style)",
    "attempt_does_not_parse": "the model's answers are not Python: take a stronger model",
    "internal_error": f"this is an error of the program, not of your data; please report it with {FILE}",
}


def advise(funnel: Mapping[str, int], columns: str = "") -> str:
    """Return one line that says why a build made no sequence and what to do; "" if it made one.

    Args:
        funnel: the funnel of the build.
        columns: columns of the source, to be named where one is missing; "" if unknown.
    """
    if funnel.get("sequences"):
        return ""
    if funnel.get("unfinished"):
        return f"no sequence was made: {funnel['unfinished']} problems are unfinished; rerun to continue"
    reasons = sorted(
        ((count, name) for name, count in funnel.items() if name not in NOT_REASONS), key=lambda item: -item[0]
    )
    if not reasons:
        return "no sequence was made: there are no problems"
    counts = ", ".join(f"{name.replace('_', ' ')} {count}" for count, name in reasons[:3])
    first = reasons[0][1]
    remedy = REMEDIES.get(first, f"{FILE} says why for each problem")
    known = f" (the columns are {columns})" if columns and first in ("no_solution", "no_tests") else ""
    return f"no sequence was made from {funnel['problems']} problems ({counts}): {remedy}{known}"
