"""A micro model that is made in seconds and knows wrong answers to some problems by heart."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from reflectioncoder import build, train
from reflectioncoder.config.build import BuildConfig
from reflectioncoder.config.pretrain import PretrainConfig
from reflectioncoder.config.train import TrainConfig
from reflectioncoder.dialogues.dialogue import fenced, instruction_dialogue, read_jsonl, write_jsonl
from reflectioncoder.pretrain.pretrain import pretrain


def make_beginner(folder: Path, planned: BuildConfig) -> str:
    """Make the model; return its directory.

    Args:
        folder: a directory for it; `folder / "build"` gets the sequences of `planned`.
        planned: a build by mutation; the model answers its problems wrongly.
    """
    built = build(dataclasses.replace(planned, output=str(folder / "build"), workers=1))
    assert built.sequences == planned.count
    wrong = []
    for one in read_jsonl(folder / "build" / "instructions.jsonl"):
        name = re.search(r"def (\w+)\(", one.final_answer)
        assert name is not None
        asked = one.messages[-2].blocks[0].content
        wrong.append(instruction_dialogue(asked, fenced(f"def {name[1]}(values):\n    return 'no'")))
    write_jsonl(folder / "wrong.jsonl", wrong)
    small = PretrainConfig(
        output=str(folder / "micro"), tokens=20_000, sequences=0, layers=1, width=64, heads=2, batch_tokens=2048
    )
    how = TrainConfig(
        model=str(pretrain(small, lambda _: None)),
        data=(str(folder / "wrong.jsonl"),),
        output=str(folder / "beginner"),
        objective="instruction",
        batch_size=len(wrong),
        max_steps=120,
        learning_rate=1e-2,
        precision="float32",
        device="cpu",
        save_steps=0,
        report_to=("none",),
    )
    return train(how, lambda _: None).output
