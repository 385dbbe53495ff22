"""The conversation with a model that writes the blocks of the format itself (appendix A)."""

from __future__ import annotations

import dataclasses

from reflectioncoder.clients.messages import Answer, Tools, Turn
from reflectioncoder.construct.conversation.conversation import Ask, Conversation, ConversationStep
from reflectioncoder.construct.samplers.native import CHARS_SHOWN, NATIVE_TURN
from reflectioncoder.dialogues.dialogue import Block
from reflectioncoder.dialogues.written_blocks import MALFORMED


class NativeConversation(Conversation):
    """The conversation of `conversation.py` with a model that writes blocks; executions are part of its message.

    After the first program whose asserts pass, the model may end its message with a remark (as in appendix C). If it
    starts another program instead, the message is ended without that program and the text before it, because appendix A
    stops at the first run without an error.
    """

    closing = False

    def _ask(self) -> Ask:
        tools: Tools = "closed" if self.last_stage else "offered"
        return Ask(tuple(turn for turn in self.messages if turn.role != "system"), self.answers, tools)

    def _code(self, answer: Answer) -> ConversationStep:
        if answer.finish in MALFORMED:
            return self._malformed(answer)
        if answer.tool_code is None:
            if not self.rounds:
                return self._drop("no_code", "the model ended its message without code to run")
            return self._drop("unresolved", f"the model gave up after {self.rounds} rounds")
        code = answer.tool_code.strip("\n")
        if not code.strip():
            return self._drop("empty_code", f"code block {self.rounds + 1} is empty")
        return super()._code(dataclasses.replace(answer, text=answer.text.strip(), tool_code=code))

    def _tell(self, text: str, output: str = "", then: str = "") -> None:
        self.messages.append(Turn("tool", output, NATIVE_TURN))
        self.closing = bool(then)

    def _final(self, answer: Answer) -> ConversationStep:
        if answer.finish in MALFORMED:
            return self._malformed(answer)
        if not self.closing:
            if answer.finish == "code_refused":
                return self._drop("no_final_code", "the final answer is a code block to be run")
            return super()._final(answer)
        self.closing = False
        if answer.finish == "end" and (remark := answer.text.strip()):
            self.blocks.append(Block("text", remark))
            self.messages.append(Turn("assistant", remark))
        self.messages.append(Turn("user", self.problem.instruction))
        return self._ask()

    def _malformed(self, answer: Answer) -> ConversationStep:
        end = answer.text if len(answer.text) <= CHARS_SHOWN else f"...{answer.text[-CHARS_SHOWN:]}"
        return self._drop(answer.finish, f"answer {self.answers} has {MALFORMED[answer.finish]}: {end!r}")
