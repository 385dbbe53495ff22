"""Every row of the paper's ablations, as docs/studies.md lists it, trains what a dense implementation says."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path

import pytest
import reference_trainer as reference
import tiny
import torch
from places import ROOT
from training import log, quiet
from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from reflectioncoder.config.toml import load
from reflectioncoder.config.train import TrainConfig
from reflectioncoder.dialogues.dialogue import Block, instruction_dialogue, reflection_dialogue, write_jsonl
from reflectioncoder.dialogues.tokens import Encoded
from reflectioncoder.models.special_tokens import add_special_tokens
from reflectioncoder.train.batch.rows import last_round
from reflectioncoder.train.batch.steps import TrainSteps, prepare
from reflectioncoder.train.compute.divergence import Distance
from reflectioncoder.train.compute.loss import micro_batch_loss
from reflectioncoder.train.compute.packed_attention import use_varlen_attention
from reflectioncoder.train.data import read_dialogues
from reflectioncoder.train.train import train

PAGE = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
MODELS = {"codellama/CodeLlama-7b-Python-hf": "rotary", "bigcode/starcoder": "absolute"}
SOURCES = ("gpt4.jsonl", "deepseek.jsonl", "instructions.jsonl")
STEPS = 9
CODE, RUN, WHY = Block("code", "assert 1"), Block("execution", "Error"), Block("text", "off")


def rows() -> dict[str, str]:
    """The settings of each row by "table: row"."""
    found: dict[str, str] = {}
    for part in PAGE.partition("## Settings of each row")[2].partition("\n## ")[0].split("\n### ")[1:]:
        for name, settings in re.findall(r"^\| (.+?) \| `(.+)` \|$", part, flags=re.MULTILINE):
            found[f"{part.splitlines()[0]}: {name}"] = settings
    return found


ROWS = rows()


def configuration(settings: str, base: Path, **changes: object) -> TrainConfig:
    """What the command line would make of a row, with tiny models in the place of the real ones."""
    flags = dict(re.findall(r"--(\S+) (\S+)", settings))
    assert " ".join(f"--{key} {value}" for key, value in flags.items()) == settings
    config = load(TrainConfig, None, {"data": ",".join(SOURCES), "max_steps": str(STEPS), **flags})
    usual = {
        "model": str(base / MODELS.get(config.model, "rotary")),
        "data": tuple(str(base / name) for name in config.data),
        "batch_size": 4, "micro_tokens": 300, "precision": "float32", "device": "cpu", "save_steps": 0,
    }  # fmt: skip
    return dataclasses.replace(config, **{**usual, **changes})  # type: ignore[arg-type]


def absolute(dtype: torch.dtype) -> PreTrainedModel:
    """A tiny model of StarCoder's architecture."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 258, "n_positions": 512, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 1}
    return GPTBigCodeForCausalLM(GPTBigCodeConfig(**sizes, **off)).to(dtype)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny.save(folder / "rotary", tiny.llama(258, dtype=torch.float32))
    tiny.save(folder / "absolute", absolute(torch.float32))
    sequences = [
        reflection_dialogue(f"say {i}, tested", [CODE, RUN, WHY, CODE, RUN][: 3 + 2 * (i % 2)], f"say {i}", f"p({i})")
        for i in range(4)
    ]
    write_jsonl(folder / "gpt4.jsonl", sequences[:2])
    write_jsonl(folder / "deepseek.jsonl", sequences[2:])
    write_jsonl(folder / "instructions.jsonl", [instruction_dialogue(f"say {i}", f"p({i})") for i in range(6)])
    return folder


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    found = tiny.tokenizer()
    add_special_tokens(tiny.llama(258), found)
    return found


def dense(samples: list[Encoded], config: TrainConfig) -> list[Encoded]:
    """What the reference implementation gets: the objective applied to whole samples, by the words of the table."""
    if config.objective == "instruction":
        return [last_round(sample) for sample in samples]
    if config.loss.teacher_only:
        return [dataclasses.replace(sample, is_reflection=False) for sample in samples]
    return samples


def test_the_tables_have_all_rows_of_the_paper() -> None:
    tables = Counter(name.split(":")[0] for name in ROWS)
    # Table 2 has nine rows, two of which have two readings; table 7 has four, and two rebased ones of ours.
    assert tables["Table 2"] == 9 + 2 and tables["Table 3"] == 6 and tables["Table 7"] == 4 + 2
    assert tables["Table 8"] == 4 and tables["Figure 4"] == 5
    orders = {settings.split()[-1] for name, settings in ROWS.items() if name.startswith("Table 3")}
    letters = {"E": "execution", "A": "text", "C": "code"}
    named = {",".join(letters[x] for x in name[-3:]) for name in ROWS if name.startswith("Table 3")}
    assert len(orders) == 6 and named == orders


# Steps made of own answers are compared with dense ones in test_on_policy.py.
@pytest.mark.parametrize("row", [row for row, settings in ROWS.items() if "on_policy" not in settings])
def test_the_batches_of_each_row_are_those_of_a_dense_construction(
    base: Path, words: PreTrainedTokenizerFast, row: str
) -> None:
    config = configuration(ROWS[row], base)
    model = absolute(torch.float64) if "absolute" in config.model else tiny.llama(258)
    model.resize_token_embeddings(len(words), mean_resizing=False)
    dialogues = read_dialogues(config, config.data, quiet)[0]
    samples, repeats, _ = prepare(dialogues, words, config)
    whole = prepare(dialogues, words, dataclasses.replace(config, objective="reflection"), to_train_on=False)[0]
    steps = TrainSteps(samples, repeats, config)
    distance = Distance(config.loss.divergence, config.loss.temperature)
    for step in sorted({0, len(steps) // 2 + 1, len(steps) - 1}):
        use_varlen_attention(model)
        model.zero_grad()
        total = 0.0
        for batch in steps[step].micro_batches:
            loss = micro_batch_loss(model, batch, distance=distance).loss
            loss.backward()
            total += loss.item()
        gradient = next(model.parameters()).grad.clone()  # type: ignore[union-attr]
        model.zero_grad()
        chosen = dense([whole[i] for i in steps.plan[step]], config)
        rest = (step, len(steps), config.seed, config.positions == "rebase")
        value, _ = reference.loss(model, chosen, config.masking, config.loss, *rest)
        value.backward()
        assert total == pytest.approx(value.item(), abs=1e-9)
        assert (gradient - next(model.parameters()).grad).abs().max() < 1e-9


@pytest.mark.parametrize(("factor", "row"), [(n, f"Figure 4: factor {n}") for n in range(1, 6)])
def test_an_epoch_holds_sequences_as_often_as_the_factor(
    base: Path, words: PreTrainedTokenizerFast, factor: int, row: str
) -> None:
    config = configuration(ROWS[row], base, max_steps=-1, epochs=1.0)
    samples, repeats, _ = prepare(read_dialogues(config, config.data, quiet)[0], words, config)
    seen = Counter(i for chosen in TrainSteps(samples, repeats, config).plan for i in chosen)
    assert [seen[i] for i in range(10)] == [factor] * 4 + [1] * 6


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_each_row_trains_a_step(base: Path, tmp_path: Path, row: str) -> None:
    config = configuration(ROWS[row], base, output=str(tmp_path / "out"), max_steps=1)
    result = train(config, quiet)
    assert result.steps == len(log(tmp_path / "out")) == 1
    assert load(TrainConfig, tmp_path / "out" / "config.toml") == config
