"""Each common architecture is trained exactly as by the reference implementation, or refused with a one-line error.

The models are tiny and random, with sliding windows shorter than the rows. Most of them compute norms and rotary
embeddings in float32 regardless of the dtype, hence the tolerances.
"""

from __future__ import annotations

from typing import Any

import pytest
import reference_trainer as reference
import tiny
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from reflectioncoder.config.train import LossConfig, MaskingConfig
from reflectioncoder.errors import UserError
from reflectioncoder.train.batch.packing import pack
from reflectioncoder.train.batch.rows import build_rows, loss_weights
from reflectioncoder.train.compute.loss import micro_batch_loss
from reflectioncoder.train.compute.model_check import check_model
from reflectioncoder.train.compute.packed_attention import boundaries, has_rotary_positions, use_varlen_attention

STEPS, SEED, WINDOW = 10, 7, 12
SIZES: dict[str, Any] = {
    "vocab_size": tiny.VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
ALTERNATING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
NO_DROPOUT = {"embedding_dropout": 0.0, "residual_dropout": 0.0}
EXACT: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("llama", {}),
    "Llama, one key head": ("llama", {"num_key_value_heads": 1}),
    "CodeLlama": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "DeepSeek-Coder": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e5}}),
    "Mistral": ("mistral", {"sliding_window": WINDOW, "head_dim": 8}),
    "Qwen2.5-Coder": ("qwen2", {"tie_word_embeddings": True}),
    "Qwen2, windows": ("qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    "Qwen3": ("qwen3", {"head_dim": 16}),
    "Qwen3, windows": ("qwen3", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    "StarCoder2": ("starcoder2", {"sliding_window": WINDOW, **NO_DROPOUT}),
    "Gemma": ("gemma", {"head_dim": 16, "num_key_value_heads": 1}),
    "Gemma 2": ("gemma2", {"head_dim": 8, "attn_logit_softcapping": 2.0, **ALTERNATING}),
    "Gemma 3": ("gemma3_text", {"head_dim": 8, **ALTERNATING}),
    "Phi-3": ("phi3", {"sliding_window": WINDOW}),
    "Granite": ("granite", {"logits_scaling": 2.0, "attention_multiplier": 0.2}),
    "Cohere 2": ("cohere2", {**ALTERNATING}),
    "SmolLM3": ("smollm3", {"no_rope_layers": [1, 0]}),
    "OLMo 2": ("olmo2", {}),
}
LINEAR = {"linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "linear attention": (
        "qwen3_next",
        {"layer_types": ["linear_attention", "full_attention"], "num_experts": 0, **LINEAR},
        "layers other than causal attention",
    ),
    "convolutions": ("lfm2", {"layer_types": ["conv", "full_attention"]}, "layers other than causal attention"),
    "state spaces": ("mamba", {}, "layers other than causal attention"),
    "chunks": (
        "llama4_text",
        {"attention_chunk_size": 8, "num_local_experts": 2, "intermediate_size_mlp": 48},
        "chunked_attention",
    ),
    "sinks": ("gpt_oss", {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 2}, "s_aux"),
    "ALiBi": ("bloom", {"n_head": 4, "n_layer": 2}, "its own attention"),
    "no boundaries": ("stablelm", {}, "does not pass the boundaries of packed rows on"),
    "a longer head": ("modernbert-decoder", {"local_attention": 8}, "not its output head"),
}


def build(name: str, changes: dict[str, Any], dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**{**SIZES, **changes}))
    with torch.no_grad():  # norms and biases are initialized with ones and zeros, which would hide mistakes
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.rand_like(parameter)
    return model.to(dtype)


def checked(model: PreTrainedModel) -> None:
    use_varlen_attention(model)
    check_model(model)


def samples() -> list[Any]:
    rounds = [("code", 9), ("execution", 8), ("text", 5), ("code", 9), ("execution", 3)]
    return [
        tiny.encoded(rounds, 1, user=9, question=8, answer=15),
        tiny.encoded([], 2, reflection=False, question=9, answer=20),
        tiny.encoded(rounds[:3], 3, answer=9),
    ]


def ours(model: PreTrainedModel, masking: MaskingConfig, step: int) -> tuple[float, dict[str, torch.Tensor]]:
    use_varlen_attention(model, 100)
    rows = [build_rows(sample, masking, "keep", step, STEPS, SEED) for sample in samples()]
    batch = pack(list(zip(rows, loss_weights(rows, LossConfig()), strict=True)))
    return measured(model, micro_batch_loss(model, batch, chunk=7).loss)


