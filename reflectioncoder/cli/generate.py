"""`reflectioncoder generate`: writes completions of a task's problems."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from reflectioncoder.cli.arguments import Switches, Verb
from reflectioncoder.cli.process import keep_freed_memory
from reflectioncoder.config.evaluate import GenerateConfig
from reflectioncoder.progress import Meter

if TYPE_CHECKING:
    from reflectioncoder.models.decode import Report


def run_generate(config: GenerateConfig, switches: Switches) -> int:
    """Generate the missing completions, and print their number and the speed."""
    if config.backend == "transformers" and not switches.dry_run:
        keep_freed_memory()
    from reflectioncoder.generate.generate import describe_generation, generate

    if switches.dry_run:
        print(describe_generation(config))
        return 0
    with decoding() as report:
        made = generate(config, report)
    speed = f", {made.tokens_per_second:.1f} tokens a second" if made.new else ""
    print(f"{len(made.completions)} completions, {made.new} of them new{speed}: {made.path}", file=sys.stderr)
    say_truncated(sum(completion.truncated for completion in made.completions), len(made.completions))
    without = [completion for completion in made.completions if completion.error]
    if without:
        first = f"the first is '{without[0].task_id}' ({without[0].error})"
        print(f"{len(without)} completions are empty, as the server gave no answer; {first}", file=sys.stderr)
    return 0


@contextmanager
def decoding() -> Iterator[Report]:
    """Context with a report function for `generate`, which shows the progress of decoding."""
    with Meter("decoding") as meter:

        def report(done: int, of: int, speed: float) -> None:
            meter.update(done, of, f"{speed:.1f} tokens a second")

        yield report


def say_truncated(count: int, of: int = 0) -> None:
    """Print on standard error how many answers were truncated by the token limit.

    Args:
        count: number of truncated answers.
        of: number of all answers; 0 leaves it out of the message.
    """
    if count:
        what = f"{count} of {of} answers" if of else f"{count} answers"
        print(f"{what} ran out of tokens before their code ended; raise max_new_tokens", file=sys.stderr)


GENERATE = Verb("write completions of a task's problems", GenerateConfig, run_generate, configured=True)
