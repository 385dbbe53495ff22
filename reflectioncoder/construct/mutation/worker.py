"""Turns problems into ledger entries in a worker process of a build by mutation, or from attempts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reflectioncoder.config.build import BuildConfig
from reflectioncoder.construct.filters import sequence as filters
from reflectioncoder.construct.filters.determinism import unstable
from reflectioncoder.construct.filters.sequence import Rejected
from reflectioncoder.construct.ledger.ledger import Entry, entry_of
from reflectioncoder.construct.mutation.sequence import reflect_by_mutation
from reflectioncoder.dialogues.dialogue import Dialogue
from reflectioncoder.errors import InfrastructureError, UserError
from reflectioncoder.interpreter.interpreter import CellResult, Interpreter, Limits
from reflectioncoder.problems.problem import Problem

INFRASTRUCTURE = "infrastructure"  # rejected by a failure of the interpreter itself; never recorded


class _StrictInterpreter(Interpreter):
    """An interpreter that raises on failures of its own, so that they are not mistaken for the program's."""

    def run(self, code: Any, limits: Limits | None = None, given: str = "") -> Any:
        results = super().run(code, limits, given)
        for result in [results] if isinstance(results, CellResult) else results:
            if result.outcome == "infrastructure":
                raise InfrastructureError(result.message)
        return results


class ProblemWorker:
    """Makes ledger entries; owns the interpreter of its worker process.

    Args:
        config: the build's configuration.

    Raises:
        UserError: the interpreter cannot be started.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config, self.settings = config, filters.settings_of(config.io_names, config.max_rounds, config.io_match)
        limits = Limits(config.seconds, config.memory_mb)
        self.interpreter = _StrictInterpreter(limits, config.isolation, libraries=config.libraries)

    def entry(self, problem: Problem, make: Callable[[], Dialogue | Rejected]) -> Entry:
        """Call `make`, and apply the filters that need only its sequence.

        Raises:
            UserError: the interpreter cannot start sessions.
        """
        dialogue = None
        try:
            made = make()
            if isinstance(made, Dialogue):
                dialogue = made
                rejected = self.verdict(made, problem)
            else:
                rejected = made
        except UserError:
            raise
        except InfrastructureError as error:
            return Entry(problem.id, "rejected", INFRASTRUCTURE, str(error))
        except Exception as error:
            # one unusual program must not stop a build of thousands; the funnel counts it
            rejected = Rejected(problem.id, "internal_error", f"{type(error).__name__}: {error}")
        return entry_of(problem, dialogue, rejected)

    def verdict(self, dialogue: Dialogue, problem: Problem) -> Rejected | None:
        """Return why a sequence is not kept, or None."""
        if (rejected := filters.apply_filters(dialogue, problem, self.settings)) is not None:
            return rejected
        detail = filters.final_code_fails(dialogue, problem, self.interpreter)
        if detail is not None:
            return Rejected(problem.id, "final_code_fails", detail)
        return unstable(dialogue, problem, self.interpreter, self.config.repeats)

    def close(self) -> None:
        """Close the interpreter."""
        self.interpreter.close()


class Reflector(ProblemWorker):
    """Turns problems into entries by planting bugs in their solutions."""

    def __call__(self, problem: Problem) -> Entry:
        """Build the sequence of a problem; see `entry`."""
        return self.entry(problem, lambda: reflect_by_mutation(problem, self.interpreter, self.config.seed))
