"""Each `vllm.*` key reaches a real vLLM; what vLLM refuses is answered in one line. Needs vLLM: `make vllm`."""

from __future__ import annotations

from typing import Any

import pytest

from reflectioncoder.config.build import VllmConfig
from reflectioncoder.errors import UserError
from reflectioncoder.models.vllm_engine import start_engine

pytest.importorskip("vllm", reason="vLLM is not installed; run: make vllm (pip install vllm with a GPU)")
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM checks the settings and stops before it starts the decoding process."""
    import vllm

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setattr(vllm.LLMEngine, "from_engine_args", lambda arguments: arguments.create_engine_config())


def known(model: str, **keys: Any) -> dict[str, Any]:
    """What vLLM's own configuration says after `start_engine` with the given keys of `vllm`."""
    found: Any = start_engine(model, "float32", 8, 3, VllmConfig(**keys))
    return {
        "tensor_parallel": found.parallel_config.tensor_parallel_size,
        "memory_share": found.cache_config.gpu_memory_utilization,
        "max_length": found.model_config.max_model_len,
        "batch_size": found.scheduler_config.max_num_seqs,
        "seed": found.model_config.seed,
        "dtype": str(found.model_config.dtype),
    }


def test_each_key_reaches_vllm_and_changes_nothing_else(model: str) -> None:
    usual = known(model)
    assert usual["max_length"] == 1024  # the model's positions
    assert (usual["tensor_parallel"], usual["batch_size"], usual["seed"]) == (1, 8, 3)
    assert usual["dtype"] == "torch.float32"
    for key, value in {"tensor_parallel": 2, "memory_share": 0.5, "max_length": 256}.items():
        assert usual[key] != value
        assert known(model, **{key: value}) == usual | {key: value}


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"tensor_parallel": 3}, "attention heads"),
        ({"max_length": 5000}, r"max_model_len \(5000\).*1024"),
    ],
)
def test_a_key_that_vllm_refuses_is_answered_with_its_reason_in_one_line(
    model: str, keys: dict[str, int], reason: str
) -> None:
    with pytest.raises(UserError, match=reason) as refused:
        known(model, **keys)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(f"model {model}: vLLM cannot run it (")


def test_a_model_that_does_not_exist_is_named_in_one_line() -> None:
    with pytest.raises(UserError, match="model /no/such/model: vLLM cannot run it") as refused:
        known("/no/such/model")
    assert "\n" not in str(refused.value)
