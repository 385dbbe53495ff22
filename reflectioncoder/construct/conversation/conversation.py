"""The conversation that turns one problem into one reflection sequence: section 3.1 as a pure state machine.

`follow` replays the events so far (answers, executions). The `step` of the result is what comes next: ask the model,
run code, check the final code, or end. The state depends only on the events, so an interrupted conversation resumes
from its recorded events and no answer is requested twice. `converse` is the loop around it.

First stage: the model writes code with asserts, the interpreter runs it, and the model analyses and repairs it, until
a run with asserts succeeds or the rounds are used up. A round is one cell. A cell that is a whole program runs in a
fresh session; a cell that uses names of earlier cells, as in a notebook, runs after those cells. Second stage: the
model answers again from scratch with one code block, which must pass the last asserts and the problem's own tests.
Sequences that the filters would reject (a first attempt that passes, idle asserts, input or output) end early, which
saves the remaining answers.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from reflectioncoder.clients.budget import Usage
from reflectioncoder.clients.messages import Answer, Sampler, Tools, Turn
from reflectioncoder.construct.filters.sequence import FilterSettings, Rejected, idle_asserts, io_in_code
from reflectioncoder.construct.prompts import Prompts
from reflectioncoder.dialogues.dialogue import Block, Dialogue, Message, reflection_dialogue
from reflectioncoder.interpreter.interpreter import CellResult
from reflectioncoder.problems.problem import Problem
from reflectioncoder.syntax.answers.conversation import extract, final_program, shown
from reflectioncoder.syntax.answers.thoughts import without_thoughts
from reflectioncoder.syntax.cells import asserts_something, checks_for, uses_earlier

Protocol = Literal["fenced", "tools", "native"]
TRIES_WITHOUT_CODE = 2


@dataclass(frozen=True)
class Checked:
    """Result of running the final code with the asserts and tests.

    Args:
        detail: what failed; empty if everything passed.
        seconds: duration of the run.
    """

    detail: str
    seconds: float = 0.0


Event = Answer | CellResult | Checked


@dataclass(frozen=True)
class Ask:
    """Step: request an answer from the model.

    Args:
        messages: the conversation so far.
        number: number of answers so far.
        tools: whether the model may call the tool.
    """

    messages: tuple[Turn, ...]
    number: int
    tools: Tools


@dataclass(frozen=True)
class Run:
    """Step: run a cell in a fresh session.

    Args:
        code: the cell.
        before: earlier cells that it needs, which run first.
        given: given code of the problem, which runs before all cells.
    """

    code: str
    before: tuple[str, ...] = ()
    given: str = ""


@dataclass(frozen=True)
class Check:
    """Step: run the final code, then the asserts of the last round, then the problem's tests.

    Args:
        code: the final code.
        asserts: the asserts of the last round.
    """

    code: str
    asserts: str


@dataclass(frozen=True)
class Completed:
    """End: the sequence is complete but not filtered yet."""

    dialogue: Dialogue


@dataclass(frozen=True)
class Dropped:
    """End: the conversation failed.

    Args:
        rejected: the rejection, with its reason.
        dialogue: the unfinished sequence, if it has any block.
    """

    rejected: Rejected
    dialogue: Dialogue | None = None


ConversationStep = Ask | Run | Check | Completed | Dropped
DUE: Mapping[type, type] = {Ask: Answer, Run: CellResult, Check: Checked}  # from step to the event that follows it


@dataclass(frozen=True)
class ConversationRules:
    """Settings of a conversation.

    Args:
        prompts: the prompts.
        protocol: code in fenced blocks, in tool calls, or in native blocks of the format (`samplers/native.py`).
        max_rounds: maximal number of rounds, that is of cells run (appendix A: eight).
        seed: random seed; with the problem's id it selects the wording of the first message.
        filters: settings of the filters that are applied during the conversation.
        provenance: recorded in every sequence, in addition to the conversation's own provenance.
        thought_marks: further marks of thoughts; see `without_thoughts`.
    """

    prompts: Prompts = field(default_factory=Prompts)
    protocol: Protocol = "fenced"
    max_rounds: int = 8
    seed: int = 0
    filters: FilterSettings = field(default_factory=FilterSettings)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    thought_marks: tuple[str, ...] = ()


def follow(
    problem: Problem, rules: ConversationRules, events: Sequence[Event], kind: type[Conversation] | None = None
) -> Conversation:
    """Replay the events of a conversation. The `step` of the result is what comes next.

    Args:
        problem: the problem to solve.
        rules: settings of the conversation, the same for all its events.
        events: all answers, executions and checks, in order.
        kind: class of the conversation; None is `Conversation`, for chat models.

    Raises:
        ValueError: an event does not match the step before it, so it does not belong to this conversation.
    """
    conversation = (kind or Conversation)(problem, rules)
    for event in events:
        if not isinstance(event, DUE.get(type(conversation.step), ())):
            raise ValueError(f"{type(event).__name__} where {type(conversation.step).__name__} was due")
        conversation.take(event)
    return conversation


class Conversation:
    """The state of a conversation. `step` is the next step.

    Args:
        problem: the problem to solve.
        rules: settings of the conversation.
    """

    def __init__(self, problem: Problem, rules: ConversationRules) -> None:
        self.problem, self.rules = problem, rules
        prompts = rules.prompts
        wording = random.Random(f"{rules.seed}:{problem.id}").choice(prompts.reflection)
        self.instruction = wording.replace("{problem}", problem.instruction)
        system = prompts.system_tools if rules.protocol == "tools" else prompts.system_fenced
        self.messages = [Turn("system", system), Turn("user", self.instruction)]
        self.blocks: list[Block] = []
        self.cells: list[str] = []  # cells since the last loss of the session
        self.before: tuple[str, ...] = ()  # earlier cells that the last cell needed
        self.analysis: list[str] = []  # text of answers without code, to be put before the next code block
        self.answers = self.rounds = self.failures = self.without_code = 0
        self.final: str | None = None
        self.last_stage = False
        self.usage, self.seconds, self.served = Usage(), 0.0, ""
        self.step: ConversationStep = self._ask()

    def take(self, event: Event) -> None:
        """Advance the state by one event."""
        self.seconds += event.seconds
        if isinstance(event, Answer):
            self.answers += 1
            self.usage += event.usage
            self.served = event.model
            said = without_thoughts(event.text, self.rules.thought_marks)
            if event.finish == "length":
                self.step = self._drop("answer_too_long", f"answer {self.answers} was cut off by the token limit")
            elif said.cut and not said.text.strip() and event.tool_code is None:
                self.step = self._drop("answer_too_long", f"answer {self.answers} ends inside a thought")
            else:
                self.step = self._final(event) if self.last_stage else self._code(event)
        elif isinstance(event, CellResult):
            self.step = self._executed(event)
        elif event.detail:
            self.step = self._drop("final_code_fails", event.detail)
        else:
            self.step = Completed(self._dialogue())

    def _ask(self) -> Ask:
        tools: Tools = "off"
        if self.rules.protocol == "tools":
            tools = "closed" if self.last_stage else "offered"
        return Ask(tuple(self.messages), self.answers, tools)

    def _code(self, answer: Answer) -> ConversationStep:
        text = without_thoughts(answer.text, self.rules.thought_marks).text
        if answer.tool_code is not None:
            analysis, code = text.strip(), answer.tool_code.strip("\n")
            self.messages.append(Turn("assistant", analysis, answer.tool_id, answer.tool_code, answer.message))
        else:
            found = extract(text)
            analysis, code = found.analysis, found.code
            self.messages.append(Turn("assistant", found.kept, message=answer.message))
        if analysis:
            self.analysis.append(analysis)
        if not code.strip():
            self.without_code += 1
            if self.without_code >= TRIES_WITHOUT_CODE:
                return self._drop("no_code", f"{self.without_code} answers in a row without code to run")
            self._tell(self.rules.prompts.no_code)
            return self._ask()
        self.without_code = 0
        if self.analysis:
            self.blocks.append(Block("text", "\n\n".join(self.analysis)))
            self.analysis = []
        self.blocks.append(Block("code", code))
        if found_io := io_in_code(code, self.rules.filters):
            return self._drop("input_output", found_io)
        self.before = tuple(self.cells) if uses_earlier(code, self.cells) else ()
        return Run(code, self.before, self.problem.given)

    def _executed(self, result: CellResult) -> ConversationStep:
        code, prompts = self.blocks[-1].content, self.rules.prompts
        output = execution_text(result)
        self.blocks.append(Block("execution", output))
        self.rounds += 1
        if result.outcome in ("ok", "error"):
            self.cells.append(code)
        else:
            self.cells.clear()  # the session is lost
        self.failures += not result.ok
        if result.ok and asserts_something(code):
            if not self.failures:
                return self._drop("single_round", "the first code with asserts passed")
            if idle := idle_asserts(self._dialogue(), self.problem, self.rules.filters):
                return self._drop("idle_asserts", idle)
            self.last_stage = True
            self._tell(prompts.passed, output, prompts.reanswer.replace("{problem}", self.problem.instruction))
            return self._ask()
        if self.rounds >= self.rules.max_rounds:
            why = "asserts nothing" if result.ok else "still fails"
            return self._drop("unresolved", f"the last of {self.rounds} rounds {why}")
        self._tell(prompts.untested if result.ok else prompts.failed, output)
        return self._ask()

    def _tell(self, text: str, output: str = "", then: str = "") -> None:
        """Reply to the last answer: as the result of its tool call, or as a user message."""
        text = text.replace("{output}", shown(output))
        if self.messages[-1].tool_id:
            self.messages.append(Turn("tool", text, self.messages[-1].tool_id))
            if then:
                self.messages.append(Turn("user", then))
        else:  # a single message, because some chat templates reject two user messages in a row
            self.messages.append(Turn("user", f"{text}\n\n{then}" if then else text))

    def _final(self, answer: Answer) -> ConversationStep:
        text = without_thoughts(answer.text, self.rules.thought_marks).text
        code, reason, detail = final_program(text, self.problem.entry_point)
        if reason == "no_final_code" and answer.tool_code is not None and answer.tool_code.strip():
            code, reason = answer.tool_code.strip("\n"), ""  # some models call the tool although it is closed
        if reason:
            return self._drop(reason, detail)
        self.final = code
        last = next(block.content for block in reversed(self.blocks) if block.type == "code")
        try:
            asserts = checks_for(code, last, self.before)
        except SyntaxError as error:
            return self._drop("no_final_code", f"the final code is not Python: {error.msg} (line {error.lineno})")
        if asserts is None:
            return self._drop("final_code_fails", "the asserts of the last round use nothing that it defines")
        return Check(code, asserts)

    def _drop(self, reason: str, detail: str) -> Dropped:
        return Dropped(Rejected(self.problem.id, reason, detail), self._dialogue() if self.blocks else None)

    def _dialogue(self) -> Dialogue:
        provenance = {
            **self.rules.provenance,
            "seed": self.rules.seed,
            "protocol": self.rules.protocol,
            "served_model": self.served,
            "prompt_version": self.rules.prompts.version,
            "rounds": self.rounds,
            "seconds": round(self.seconds, 3),
            **dataclasses.asdict(self.usage),
        }
        extra = {"id": self.problem.id, "source": self.problem.source, "provenance": provenance}
        if self.final is None:
            first = Message("user", (Block("text", self.instruction),))
            return Dialogue((first, Message("assistant", tuple(self.blocks))), "unfinished", extra)
        return reflection_dialogue(self.instruction, self.blocks, self.problem.instruction, self.final, **extra)


def execution_text(result: CellResult) -> str:
    """Return the execution block of a result: its output, and the exceeded limit if there is one."""
    if result.outcome in ("ok", "error"):
        return result.text
    ending = f"The interpreter was stopped ({result.message or result.outcome}) and has lost its state."
    return f"{result.text.rstrip(chr(10))}\n{ending}" if result.text.strip() else ending


def to_record(event: Event) -> tuple[str, dict[str, Any]]:
    """Convert an event to its kind and a JSON value, for the ledger."""
    kinds: dict[type, str] = {Answer: "answer", CellResult: "execution", Checked: "check"}
    value = vars(event).copy()  # ten times as fast as dataclasses.asdict
    if isinstance(event, Answer):
        value["usage"] = vars(event.usage).copy()
        if value["message"] is None:  # as earlier versions wrote it
            del value["message"]
    return kinds[type(event)], value


def from_record(kind: str, value: Mapping[str, Any]) -> Event:
    """Convert the kind and value from `to_record` back to an event."""
    if kind == "answer":
        return Answer(**{**value, "usage": Usage(**value["usage"])})
    return CellResult(**value) if kind == "execution" else Checked(**value)


async def converse(
    problem: Problem,
    rules: ConversationRules,
    events: Sequence[Event],
    sampler: Sampler,
    run: Callable[[Run], Awaitable[CellResult]],
    check: Callable[[Check], Awaitable[Checked]],
    record: Callable[[Event], Awaitable[None]],
    kind: type[Conversation] | None = None,
) -> Completed | Dropped:
    """Run a conversation to its end.

    Args:
        problem: the problem to solve.
        rules: settings of the conversation.
        events: events recorded in earlier runs.
        sampler: gives the answers that are not recorded.
        run: runs a cell.
        check: runs the final code with its asserts and tests.
        record: stores a new event; it is awaited before the event is used.
        kind: see `follow`.

    Raises:
        SamplerError, BudgetError: see `Sampler`; the conversation can be resumed later.
    """
    conversation = follow(problem, rules, events, kind)
    while not isinstance(step := conversation.step, (Completed, Dropped)):
        event: Event
        if isinstance(step, Ask):
            event = await sampler.answer(step.messages, problem.id, step.number, step.tools)
        elif isinstance(step, Run):
            event = await run(step)
        else:
            event = await check(step)
        await record(event)
        conversation.take(event)
    return step
