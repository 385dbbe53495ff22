"""A micro model is made once, of documents that leave tuning something to teach, and the other commands take it."""

from __future__ import annotations

import dataclasses
import math
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reflectioncoder.cli.main import main
from reflectioncoder.config.pretrain import PretrainConfig
from reflectioncoder.dialogues.dialogue import instruction_dialogue
from reflectioncoder.dialogues.tokens import decode_dialogue, encode_dialogue
from reflectioncoder.errors import UserError
from reflectioncoder.models.load import load_model_and_tokenizer
from reflectioncoder.models.micro import micro_folder
from reflectioncoder.models.special_tokens import add_special_tokens
from reflectioncoder.pretrain import pretrain as pretraining
from reflectioncoder.pretrain.documents import debugging_documents, documents
from reflectioncoder.pretrain.pretrain import make_tokenizer, pretrain, rate, rows

pytestmark = pytest.mark.slow

SMALL = PretrainConfig(
    tokens=120_000, sequences=2, layers=1, width=32, heads=2, vocabulary=400, batch_tokens=1024, learning_rate=1e-2
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a very small micro model."""
    return pretrain(dataclasses.replace(SMALL, output=str(tmp_path_factory.mktemp("micro") / "model")), lambda _: None)


def test_new_parts_are_in_no_document() -> None:
    texts = list(islice(documents(PretrainConfig(), []), 1500))
    whole = "\n".join(texts)
    for words in ("average", "rounding down", "between", "descending", "remainder", "different values"):
        assert words not in whole
    for words in ("are even", "the sum of", "return sorted(", "absolute"):
        assert words in whole
    assert "/ len(" not in whole and "!= 4" not in whole


@pytest.mark.slow
def test_debugging_is_shown_in_parts_and_with_its_share_of_the_text() -> None:
    seen: list[int] = []
    parts = debugging_documents(dataclasses.replace(SMALL, sequences=3), seen.append)
    assert seen == [1, 2, 3]
    programs = [text for text in parts if text.startswith("```python\n")]
    assert len(programs) >= 6 and all("assert " in text for text in programs)
    assert any("Error" in text.rpartition("```")[2] for text in programs)
    assert all(text.count("```") == 2 for text in programs)  # a program and its output, but not its repair
    texts = list(islice(documents(dataclasses.replace(SMALL, share=0.3), parts), 2000))
    shown = sum(len(text) for text in texts if text in parts) / sum(map(len, texts))
    assert shown == pytest.approx(0.3, abs=0.02)


def test_rows_hold_all_documents_and_digits_stand_alone() -> None:
    texts = list(islice(documents(SMALL, []), 700))
    tokenizer = make_tokenizer(iter(texts), 400)
    assert [tokenizer.decode([id]) for id in tokenizer.encode("1234", add_special_tokens=False)] == list("1234")
    found = list(islice(rows(iter(texts), tokenizer, 64), 100))
    assert {len(row) for row in found} == {64}
    stream = tokenizer.decode([id for row in found for id in row])
    assert "".join(f"<s>{text}</s>" for text in texts).startswith(stream[:5000])


def test_the_learning_rate_rises_and_falls_to_a_tenth() -> None:
    factors = [rate(step, 200) for step in range(200)]
    assert factors[:3] == [0.1, 0.2, 0.3] and factors[9] == 1.0
    assert factors[-1] == pytest.approx(0.1, abs=0.001)
    assert factors[9:] == sorted(factors[9:], reverse=True)


def test_the_model_has_learnt_more_than_how_often_tokens_occur(made: Path) -> None:
    model, tokenizer = load_model_and_tokenizer(str(made))
    texts = list(islice(documents(dataclasses.replace(SMALL, seed=5), []), 40))
    ids = [id for text in texts for id in tokenizer.encode(text)]
    counts = torch.bincount(torch.tensor(ids), minlength=len(tokenizer)).double()
    chances = counts[counts > 0] / counts.sum()
    unigram = float(-(chances * chances.log()).sum())
    rows = torch.tensor(ids[: len(ids) // 128 * 128]).view(-1, 128)
    with torch.no_grad():
        loss = model(input_ids=rows, labels=rows).loss.item()
    assert loss < unigram < math.log(len(tokenizer))


def test_dialogues_pass_through_its_tokenizer_unchanged(made: Path) -> None:
    model, tokenizer = load_model_and_tokenizer(str(made))
    assert add_special_tokens(model, tokenizer) == 7
    dialogue = instruction_dialogue("Sum `x`, 12 times, \u00fc!", "```python\ndef f(x):\n    return 12 * sum(x)\n```")
    assert decode_dialogue(encode_dialogue(dialogue, tokenizer).ids, tokenizer).messages == dialogue.messages


def test_a_model_is_made_once_and_never_over_something_else(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REFLECTIONCODER_CACHE", str(tmp_path))
    assert main(["train", "--model", "micro", "--data", "x.jsonl"]) == 2
    assert "model micro: is not made yet; run: reflectioncoder pretrain" in capsys.readouterr().err
    folder = micro_folder(PretrainConfig())
    folder.symlink_to(made)
    assert pretrain(PretrainConfig(), lambda _: None) == folder
    assert load_model_and_tokenizer("micro")[0].config.hidden_size == 32
    assert micro_folder(PretrainConfig(seed=1)) != folder != micro_folder(PretrainConfig(tokens=5))
    with pytest.raises(UserError, match="exists already"):
        pretrain(dataclasses.replace(SMALL, output=str(made)), lambda _: None)


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "STATE_SECONDS", 0.0)
    monkeypatch.setattr(pretraining, "REPORT_SECONDS", 0.0)
    config = dataclasses.replace(SMALL, output=str(tmp_path / "model"))

    def interrupt(line: str) -> None:
        if line.startswith("step 40 "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(config, interrupt)
    assert not (tmp_path / "model").exists()
    said: list[str] = []
    folder = pretrain(config, said.append)
    assert not any("debugging sequences" in line for line in said)  # they are not built again
    assert "continuing after step 40" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    for name, weight in load_file(folder / "model.safetensors").items():
        assert torch.equal(weight, load_file(made / "model.safetensors")[name]), name


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"family": "x"}, "generator of problems 'x'"),
        ({"layers": 0}, "layers = 0"),
        ({"width": 30}, "multiple of twice"),
        ({"share": 1.0}, "share"),
        ({"vocabulary": 100}, "vocabulary = 100"),
        ({"levels": (7,)}, "levels"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_runs(
    setting: dict[str, object], message: str, tmp_path: Path
) -> None:
    config = dataclasses.replace(SMALL, output=str(tmp_path / "model"), **setting)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        pretrain(config, lambda _: None)
    assert not list(tmp_path.iterdir())