def plain(model: PreTrainedModel, masking: MaskingConfig, step: int) -> tuple[float, dict[str, torch.Tensor]]:
    # In transformers, only eager attention supports capped scores.
    attention = "eager" if model.config.model_type == "gemma2" else "sdpa"
    return measured(
        model, reference.loss(model, samples(), masking, LossConfig(), step, STEPS, SEED, attention=attention)[0]
    )


def measured(model: PreTrainedModel, loss: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", EXACT)
def test_loss_and_gradients_equal_the_yardstick(name: str) -> None:
    model = build(*EXACT[name])
    for masking, step in ((MaskingConfig("random"), 5), (MaskingConfig(semantics="release"), 8)):
        left, right = ours(model, masking, step), plain(model, masking, step)
        assert left[0] == pytest.approx(right[0], rel=1e-6)
        assert left[1].keys() == right[1].keys() == dict(model.named_parameters()).keys()
        for parameter, gradient in right[1].items():
            assert (left[1][parameter] - gradient).abs().max() <= 3e-5 * gradient.abs().max(), parameter


@pytest.mark.parametrize("name", [name for name, (_, changes) in EXACT.items() if "sliding_window" in changes])
def test_the_window_matters_in_these_tests(name: str) -> None:
    kind, changes = EXACT[name]
    narrow, wide = build(kind, changes), build(kind, {**changes, "sliding_window": 500})
    assert abs(ours(narrow, MaskingConfig(), 5)[0] - ours(wide, MaskingConfig(), 5)[0]) > 1e-3


@pytest.mark.parametrize("name", ["Llama", "Qwen2, windows", "Gemma 2", "Gemma 3", "StarCoder2"])
def test_bfloat16_is_as_near_the_exact_loss_as_the_yardstick_is(name: str) -> None:
    model = build(*EXACT[name])
    exact = plain(model, MaskingConfig(), 5)
    model = model.to(torch.bfloat16)

    def error(found: tuple[float, dict[str, torch.Tensor]]) -> float:
        gaps = [(found[1][name].double() - gradient).norm() / gradient.norm() for name, gradient in exact[1].items()]
        return max(abs(found[0] / exact[0] - 1), *(gap.item() for gap in gaps))

    assert error(ours(model, MaskingConfig(), 5)) < 1.5 * error(plain(model, MaskingConfig(), 5)) + 0.01


@pytest.mark.parametrize("name", EXACT)
def test_they_pass_the_probe_and_only_differences_of_positions_matter(name: str) -> None:
    model = build(*EXACT[name])
    checked(model)
    assert has_rotary_positions(model)
    ids, places = torch.arange(9, 39)[None], torch.tensor([[*range(10), *range(15, 35)]])

    def run(places: torch.Tensor) -> torch.Tensor:
        rows = boundaries(torch.tensor([0, 30], dtype=torch.int32), 30, places[0])
        return model(input_ids=ids, position_ids=places, use_cache=False, **rows).logits

    assert (run(places + 50) - run(places)).abs().max() < 1e-3 * run(places).abs().max()
    assert (run(torch.arange(30)[None]) - run(places)).abs().max() > 1e-2 * run(places).abs().max()


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_exactly_is_refused(name: str) -> None:
    kind, changes, message = REFUSED[name]
    model = build(kind, changes, torch.float32)
    with pytest.raises(UserError, match=message) as caught:
        checked(model)
    assert "\n" not in str(caught.value)


def test_positions_that_depend_on_the_longest_row_are_refused_beyond_the_known_length() -> None:
    model = build("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}})
    use_varlen_attention(model, 512)
    with pytest.raises(UserError, match="set max_length to at most 512"):
        use_varlen_attention(model, 513)


def test_rows_beyond_the_position_embeddings_are_refused() -> None:
    model = tiny.gpt2()
    use_varlen_attention(model, 512)
    with pytest.raises(UserError, match="embeddings for 512 positions only; set max_length to at most 512"):
        use_varlen_attention(model, 513)


def test_a_layer_that_keeps_its_window_to_itself_is_refused() -> None:
    model = build(*EXACT["Gemma 3"])
    use_varlen_attention(model)
    model.model.layers[0].self_attn.sliding_window = None
    with pytest.raises(UserError, match="does not pass on"):
        check_model(model)


def test_a_leak_between_rows_and_a_model_that_looks_ahead_are_refused() -> None:
    model = build(*EXACT["Llama"])
    use_varlen_attention(model)
    norm = model.model.norm

    class Leaking(torch.nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return norm(hidden + hidden.mean(1, keepdim=True))

    model.model.norm = Leaking()
    with pytest.raises(UserError, match="tokens of one packed row affect another row"):
        check_model(model)
    model.model.norm = norm
    check_model(model)
    model.model.layers[1].self_attn.is_causal = False
    with pytest.raises(UserError, match="attends to later tokens"):
        check_model(model)
