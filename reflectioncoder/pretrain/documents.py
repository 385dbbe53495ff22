"""The documents of pre-training: instructions with their code, and the parts of debugging sequences as plain text.

All problems are of the split `pretrain` of their family. The parts of a sequence are separate documents, so that the
model reads programs, outputs and remarks about failures as it reads code, but has not seen a failure repaired.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

from reflectioncoder.config.pretrain import PretrainConfig
from reflectioncoder.construct.mutation.sequence import reflect_by_mutation
from reflectioncoder.dialogues.dialogue import Dialogue
from reflectioncoder.errors import UserError
from reflectioncoder.interpreter.interpreter import Interpreter
from reflectioncoder.problems.generators import GENERATORS


def instruction_documents(config: PretrainConfig) -> Iterator[str]:
    """Yield instructions with their answers without end, in the form of the prompt style `plain`.

    Raises:
        UserError: an unknown family or level, or a family without a split `pretrain`.
    """
    texts = GENERATORS.choose(config.family).texts
    if texts is None:
        raise UserError(f"family = {config.family}: has no texts for pre-training")
    for instruction, answer in texts(config.seed, "pretrain", config.levels):
        yield f"{instruction}\n\n{answer}\n"


def debugging_documents(config: PretrainConfig, report: Callable[[int], object]) -> list[str]:
    """Build `config.sequences` sequences by mutation, and return their parts as documents.

    Args:
        config: settings of the run.
        report: called with the number of finished sequences.
    """
    found: list[str] = []
    generator = GENERATORS.choose(config.family)
    done = itertools.count(1)
    with Interpreter() as interpreter:
        for problem in generator.problems(config.seed, "pretrain", config.levels):
            sequence = reflect_by_mutation(problem, interpreter, config.seed)
            if not isinstance(sequence, Dialogue):
                continue
            found += _parts(sequence)
            number = next(done)
            report(number)
            if number >= config.sequences:
                break
    return found


def _parts(sequence: Dialogue) -> list[str]:
    """Return each program with its output, and each remark, as a document."""
    found, program = [sequence.messages[0].blocks[0].content], ""
    for block in sequence.first_round:
        if block.type == "code":
            program = block.content
        elif block.type == "execution":
            found.append(f"```python\n{program}\n```\n\n{block.content}")
        else:
            found.append(block.content)
    return found


def documents(config: PretrainConfig, debugging: list[str]) -> Iterator[str]:
    """Yield documents without end: debugging ones with `config.share` of the text, in random order.

    Args:
        config: settings of the run.
        debugging: what `debugging_documents` returned.
    """
    rng = random.Random(f"documents:{config.seed}")
    texts = instruction_documents(config)
    given = shown = 0  # characters of debugging documents, and of all
    while True:
        if debugging and given <= config.share * shown:
            text = rng.choice(debugging)
            given += len(text)
        else:
            text = next(texts)
        shown += len(text)
        yield text
