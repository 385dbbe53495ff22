"""Dropped blocks leave the sample that a shorter file would give."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from pathlib import Path

import pytest
import tiny
from training import config, log, quiet

from reflectioncoder.cli.main import main
from reflectioncoder.config.train import LossConfig, MaskingConfig
from reflectioncoder.dialogues.dialogue import Dialogue, Message, read_jsonl, write_jsonl
from reflectioncoder.dialogues.tokens import Encoded, decode_dialogue, encode_dialogue
from reflectioncoder.errors import UserError
from reflectioncoder.models.special_tokens import add_special_tokens
from reflectioncoder.train.batch.dropping import drop_blocks
from reflectioncoder.train.batch.masking import visible_ranges
from reflectioncoder.train.batch.rows import build_rows
from reflectioncoder.train.train import describe_plan, train

ROUNDS = [("code", 6), ("execution", 3), ("text", 4), ("code", 5), ("execution", 1)]


def shortened(dialogue: Dialogue, gone: set[int]) -> Dialogue:
    """The dialogue without some blocks of its first answer."""
    blocks = tuple(block for number, block in enumerate(dialogue.first_round) if number not in gone)
    first, _, *rest = dialogue.messages
    return dataclasses.replace(dialogue, messages=(first, Message("assistant", blocks), *rest))


def lowest(influence: tuple[float, ...], share: float) -> set[int]:
    """The blocks that go, by hand: sort, and take the first ceil(share * n)."""
    ranked = sorted((value, place) for place, value in enumerate(influence))
    return {place for _, place in ranked[: math.ceil(round(share * len(ranked), 9))]}


@pytest.mark.parametrize("share", [0.0, 0.2, 0.25, 0.5, 0.75, 0.9, 1.0])
def test_a_sample_is_that_of_the_shorter_dialogue(share: float) -> None:
    words = tiny.build_tokenizer()
    add_special_tokens(tiny.build_llama(len(words)), words)
    rng = random.Random(share)
    for dialogue in tiny.dialogues(9):
        whole = encode_dialogue(dialogue, words, "7")
        if not dialogue.is_reflection:
            assert drop_blocks(whole, share) is whole
            continue
        influence = tuple(rng.choice((0.0, rng.random() - 0.5)) for _ in dialogue.first_round)
        answer = range(*whole.message_bounds[-1])
        marked = dataclasses.replace(whole, influence=influence, changed=tuple(answer)[2:4])
        found = drop_blocks(marked, share)
        gone = lowest(influence, share)
        expected = encode_dialogue(shortened(dialogue, gone), words, "7")
        kept = tuple(value for place, value in enumerate(influence) if place not in gone)
        begin = expected.message_bounds[-1][0]
        assert found == dataclasses.replace(expected, influence=kept, changed=(begin + 2, begin + 3))
        assert decode_dialogue(found.ids, words, "reflection").messages == shortened(dialogue, gone).messages


def test_neither_teacher_nor_student_sees_dropped_blocks_and_masking_goes_on_with_the_others() -> None:
    sample = dataclasses.replace(tiny.encoded(ROUNDS, 1), influence=(0.5, -0.1, 0.0, 2.0, 0.0))
    short = drop_blocks(sample, 0.4)
    assert [(span.type, span.block) for span in short.spans if span.message == 1] == [
        ("code", 0), ("code", 1), ("execution", 2),
    ]  # fmt: skip
    assert short.influence == (0.5, 2.0, 0.0) and len(short) == len(sample) - (3 + 2) - (4 + 2)
    masking = MaskingConfig("influence")
    rows = build_rows(short, masking, "keep", 0, 3, 0)
    assert rows.teacher.positions == tuple(range(len(short)))
    hidden = []
    spans = [span for span in short.spans if span.message == 1]
    for step in range(4):
        visible = {t for a, b in visible_ranges(short, masking, step, 3, 0) for t in range(a, b)}
        hidden.append([n for n, span in enumerate(spans) if span.start not in visible])
    assert hidden == [[], [2], [0, 2], [0, 1, 2]]


def test_without_any_block_the_two_requests_and_the_answer_are_left() -> None:
    sample = tiny.encoded(ROUNDS, 1)
    bare = drop_blocks(sample, 1.0)
    (_, second), (start, end), _, (answer, _) = bare.message_bounds
    assert end - start == 2 and start == second and bare.ids[answer:] == sample.ids[sample.message_bounds[-1][0] :]
    rows = build_rows(bare, MaskingConfig("influence"), "keep", 1, 2, 0)
    assert rows.student is not None and len(rows.student.ids) == len(bare) - end + 1  # BOS and the second round
    unmeasured = drop_blocks(sample, 0.5)  # the leftmost ones go
    assert [span.type for span in unmeasured.spans if span.message == 1] == ["code", "execution"]


def test_a_run_trains_as_on_a_file_of_the_shorter_sequences(base: Path, tmp_path: Path) -> None:
    whole = config(base, tmp_path / "drop", masking=MaskingConfig("block", drop=0.4), save_steps=0)
    done = train(whole, quiet)
    first, *lines = [json.loads(line) for line in (tmp_path / "drop" / "influence.jsonl").read_text().splitlines()]
    assert first["tokens"] == done.measuring_tokens > 0
    dialogues = read_jsonl(base / "data.jsonl")
    short = [
        shortened(item, lowest(tuple(line["influence"]), 0.4)) if item.is_reflection else item
        for item, line in zip(dialogues, lines, strict=True)
    ]
    assert [len(item.first_round) for item in short if item.is_reflection] == [3] * 4
    write_jsonl(tmp_path / "short.jsonl", short)
    masking = MaskingConfig("block")
    other = config(base, tmp_path / "short", data=(str(tmp_path / "short.jsonl"),), masking=masking, save_steps=0)
    assert train(other, quiet).tokens == done.tokens
    assert [line["loss"] for line in log(tmp_path / "drop")] == [line["loss"] for line in log(tmp_path / "short")]
    assert "6 steps" in describe_plan(dataclasses.replace(whole, output=str(tmp_path / "plan")))


def test_whole_sequences_alone_can_be_shortened_and_dropping_all_measures_nothing(base: Path, tmp_path: Path) -> None:
    masking, alone = MaskingConfig(drop=0.5), LossConfig(teacher_only=True)
    some = train(config(base, tmp_path / "some", masking=masking, loss=alone, max_steps=1, save_steps=0), quiet)
    assert some.measuring_tokens > 0
    masking = MaskingConfig("influence", drop=1.0)
    none = train(config(base, tmp_path / "none", masking=masking, max_steps=1, save_steps=0), quiet)
    assert none.measuring_tokens == 0 and not (tmp_path / "none" / "influence.jsonl").exists()


def test_bad_settings_are_one_line(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for changes, said in (
        ({"masking": MaskingConfig(drop=1.5)}, "masking.drop = 1.5: must be a share"),
        ({"masking": MaskingConfig(drop=-0.1)}, "masking.drop = -0.1: must be a share"),
        ({"masking": MaskingConfig(drop=0.5), "objective": "instruction"}, "objective instruction does not drop"),
        ({"masking": MaskingConfig(drop=0.5), "objective": "on_policy"}, "objective on_policy does not drop"),
        ({"masking": MaskingConfig(drop=0.5), "mix": "tokens"}, "mix = tokens counts whole sequences"),
    ):
        with pytest.raises(UserError) as error:
            train(config(base, tmp_path, **changes), quiet)
        assert said in str(error.value) and "\n" not in str(error.value)
    assert main(["train", "--data", str(base / "data.jsonl"), "--masking.drop", "2"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_sample_without_blocks_stays(base: Path) -> None:
    empty: Encoded = drop_blocks(tiny.encoded([], 1), 0.5)
    assert empty == tiny.encoded([], 1)
