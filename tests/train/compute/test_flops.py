"""The computed FLOPs of a step equal those of its matrix products, for full training and for adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch.utils.flop_counter import FlopCounterMode

from reflectioncoder.config.train import LoraConfig, LossConfig, MaskingConfig, TrainConfig
from reflectioncoder.dialogues.tokens import SPECIAL_TOKENS, encode_dialogue
from reflectioncoder.models.special_tokens import add_special_tokens
from reflectioncoder.train import lora
from reflectioncoder.train.batch.packing import pack
from reflectioncoder.train.batch.rows import build_rows, loss_weights
from reflectioncoder.train.compute.flops import Needed, peak_flops
from reflectioncoder.train.compute.loss import micro_batch_loss
from reflectioncoder.train.compute.packed_attention import use_varlen_attention


def products(model: Any, batch: Any) -> int:
    """Count the FLOPs of a step's matrix products, without attention, which is one fused operator on CPU."""

    def in_place(total: Any, left: Any, right: Any, **_: Any) -> int:
        return int(2 * left[0] * left[1] * right[1])

    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: in_place}) as counted:
        micro_batch_loss(model, batch).loss.backward()
    found = {str(operation): count for operation, count in counted.get_flop_counts()["Global"].items()}
    return sum(count for name, count in found.items() if name in ("aten.mm", "aten.addmm", "aten.addmm_"))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("adapters", [False, True])
def test_what_is_needed_is_what_is_multiplied(tmp_path: Path, adapters: bool, tied: bool) -> None:
    words, model = tiny.tokenizer(), tiny.llama(258, tied, dtype=torch.float32)
    add_special_tokens(model, words)
    use_varlen_attention(model)
    own_rows = 0
    if adapters:
        pytest.importorskip("peft", reason="PEFT is not installed; run: make setup")
        lora.add_adapters(model, words, TrainConfig(precision="float32", lora=LoraConfig(r=4)))
        own_rows = len(SPECIAL_TOKENS)
    samples = [encode_dialogue(dialogue, words, str(i)) for i, dialogue in enumerate(tiny.dialogues(4))]
    rows = [build_rows(sample, MaskingConfig(), "keep", 5, 10, 0) for sample in samples]
    batch = pack(list(zip(rows, loss_weights(rows, LossConfig()), strict=True)))
    scored = len(batch.index)
    found = Needed(model)(batch.tokens, scored, 0)
    assert found + 6 * scored * own_rows * 32 == products(model, batch)
    assert Needed(model)(0, 0, 10) == 10 * 3 * 2 * 2 * 32  # two layers, hidden size 32


def test_only_known_gpus_have_a_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak_flops(torch.device("cpu")) is None
    for name, peak in (("NVIDIA H100 PCIe", 756e12), ("NVIDIA H100 80GB HBM3", 989e12), ("Unheard of", None)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_, name=name: name)
        assert peak_flops(torch.device("cuda")) == peak
