"""Rounds of a model's own debugging: what it reaches when it runs its answer, reads the output and repairs the program.

The model sees only asserts that stand in the prompt itself (examples of a docstring, the assert of an MBPP prompt), and
asserts that it writes itself where a prompt has none; never a benchmark's hidden tests. A model that knows the format
continues a reflection sequence in blocks, as it was trained to; a chat model gets the interpreter's output as a user
message. Each round is a task of its own whose prompts hold the conversation so far, so every back end of `generate`
decodes it, and a run that is killed resumes.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from reflectioncoder.config.evaluate import GenerateConfig
from reflectioncoder.construct.conversation.conversation import execution_text
from reflectioncoder.construct.filters.determinism import ADDRESS
from reflectioncoder.construct.prompts import Prompts, reflection_instruction
from reflectioncoder.dialogues.dialogue import fenced
from reflectioncoder.errors import InfrastructureError, UserError
from reflectioncoder.generate.completions import Completion, code_of
from reflectioncoder.generate.generate import complete_task
from reflectioncoder.interpreter.interpreter import Interpreter, Limits
from reflectioncoder.interpreter.pool import Pool
from reflectioncoder.interpreter.portable import run_portably
from reflectioncoder.syntax.answers.conversation import extract, shown
from reflectioncoder.syntax.answers.thoughts import without_thoughts
from reflectioncoder.syntax.asserts import split_tests
from reflectioncoder.syntax.cells import asserts_something
from reflectioncoder.syntax.trees import parse_cached
from reflectioncoder.tasks.base import Prompt, Task, Try, Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reflectioncoder.models.decode import Report

HEADING = "# Test cases"
ASK_TESTS = (
    "Write assert statements that test this function, unusual inputs included. Give nothing but the asserts, in a"
    " single block between ```python and ```."
)
RAN = "The program was run with these tests:\n\n{tests}\n\n"
MOST_ASSERTS = 8
SHOWN_OUTPUT = 4000  # characters of an output that a model is shown; the end, which has the error, is kept
Style = Literal["native", "chat"]


class RoundTask(Task):
    """The prompts of one round.

    Args:
        name: name of the task that they belong to.
        prompts: the prompts, whose ids are those of `_Debugged`.
        max_new_tokens: longest answer in tokens.
    """

    def __init__(self, name: str, prompts: Sequence[Prompt], max_new_tokens: int) -> None:
        self.name, self.max_new_tokens, self._prompts = name, max_new_tokens, list(prompts)

    def prompts(self) -> list[Prompt]:
        """Return the prompts in order."""
        return self._prompts

    def check(
        self, task_id: str, completion: str, interpreter: Interpreter, limits: Limits, whole: bool = False
    ) -> Verdict:
        """Not used: the last programs are checked by the task itself."""
        raise TypeError("a round has no verdicts; the task that it belongs to checks the last programs")


@dataclass
class _Debugged:
    """A completion on its way through the rounds.

    Args:
        first: the model's first answer.
        prompt: its prompt.
        program: the last program, without asserts.
        tests: the asserts that it is run with.
        tries: programs that were run, with their output.
        said: the model's last answer; `analysis` is the text before its program.
        open: whether another round may follow.
    """

    first: Completion
    prompt: Prompt
    program: str
    tests: tuple[str, ...]
    said: str
    analysis: str = ""
    tries: tuple[Try, ...] = ()
    open: bool = True
    given: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self.given = imports_of(self.prompt.continuation)
        self.open = bool(self.program.strip())

    @property
    def id(self) -> str:
        """The id of its prompts in the rounds."""
        return f"{self.first.task_id}@{self.first.sample}"

    @property
    def cell(self) -> str:
        """The program with its asserts."""
        return "\n".join([self.program.strip("\n"), "", HEADING, *self.tests])


def visible_tests(prompt: Prompt) -> tuple[str, ...]:
    """Return the asserts that stand in a prompt: those of its code, and examples of docstrings as asserts."""
    found: list[str] = []
    for line in prompt.instruction.split("\n"):
        if line.strip().startswith("assert "):
            with suppress(SyntaxError, UserError):
                found += split_tests(line.strip())
    with suppress(UserError):
        if ">>>" in prompt.instruction:  # the end of the docstring is no output of the last example
            found += split_tests(re.sub(r"^.*(\"{3}|'{3})[ \t]*$", "", prompt.instruction, flags=re.MULTILINE))
    return tuple(dict.fromkeys(found))


def imports_of(text: str) -> str:
    """Return the imports at the beginning of a prompt that is code, as HumanEval's are; "" for another prompt."""
    lines = [line for line in text.split("\n") if line.startswith(("import ", "from "))]
    try:
        return "\n".join(ast.unparse(item) for line in lines for item in ast.parse(line).body)
    except SyntaxError:
        return ""


