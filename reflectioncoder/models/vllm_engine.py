"""Starts a vLLM engine on this machine."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from reflectioncoder.config.build import VllmConfig
from reflectioncoder.errors import UserError, first_line

CORE_FAILED = "Engine core initialization failed"  # vLLM's words where its decoding process ended before it was ready


def start_engine(
    model: str,
    precision: str,
    batch_size: int,
    seed: int,
    vllm: VllmConfig | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """Start a vLLM engine with a model from a directory or the hub.

    Args:
        model: directory or hub name.
        precision: number type of the weights.
        batch_size: maximal number of requests that are decoded together.
        seed: seed of the engine; each request has its own seed.
        vllm: GPUs and memory.
        trust_remote_code: whether to run code that comes with the model.

    Raises:
        UserError: vLLM is not installed, or cannot run the model.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # otherwise it logs about a hundred lines
    try:
        from vllm import EngineArgs, LLMEngine
    except ImportError:
        raise UserError("backend 'vllm': it is not installed; run: pip install vllm") from None
    vllm = vllm or VllmConfig()
    # vLLM's own defaults stand where nothing is asked for
    more: dict[str, Any] = {"tensor_parallel_size": vllm.tensor_parallel} if vllm.tensor_parallel > 1 else {}
    more |= {"gpu_memory_utilization": vllm.memory_share} if vllm.memory_share else {}
    more |= {"max_model_len": vllm.max_length} if vllm.max_length else {}
    more |= {"trust_remote_code": True} if trust_remote_code else {}
    try:
        arguments = EngineArgs(
            model=model, dtype=precision, seed=seed, max_num_seqs=batch_size, enable_prefix_caching=True, **more
        )
        return LLMEngine.from_engine_args(arguments)
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(f"model {model}: vLLM cannot run it ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """The one line of vLLM's error that says what is wrong."""
    line = first_line(error)
    if callable(details := getattr(error, "errors", None)):  # pydantic's; its first line only counts the errors
        line = first_line(str(details()[0]["msg"])).removeprefix("Value error, ")
    elif CORE_FAILED in line:
        line = "its decoding process ended; the reason is in its messages above"
    return line


def check_vllm(vllm: VllmConfig, where: str) -> None:
    """Raise UserError for settings out of range; `where` is the prefix of their names."""
    if vllm.tensor_parallel < 1:
        raise UserError(f"{where}vllm.tensor_parallel = {vllm.tensor_parallel}: must be at least 1")
    if not 0 <= vllm.memory_share <= 1:
        raise UserError(f"{where}vllm.memory_share = {vllm.memory_share}: must be in (0, 1], or 0 for vLLM's default")
    if vllm.max_length < 0:
        raise UserError(f"{where}vllm.max_length = {vllm.max_length}: must be positive, or 0 for the model's positions")


def seed_of(*parts: object) -> int:
    """Return a 32-bit seed for one request, a hash of the parts that identify it."""
    return int.from_bytes(hashlib.sha256(":".join(map(str, parts)).encode()).digest()[:4])
