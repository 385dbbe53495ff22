"""A real vLLM in this process decodes what transformers decodes. Needs vLLM: `make vllm`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from blocks import NUMBERS, config, run, write_problems

from reflectioncoder.config.build import VllmConfig
from reflectioncoder.config.evaluate import GenerateConfig
from reflectioncoder.dialogues.dialogue import Dialogue, read_jsonl
from reflectioncoder.errors import UserError
from reflectioncoder.generate.generate import generate

pytest.importorskip("vllm", reason="vLLM is not installed; run: make vllm (pip install vllm with a GPU)")
pytestmark = pytest.mark.slow
SMALL = VllmConfig(memory_share=0.3, max_length=512)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_greedy_answers_are_those_of_transformers(model: str, tmp_path: Path) -> None:
    problems = write_problems(tmp_path / "own.jsonl", [*NUMBERS, 5, 6])
    here = GenerateConfig(
        model=model, task=problems, precision="float32", device="cpu", max_new_tokens=96, batch_size=4, vllm=SMALL
    )
    found = [
        generate(dataclasses.replace(here, backend=backend, output=str(tmp_path / f"{backend}.jsonl")))
        for backend in ("vllm", "transformers")
    ]
    assert found[0].completions == found[1].completions and found[0].new == 4
    again = generate(dataclasses.replace(here, backend="vllm", output=str(tmp_path / "vllm.jsonl")))
    assert again.new == 0 and again.completions == found[0].completions
    with pytest.raises(UserError, match="was made with backend = 'vllm'"):
        generate(dataclasses.replace(here, output=str(tmp_path / "vllm.jsonl")))


def test_a_build_writes_what_the_model_has_learnt(model: str, learnt: list[Dialogue], tmp_path: Path) -> None:
    result = run(config(tmp_path, model, list(NUMBERS), backend="vllm", vllm=SMALL))
    assert result.funnel == {"problems": 2, "sequences": 2}
    assert [dialogue.messages for dialogue in read_jsonl(result.path)] == [dialogue.messages for dialogue in learnt]
