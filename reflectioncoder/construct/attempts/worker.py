"""Turns attempts into ledger entries in a worker process of a build."""

from __future__ import annotations

from reflectioncoder.config.build import BuildConfig
from reflectioncoder.construct.attempts.sequence import (
    AttemptSettings,
    Failing,
    first_block,
    look_at_attempt,
    reflect_on_attempt,
)
from reflectioncoder.construct.export import PASSED
from reflectioncoder.construct.filters import sequence as filters
from reflectioncoder.construct.filters.sequence import Rejected
from reflectioncoder.construct.ledger.ledger import Entry
from reflectioncoder.construct.mutation.worker import ProblemWorker
from reflectioncoder.dialogues.dialogue import Dialogue
from reflectioncoder.generate.completions import Completion
from reflectioncoder.problems.problem import Problem

# reason of a failing attempt that a model repairs, with the first round as its detail; never recorded
TO_REPAIR = "to_repair"
# filters of an answer that no sequence precedes
OF_ANSWERS = ("input_output", "no_final_code", "too_long")


class AttemptWorker(ProblemWorker):
    """Turns problems with attempts into entries.

    Args:
        config: the build's configuration.

    Raises:
        UserError: the interpreter cannot be started.
    """

    def __init__(self, config: BuildConfig) -> None:
        super().__init__(config)
        chosen = config.attempts
        model = config.chat.model if chosen.backend == "server" else chosen.model
        provenance = {"method": "attempts", "model": model}
        self._rules = AttemptSettings(
            config.seed, config.max_rounds, chosen.largest_repair, chosen.answer, self.settings, provenance
        )

    def __call__(self, task: tuple[Problem, Completion | None]) -> Entry:
        """Build the sequence or the plain sample of an attempt; see `entry`."""
        problem, completion = task
        return self.entry(problem, lambda: self._made(problem, completion))

    def _made(self, problem: Problem, completion: Completion | None) -> Dialogue | Rejected:
        if completion is not None and completion.error:
            reason, _, detail = completion.error.partition(": ")
            return Rejected(problem.id, f"answer_{reason}", detail)
        if completion is not None and completion.truncated:
            return Rejected(problem.id, "answer_too_long", "the attempt was cut off by the token limit")
        attempt = "" if completion is None else completion.completion
        if self.config.attempts.repair == "reference":
            return reflect_on_attempt(problem, attempt, self.interpreter, self._rules)
        looked = look_at_attempt(problem, attempt, self.interpreter, self._rules)
        if not isinstance(looked, Failing):
            return looked
        return Rejected(problem.id, TO_REPAIR, first_block(problem, looked.code, self.interpreter, self._rules))

    def verdict(self, dialogue: Dialogue, problem: Problem) -> Rejected | None:
        """Return why a sequence is not kept, or None; of an attempt that passes, that it is no sequence."""
        if dialogue.is_reflection:
            return super().verdict(dialogue, problem)
        chosen = {name: filters.FILTERS[name] for name in OF_ANSWERS}
        rejected = filters.apply_filters(dialogue, problem, self.settings, chosen)
        if rejected is not None:
            return rejected
        for number in range(1, self.config.repeats + 1):
            detail = filters.final_code_fails(dialogue, problem, self.interpreter)
            if detail is not None:
                return Rejected(problem.id, "non_deterministic", f"run again ({number}), the answer fails: {detail}")
        return Rejected(problem.id, PASSED)
