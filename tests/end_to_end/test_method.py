"""The training loop in docs/method.md, extracted from the page, matches the trainer step by step."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from places import ROOT
from transformers import AutoModelForCausalLM

from reflectioncoder.config.train import TrainConfig
from reflectioncoder.dialogues.dialogue import write_jsonl
from reflectioncoder.train.train import train

PAGE = ROOT / "docs" / "method.md"


@pytest.mark.slow
def test_the_loop_on_the_page_is_the_trainer(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len([line for line in code.splitlines() if line.strip()]) <= 66  # fits on a page
    scope: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), scope)
    name = tiny.save(tmp_path / "model", tiny.llama(258, dtype=torch.float32))
    data = tmp_path / "data.jsonl"
    write_jsonl(data, tiny.dialogues(9))
    shared = {"batch_size": 4, "learning_rate": 1e-2, "micro_tokens": 300, "seed": 5}
    steps = list(scope["fine_tune"](name, str(data), 12, **shared))
    losses, model = [loss for loss, _ in steps], steps[-1][1]
    config = TrainConfig(
        model=name,
        output=str(tmp_path / "out"),
        data=(str(data),),
        max_steps=12,
        precision="float32",
        save_steps=0,
        device="cpu",
        **shared,
    )
    train(config, lambda _: None)
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == pytest.approx(losses, rel=1e-6)
    assert losses[-1] < 0.7 * losses[0]
    assert {line["kl"] > 0 for line in lines} == {True}
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for left, right in zip(model.parameters(), saved.parameters(), strict=True):
        assert (left - right).abs().max() < 1e-5
