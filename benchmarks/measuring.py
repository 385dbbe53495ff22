"""Measures time and memory of a call, on the CPU or a CUDA GPU."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from reflectioncoder.train.compute.activation_checkpointing import checkpoint_layers

KEPT = ("everything", "selective", "inputs")  # which activations are kept for the backward pass


def timed(run: Callable[[], Any], device: str = "cpu") -> tuple[float, float, Any]:
    """Return wall-clock seconds, CPU seconds, and the result of a call; waits until the GPU has finished."""
    _wait(device)
    clock, processor = time.monotonic(), time.process_time()
    result = run()
    _wait(device)
    return time.monotonic() - clock, time.process_time() - processor, result


def keep(model: PreTrainedModel, what: str) -> None:
    """Configure activation checkpointing of a model.

    Args:
        model: the model.
        what: which activations to keep, one of `KEPT`.
    """
    getattr(model, "activation_checkpointing_disable", model.gradient_checkpointing_disable)()
    if what != "everything":
        checkpoint_layers(model, what == "selective")


def peak_above(run: Callable[[], Any], device: str = "cpu") -> int:
    """Return the peak memory of a call minus the memory in use before it, in bytes."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        _wait(device)
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _resident("VmRSS:")
    run()
    return _resident("VmHWM:") - before


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _resident(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
