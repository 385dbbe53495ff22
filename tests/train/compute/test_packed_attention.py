"""Packed causal attention equals attention computed row by row, and rejects what it does not support."""

from __future__ import annotations

from itertools import accumulate

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reflectioncoder.errors import UserError
from reflectioncoder.train.compute.packed_attention import (
    _blocks,
    boundaries,
    has_rotary_positions,
    use_varlen_attention,
    varlen_attention,
)

LAYER = torch.nn.Identity()


def states(
    length: int, heads: int = 4, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    query = torch.randn(1, 4, length, 8, generator=generator, dtype=dtype)
    return query, *(torch.randn(1, heads, length, 8, generator=generator, dtype=dtype) for _ in range(2))


def bounds(lengths: list[int]) -> dict[str, object]:
    return boundaries(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), max(lengths))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.sampled_from([1, 2, 4]))
def test_equals_masked_softmax_written_out(lengths: list[int], heads: int) -> None:
    query, key, value = states(sum(lengths), heads)
    found, weights = varlen_attention(LAYER, query, key, value, None, scaling=0.3, **bounds(lengths))
    assert weights is None
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    visible = (owner[:, None] == owner[None]) & torch.ones(len(owner), len(owner)).tril().bool()
    for h in range(4):
        kv = h * heads // 4
        scores = (query[0, h] @ key[0, kv].T * 0.3).masked_fill(~visible, -torch.inf)
        assert (scores.softmax(-1) @ value[0, kv] - found[0, :, h]).abs().max() < 1e-12


def test_a_row_does_not_feel_its_neighbours_even_with_gaps_in_positions() -> None:
    model = tiny.llama()
    use_varlen_attention(model)
    ids = torch.arange(9, 21)[None]
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 5, 6, 9, 10, 11]])

    def run(ids: torch.Tensor, positions: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        return model(input_ids=ids, position_ids=positions, use_cache=False, **bounds(lengths)).logits[0]

    together = run(ids, positions, [5, 7])
    assert (together[5:] - run(ids[:, 5:], positions[:, 5:], [7])).abs().max() < 1e-12
    assert (together[:5] - run(ids[:, :5], positions[:, :5], [5])).abs().max() < 1e-12
    other = ids.clone()
    other[0, :5] = 40
    assert (run(other, positions, [5, 7])[5:] - together[5:]).abs().max() == 0
    # A gap in positions is not a boundary: tokens after it still attend to tokens before it.
    other = ids.clone()
    other[0, 5] = 40
    assert (run(other, positions, [5, 7])[11] - together[11]).abs().max() > 1e-6


def written_out(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor, softcap: float = 0.0
) -> torch.Tensor:
    """Masked softmax attention [1, T, heads, D], computed head by head."""
    heads = []
    for h in range(query.shape[1]):
        kv = h * key.shape[1] // query.shape[1]
        scores = query[0, h] @ key[0, kv].T * query.shape[-1] ** -0.5
        scores = softcap * torch.tanh(scores / softcap) if softcap else scores
        heads.append(scores.masked_fill(~visible, -torch.inf).softmax(-1) @ value[0, kv])
    return torch.stack(heads, dim=1)[None]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=90), min_size=1, max_size=3),
    st.integers(1, 120),
    st.sampled_from([0.0, 1.5]),
)
def test_windows_are_counted_in_positions(steps: list[list[int]], window: int, softcap: float) -> None:
    lengths = [len(row) for row in steps]
    places = torch.tensor([place for row in steps for place in accumulate(row)])
    query, key, value = states(sum(lengths), 2)
    rows = boundaries(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), max(lengths), places)
    arguments = {"sliding_window": window, "softcap": softcap, **rows}
    found = varlen_attention(LAYER, query, key, value, None, **arguments)[0]
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    order = torch.arange(len(owner))
    visible = (owner[:, None] == owner) & (order[:, None] >= order) & (places[:, None] - places < window)
    assert (found - written_out(query, key, value, visible, softcap)).abs().max() < 1e-12


def test_a_window_costs_no_more_keys_than_it_has() -> None:
    places = torch.arange(5000)
    blocks = list(_blocks(places, 300))
    assert [(a, b) for a, b, _, _ in blocks] == [(a, min(a + 300, 5000)) for a in range(0, 5000, 300)]
    assert max(seen.shape[1] for *_, seen in blocks) < 600


def test_missing_boundaries_and_unknown_scores_are_refused() -> None:
    query, key, value = states(3)
    with pytest.raises(UserError, match="cu_seq_lens_q"):
        varlen_attention(LAYER, query, key, value, None)
    with pytest.raises(UserError, match="s_aux"):
        varlen_attention(LAYER, query, key, value, None, s_aux=torch.zeros(4), **bounds([3]))


def test_rotary_models_are_told_from_absolute_ones() -> None:
    assert has_rotary_positions(tiny.llama())
    assert not has_rotary_positions(tiny.gpt2())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU with PyTorch for CUDA")
@pytest.mark.parametrize("window", [0, 20])
@pytest.mark.parametrize("gap", [0, 9])
@pytest.mark.parametrize("heads", [4, 2])
def test_the_cuda_kernel_equals_the_loop(heads: int, gap: int, window: int) -> None:
    lengths = [5, 1, 130]
    query, key, value = states(sum(lengths), heads)
    places = torch.tensor([*range(5), 0, *range(100), *range(100 + gap, 130 + gap)])
    edges = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    arguments: dict[str, object] = {"sliding_window": window or None}
    slow = varlen_attention(LAYER, query, key, value, None, **arguments, **boundaries(edges, 130, places))[0]
    low = [part.cuda().bfloat16() for part in (query, key, value)]
    there = boundaries(edges.cuda(), 130, places.cuda())
    fast = varlen_attention(LAYER, *low, None, **arguments, **there)[0]
    assert (fast.double().cpu() - slow).abs().max() < 0.03