def split_asserts(program: str) -> tuple[str, tuple[str, ...]]:
    """Split a program into the part without asserts at its top level, and these asserts.

    A program that is not Python has none.
    """
    try:
        body = parse_cached(program).body
    except SyntaxError:
        return program, ()
    lines = program.split("\n")
    tests = [item for item in body if isinstance(item, ast.Assert)]
    asserts = tuple(ast.get_source_segment(program, item) or "" for item in tests)
    for item in reversed(tests):
        del lines[item.lineno - 1 : item.end_lineno]
    return "\n".join(line for line in lines if line.strip() != HEADING).rstrip() + "\n", asserts


def check_rounds(config: GenerateConfig, task: Task, rounds: int) -> None:
    """Raise UserError for settings with which a model cannot debug. `rounds` is not 0."""
    if rounds < 0:
        raise UserError(f"rounds = {rounds}: give a number of at least 0")
    if config.prompt_style == "plain" or config.semantics == "release":
        raise UserError("rounds: need prompt_style native or chat, and the prompts of the paper")
    if task.reads_answers or not all(prompt.opening.startswith("```python") for prompt in task.prompts()):
        raise UserError(f"rounds: task {task.name} is not made of Python functions")


class Debugging:
    """Lets a model debug its completions; see the module.

    Args:
        config: the model, and how it decodes.
        task: the task of the completions.
        folder: where the answers of each round are kept.
        pool: interpreters, used by one thread at a time.
        limits: limits of one program.
        report: see `generate`.
        model: see `generate`.
        tokenizer: see `generate`.
    """

    def __init__(
        self,
        config: GenerateConfig,
        task: Task,
        folder: Path,
        pool: Sequence[Interpreter],
        limits: Limits,
        report: Report | None = None,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        self._config, self._task, self._folder = config, task, folder
        self._pool, self._limits = pool, limits
        self._report, self._model, self._tokenizer = report, model, tokenizer
        self._texts, self._style = Prompts(), self._resolved()
        self._positions = self._room()

    def _room(self) -> int | None:
        """Return the positions of the model on this machine; None if they are not known here."""
        if self._tokenizer is None:
            return None
        if self._config.backend == "vllm" and self._config.vllm.max_length:
            return self._config.vllm.max_length
        if self._model is not None:
            return getattr(self._model.config, "max_position_embeddings", None)
        from reflectioncoder.models.load import positions_of

        return positions_of(self._config.model)

    def _resolved(self) -> Style:
        if self._config.backend not in ("transformers", "vllm"):  # a server, or a back end of the caller
            return "native" if self._config.prompt_style == "native" else "chat"
        from reflectioncoder.generate.local import resolve_style
        from reflectioncoder.models.load import load_tokenizer

        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self._config.model, self._config.trust_remote_code)
        style = resolve_style(self._config.prompt_style, self._tokenizer)
        if style not in ("native", "chat"):
            raise UserError(f"model {self._config.model}: has no chat template and does not know the format; no rounds")
        return "native" if style == "native" else "chat"

    def debug(self, completions: Sequence[Completion], rounds: int) -> list[Completion]:
        """Return the completions that the model reaches.

        Args:
            completions: its first answers.
            rounds: most rounds of analysis and repair for each of them.

        Raises:
            UserError: the model cannot be decoded, or the interpreter itself failed.
        """
        prompts = {prompt.task_id: prompt for prompt in self._task.prompts()}
        items = []
        for one in completions:
            prompt = prompts[one.task_id]
            # on this machine a chat answer is decoded behind its opening fence
            said = one.raw if self._config.backend == "server" else fenced(one.completion)
            items.append(_Debugged(one, prompt, one.completion, visible_tests(prompt), said))
        self._ask_for_tests([item for item in items if item.open and not item.tests])
        for number in range(1, rounds + 1):
            left = [item for item in items if item.open]
            self._run(left)
            left = [item for item in left if item.open]
            answers = self._answers(f"round{number}", left)
            for item in left:
                self._take(item, answers.get(item.id, ""))
        return [self._reached(item) for item in items]

    def _ask_for_tests(self, items: Sequence[_Debugged]) -> None:
        """Let the model write asserts for programs whose prompts show none."""
        for item in items:
            if self._style == "native":  # the code block is left open, so that its asserts follow
                begun = f"{item.program.strip(chr(10))}\n\n{HEADING}\nassert"
                item.tries = (Try("", "", begun, None, ""),)
            else:
                item.tries = (Try(fenced(item.program), "", item.program, None, ASK_TESTS),)
        answers = self._answers("tests", items)
        for item in items:
            found = split_asserts(self._program(answers.get(item.id, ""))[1])[1]
            item.tries, item.tests = (), found[:MOST_ASSERTS]
            item.open = bool(found)

    def _program(self, answer: str) -> tuple[str, str]:
        """Return the analysis and the program in an answer."""
        found = extract(without_thoughts(answer, self._config.chat.thought_marks).text)
        return found.analysis, found.code

    def _run(self, items: Sequence[_Debugged]) -> None:
        """Run the programs with their asserts; those that pass need no further round."""

        def run(item: _Debugged) -> str | None:
            def work(interpreter: Interpreter) -> str | None:
                result = run_portably(interpreter, [item.cell], self._limits, item.given)[0]
                if result.outcome == "infrastructure":
                    raise InfrastructureError(result.message)
                return None if result.ok else execution_text(result)

            return shared.use(work)

        with Pool(self._pool) as shared:
            try:
                outputs = list(shared.each(run, items))
            except InfrastructureError as error:
                raise UserError(f"rounds: the interpreter failed ({error}); run again to continue") from None
        for item, output in zip(items, outputs, strict=True):
            if output is None:
                item.open = False
                continue
            output = ADDRESS.sub("0x7f0000000000", output)  # the same in a run that resumes
            cut = output if len(output) <= SHOWN_OUTPUT else f"...\n{output[-SHOWN_OUTPUT:]}"
            asked = self._texts.failed.replace("{output}", shown(cut))
            if not item.tries or not asserts_something(self._program(item.said)[1]):
                asked = RAN.replace("{tests}", fenced("\n".join(item.tests))) + asked
            item.tries = (*item.tries, Try(item.said, item.analysis, item.cell, cut, asked))

    def _take(self, item: _Debugged, answer: str) -> None:
        analysis, code = self._program(answer)
        if not code.strip():
            item.open = False
            return
        program, tests = split_asserts(code)
        if not program.strip():
            item.open = False
            return
        item.said, item.analysis, item.program = answer, analysis, program
        if tests and not visible_tests(item.prompt):
            item.tests = tests[:MOST_ASSERTS]

    def _answers(self, stage: str, items: Sequence[_Debugged]) -> dict[str, str]:
        """Decode one answer for each; by id."""
        if not items:
            return {}
        native = self._style == "native"
        prompts = [
            dataclasses.replace(
                item.prompt,
                task_id=item.id,
                instruction=reflection_instruction(item.prompt.instruction) if native else item.prompt.instruction,
                tries=item.tries,
            )
            for item in items
        ]
        # an answer holds an analysis and asserts besides the program
        longest = self._config.max_new_tokens or 2 * self._task.max_new_tokens
        prompts = [prompt for prompt in prompts if self._fits(prompt, longest)]
        if not prompts:
            return {}
        task = RoundTask(self._task.name, prompts, longest)
        config = dataclasses.replace(
            self._config, output=str(self._folder / f"{stage}.jsonl"), samples=1, prompt_style=self._style
        )
        made = complete_task(config, task, self._report, self._model, self._tokenizer)
        return {one.task_id: one.raw for one in made.completions}

    def _fits(self, prompt: Prompt, longest: int) -> bool:
        """Whether the conversation and an answer fit the model's positions; one that does not ends where it is."""
        if self._tokenizer is None or self._positions is None:  # a server refuses what is too long, one by one
            return True
        from reflectioncoder.generate.local import encode_prompt

        return len(encode_prompt(prompt, self._style, self._tokenizer)) + longest <= self._positions

    def _reached(self, item: _Debugged) -> Completion:
        """Return the last program as a completion; the first one if it was never changed."""
        if item.program == item.first.completion:
            return item.first
        code = code_of(fenced(item.program), item.prompt, "chat", self._config.chat.thought_marks)
        return dataclasses.replace(item.first, completion=code or item.program, raw=item.said, finish="")
