"""On-policy distillation: the model answers the plain instruction, and a teacher with more context scores its tokens.

The teacher is the same model (or the moving average of its weights) with more in its context: the sample's reflection
sequence; a reference answer, as in SDFT (arXiv 2601.19897); or the execution of the answer itself, as in SDPO (arXiv
2601.20802). Each token of the answer enters the divergence of `loss.divergence`. Gradients flow through the student's
row only, and not through the sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reflectioncoder.config.train import TrainConfig
from reflectioncoder.dialogues.dialogue import unfenced
from reflectioncoder.dialogues.tokens import (
    BLOCK_TOKENS,
    END_OF_BLOCK,
    END_OF_MESSAGE,
    ROLE_TOKENS,
    Encoded,
    encode_content,
    special_ids,
)
from reflectioncoder.interpreter.interpreter import Interpreter
from reflectioncoder.models.decode import Request, decode_batched
from reflectioncoder.syntax.asserts import split_tests
from reflectioncoder.train.batch.packing import pack
from reflectioncoder.train.batch.rows import Row, Rows, Weights, one_off_prompt, rows_of, split_by_cost
from reflectioncoder.train.batch.steps import TrainStep, TrainSteps
from reflectioncoder.train.compute.packed_attention import ATTENTION_NAME

# Runs a program and returns the text that a notebook shows, empty if it printed nothing.
Execute = Callable[[str], str]


@dataclass(frozen=True)
class OwnAnswer:
    """What the model answered to a sample's instruction.

    Args:
        ids: its tokens; with the ends of block and message if it ended by itself.
        ended: whether it ended by itself, not at the token limit.
    """

    ids: tuple[int, ...]
    ended: bool


def executor(config: TrainConfig) -> Execute | None:
    """Return what runs programs in the isolated interpreter, if a run needs it."""
    if config.objective != "on_policy" or config.on_policy.context != "feedback":
        return None
    interpreter = Interpreter()
    return lambda code: interpreter.run(code).text


class OnPolicy:
    """Builds the steps of on-policy distillation.

    Args:
        network: the plain network, with `packed_attention.use_varlen_attention` applied.
        tokenizer: its tokenizer.
        steps: the plan of the run: which samples each step takes, and the ranks that share them.
        execute: runs a program; needed if the context is `feedback`.
    """

    def __init__(
        self, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, steps: TrainSteps, execute: Execute | None
    ) -> None:
        self.network, self.tokenizer, self.steps, self.execute = network, tokenizer, steps, execute
        self.config: TrainConfig = steps.config
        self.special = special_ids(tokenizer)

    def make(self, step: int) -> TrainStep:
        """Decode this rank's answers with the weights of now, and build its share of a step."""
        world, config = self.steps.world, self.config
        chosen = [self.steps.samples[i] for i in self.steps.plan[step]]
        own = chosen[world.rank :: world.size]
        answers, decoded = self.answer([sample for sample in own if sample.is_reflection], step)
        waiting = iter(answers)
        rows = [
            self.rows(sample, next(waiting)) if sample.is_reflection else rows_of(sample, (), "paper", "rebase")
            for sample in own
        ]
        again = [len(one.teacher.ids) if config.loss.teacher == "average" and one.student else 0 for one in rows]
        costs = [one.tokens + more for one, more in zip(rows, again, strict=True)]
        lengths = [len(row.ids) for one in rows for row in (one.teacher, one.student) if row is not None]
        teacher = sum(len(one.teacher.ids) + more for one, more in zip(rows, again, strict=True))
        plain = sum(len(one.teacher.targets) for one in rows)
        distilled = sum(len(one.teacher.distill) for one in rows)
        totals = torch.tensor(
            [
                sum(costs) + decoded,
                plain,
                sum(length**2 for length in lengths),
                sum(again) + decoded,
                teacher,
                decoded,
                distilled,
            ],
            dtype=torch.float64,
            device=self.network.device,
        )
        tokens, targets, squares, forward_only, teacher_tokens, decoded_tokens, pairs = map(
            int, world.total(totals).tolist()
        )
        weights = self.weights(rows, len(chosen), sum(one.is_reflection for one in chosen), targets, pairs)
        groups = split_by_cost(costs, config.micro_tokens) if rows else [[]]
        apart = config.loss.teacher == "average"
        return TrainStep(
            micro_batches=[pack([(rows[i], weights[i]) for i in group], apart) for group in groups],
            mask_rate=1.0,
            tokens=tokens,
            scored=targets + 2 * pairs,
            squares=squares,
            visible={},
            again=forward_only,
            teacher_tokens=teacher_tokens,
            decoded_tokens=decoded_tokens,
        )

    def weights(self, rows: Sequence[Rows], samples: int, answered: int, targets: int, pairs: int) -> list[Weights]:
        """Weights of each sample of this rank in the loss of the global batch.

        Args:
            rows: the rows of this rank.
            samples: samples of the global batch.
            answered: those that the model answered.
            targets: cross-entropy targets of the global batch, all of plain samples.
            pairs: answer tokens of the global batch.
        """
        loss = self.config.loss
        by_token = loss.normalization == "token"
        found = []
        for one in rows:
            ce, kl = len(one.teacher.targets), len(one.teacher.distill)
            of_ce = (1 / targets if by_token else 1 / ce / samples) if ce else 0.0
            of_kl = (1 / pairs if by_token else 1 / kl / samples) if kl else 0.0
            mean = (1 / pairs if by_token else 1 / kl / answered) if kl else 0.0
            found.append(Weights(of_ce, 0.0, loss.distillation * of_kl, of_ce, 0.0, mean))
        return found

    def answer(self, samples: Sequence[Encoded], step: int) -> tuple[list[OwnAnswer], int]:
        """Sample the model's own answers.

        Args:
            samples: samples whose instructions are answered.
            step: number of the step; with the seed and the sample's id it determines the draws.

        Returns:
            The answers, and the tokens that went through the model: prompts and answers.
        """
        settings = self.config.on_policy
        requests = [
            Request(f"{place}:{sample.sample_id}", step, one_off_prompt(sample), settings.max_new_tokens)
            for place, sample in enumerate(samples)
        ]
        found: dict[str, OwnAnswer] = {}
        tokens = 0
        network: Any = self.network
        training = network.training
        network.eval()
        network.set_attn_implementation("sdpa")
        try:
            for one in decode_batched(
                network, self.tokenizer, requests, settings.decode_batch, settings.temperature, settings.top_p,
                self.config.seed,
            ):  # fmt: skip
                ended = one.reason == "end"
                closing = (self.special[END_OF_BLOCK], self.special[END_OF_MESSAGE]) if ended else ()
                found[one.request.task_id] = OwnAnswer(one.ids + closing, ended)
                tokens += len(one.request.ids) + len(one.ids)
        finally:
            network.set_attn_implementation(ATTENTION_NAME)
            network.train(training)
        return [found[request.task_id] for request in requests], tokens

    def context(self, sample: Encoded, answer: OwnAnswer) -> tuple[int, ...]:
        """The tokens that the teacher reads before the instruction, BOS first."""
        start = sample.message_bounds[-2][0]
        kind = self.config.on_policy.context
        if kind == "reflection":
            return sample.ids[:start]
        head = sample.ids[: sample.message_bounds[0][0]]
        question = sample.ids[start : sample.message_bounds[-2][1]]
        if kind == "answer":
            return head + question + sample.ids[slice(*sample.message_bounds[-1])]
        code = unfenced(self.text(answer.ids))
        return head + question + self.first_try(code, self.run(sample, code))

    def run(self, sample: Encoded, code: str) -> str:
        """Run an answer with the asserts of the sample's last code block; the text that a notebook shows."""
        assert self.execute is not None
        blocks = [span for span in sample.spans if span.message == 1 and span.type == "code"]
        asserts = split_tests(self.text(sample.ids[blocks[-1].start : blocks[-1].end])) if blocks else ()
        return self.execute("\n".join([code, *asserts]))

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def first_try(self, code: str, output: str) -> tuple[int, ...]:
        """An assistant's message of a code block and its execution, as in a reflection sequence."""
        found = [self.special[ROLE_TOKENS["assistant"]]]
        for kind, content in (("code", code), ("execution", output)):
            token = BLOCK_TOKENS[kind]  # type: ignore[index]
            found += [self.special[token], *encode_content(content, self.tokenizer, token), self.special[END_OF_BLOCK]]
        return (*found, self.special[END_OF_MESSAGE])

    def rows(self, sample: Encoded, answer: OwnAnswer) -> Rows:
        """The teacher's and the student's row of an answer; every token of it is distilled."""
        start = sample.message_bounds[-2][0]
        asked = sample.ids[start : sample.message_bounds[-1][0] + 2]
        teacher, student = self.context(sample, answer) + asked, one_off_prompt(sample)
        room = self.config.max_length - len(teacher)
        ids = answer.ids[: max(1, room)]

        def row(before: tuple[int, ...]) -> Row:
            whole = before + ids
            distilled = range(len(before) - 1, len(whole) - 1)
            return Row(whole, tuple(range(len(whole))), (), tuple(distilled))

        return Rows(row(teacher), row(student))
