"""The settings that vLLM gets, and those that are refused; a stub takes the place of vLLM."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pydantic
import pytest

from reflectioncoder.config.build import VllmConfig
from reflectioncoder.errors import UserError
from reflectioncoder.models.vllm_engine import check_vllm, start_engine


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    found: dict[str, Any] = {}
    stub: Any = ModuleType("vllm")

    def arguments(**settings: Any) -> None:
        found.update(settings)

    stub.EngineArgs = arguments
    stub.LLMEngine = type("LLMEngine", (), {"from_engine_args": staticmethod(lambda _: "engine")})
    monkeypatch.setitem(sys.modules, "vllm", stub)
    return found


USUAL = {"model": "m", "dtype": "bfloat16", "seed": 3, "max_num_seqs": 8, "enable_prefix_caching": True}


def test_vllms_own_defaults_stand(given: dict[str, Any]) -> None:
    assert start_engine("m", "bfloat16", 8, 3) == "engine"
    assert given == USUAL


def test_gpus_memory_and_length_are_passed_on(given: dict[str, Any]) -> None:
    start_engine("m", "bfloat16", 8, 3, VllmConfig(4, 0.5, 2048), True)
    more = {"tensor_parallel_size": 4, "gpu_memory_utilization": 0.5, "max_model_len": 2048, "trust_remote_code": True}
    assert given == USUAL | more


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (VllmConfig(tensor_parallel=0), "tensor_parallel"),
        (VllmConfig(memory_share=1.5), "memory_share"),
        (VllmConfig(max_length=-1), "max_length"),
    ],
)
def test_settings_out_of_range_are_named(settings: VllmConfig, name: str) -> None:
    with pytest.raises(UserError, match=rf"generate\.vllm\.{name} = "):
        check_vllm(settings, "generate.")


def test_the_error_of_a_setting_that_vllm_refuses_says_what_is_wrong(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Model(pydantic.BaseModel):
        max_model_len: int

        @pydantic.field_validator("max_model_len")
        @classmethod
        def _fits(cls, value: int) -> int:
            raise ValueError(f"max_model_len ({value}) is greater than 1024\nmore about it")

    monkeypatch.setattr(sys.modules["vllm"], "EngineArgs", lambda **settings: Model(max_model_len=5000))
    with pytest.raises(UserError) as refused:
        start_engine("m", "bfloat16", 8, 3)
    assert str(refused.value) == "model m: vLLM cannot run it (max_model_len (5000) is greater than 1024)"


def test_a_decoding_process_that_ended_is_said_to_have_ended(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(**_: Any) -> None:
        raise RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")

    monkeypatch.setattr(sys.modules["vllm"], "EngineArgs", ended)
    with pytest.raises(UserError, match="its decoding process ended; the reason is in its messages above"):
        start_engine("m", "bfloat16", 8, 3)
