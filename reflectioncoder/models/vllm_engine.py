"""Starts a vLLM engine on this machine."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from reflectioncoder.errors import UserError, first_line


def start_engine(model: str, precision: str, batch_size: int, seed: int) -> Any:
    """Start a vLLM engine with a model from a directory or the hub.

    Args:
        model: directory or hub name.
        precision: number type of the weights.
        batch_size: maximal number of requests that are decoded together.
        seed: seed of the engine; each request has its own seed.

    Raises:
        UserError: vLLM is not installed, or cannot run the model.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # otherwise it logs about a hundred lines
    try:
        from vllm import EngineArgs, LLMEngine
    except ImportError:
        raise UserError("backend 'vllm': it is not installed; run: pip install vllm") from None
    arguments = EngineArgs(model=model, dtype=precision, seed=seed, max_num_seqs=batch_size, enable_prefix_caching=True)
    try:
        return LLMEngine.from_engine_args(arguments)
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(f"model {model}: vLLM cannot run it ({first_line(error)})") from None


def seed_of(*parts: object) -> int:
    """Return a 32-bit seed for one request, a hash of the parts that identify it."""
    return int.from_bytes(hashlib.sha256(":".join(map(str, parts)).encode()).digest()[:4])
