"""Sampling a problem until the first accepted sequence, and budgets for a local model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blocks import REMARK, Format, answer, bad, code, config, final, good, rejects, run, spoken, text

from reflectioncoder.cli.main import main
from reflectioncoder.config.build import BuildConfig
from reflectioncoder.config.toml import to_toml
from reflectioncoder.construct.conversation.samples import sample_id, sample_of
from reflectioncoder.construct.ledger.ledger import progress
from reflectioncoder.construct.samplers import native
from reflectioncoder.dialogues.dialogue import read_jsonl
from reflectioncoder.errors import UserError
from reflectioncoder.models.decode import Decoded, More

FIRST_GOOD = {0: 1, 1: 3, 2: 5, 3: 2}  # by problem: the first of its four samples that is a sequence; 5 means none


class Model:
    """Replaces decoding. A problem's samples are sequences from the first good one on; earlier ones contain no code."""

    def __init__(self, model: str) -> None:
        self.known = Format(model)
        self.asked: list[tuple[str, int]] = []  # sample, turn
        self.breaks: Callable[[], bool] = lambda: False

    def __call__(self, more: More) -> Iterator[Decoded]:
        while (requests := more(True)) is not None:
            for request in requests:
                sample, _, turn = request.task_id.partition(":")
                self.asked.append((sample, int(turn)))
                if self.breaks():
                    raise MemoryError("no room")
                problem, number = sample_of(sample) if "#" in sample else (sample, 9)
                k = int(problem[1:])
                says = [code(bad(k)), code(good(k)), text(REMARK), answer(final(k))]
                if number < FIRST_GOOD[k]:
                    says = [text("No.")]
                yield spoken(request, says[int(turn)], self.known)


@pytest.fixture
def decoding(model: str, monkeypatch: pytest.MonkeyPatch) -> Model:
    stand_in = Model(model)
    monkeypatch.setattr(native, "load_backend", lambda *_: (stand_in, 10_000))
    return stand_in


def sampled(folder: Path, model: str, output: str = "out", **changes: Any) -> BuildConfig:
    known = {"samples": 4, "keep": "first", "temperature": 1.0}
    return config(folder, model, list(FIRST_GOOD), output, **{**known, **changes})


def test_an_id_of_a_sample_is_read_back() -> None:
    assert sample_of(sample_id("p0#2", 13)) == ("p0#2", 13)


@pytest.mark.parametrize("batch_size", [1, 64])
def test_a_problem_is_sampled_up_to_its_first_sequence(
    tmp_path: Path, model: str, decoding: Model, batch_size: int
) -> None:
    settings = sampled(tmp_path, model, batch_size=batch_size)
    result = run(settings)
    assert [dialogue.extra["id"] for dialogue in read_jsonl(result.path)] == ["p0#1", "p1#3", "p3#2"]
    assert result.funnel == {"problems": 16, "no_code": 2 + 4 + 1, "not_needed": 3 + 1 + 2, "sequences": 3}
    assert {sample for sample, _ in decoding.asked} == {
        "p0#1", "p1#1", "p1#2", "p1#3", "p2#1", "p2#2", "p2#3", "p2#4", "p3#1", "p3#2",
    }  # fmt: skip
    assert rejects(settings.output)["p1#4"]["reason"] == "not_needed"


def test_all_samples_are_kept_where_nothing_else_is_asked(tmp_path: Path, model: str, decoding: Model) -> None:
    result = run(sampled(tmp_path, model, keep="all"))
    assert result.funnel == {"problems": 16, "no_code": 7, "sequences": 9}


def test_cut_off_it_goes_on_without_sampling_what_was_accepted(tmp_path: Path, model: str, decoding: Model) -> None:
    settings = sampled(tmp_path, model, batch_size=1)
    decoding.breaks = lambda: progress(settings.output).done >= 1
    with pytest.raises(UserError, match="decoding failed"):
        run(settings)
    decoding.breaks = lambda: False
    accepted = {sample_of(sample)[0] for sample, turn in decoding.asked if turn == 3}  # turn 3 is the last answer
    first = len(decoding.asked)
    result = run(settings)
    assert accepted
    assert not accepted & {sample_of(sample)[0] for sample, _ in decoding.asked[first:]}
    assert result.funnel == {"problems": 16, "no_code": 7, "not_needed": 6, "sequences": 3}
    again = sampled(tmp_path, model, "whole")
    run(again)
    kept = [Path(made.output, "sequences.jsonl").read_text() for made in (settings, again)]
    ids = [[json.loads(line)["id"] for line in lines.splitlines()] for lines in kept]
    assert ids[0] == ids[1]


def test_budgets_hold_for_a_model_on_this_machine(
    tmp_path: Path, model: str, decoding: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(tmp_path, model, [0, 1, 2, 3])

    def verb(**chat: Any) -> list[str]:
        limited = dataclasses.replace(settings, chat=dataclasses.replace(settings.chat, **chat))
        (tmp_path / "c.toml").write_text(to_toml(limited))
        return ["build", "--config", str(tmp_path / "c.toml")]

    assert main(verb(budget_requests=6)) == 1  # no sequence yet
    printed = capsys.readouterr()
    assert "stopped: the budget of 6 requests is spent; " in " ".join(printed.out.split())
    assert not printed.err
    assert len(decoding.asked) == 6
    spent = progress(settings.output)
    assert spent.requests == 6
    limit = spent.tokens_in + spent.tokens_out + 1000
    assert main(verb(budget_tokens=limit)) == 0
    assert "tokens is spent" in " ".join(capsys.readouterr().out.split())
    spent = progress(settings.output)
    assert 6 < spent.requests < 16
    assert spent.tokens_in + spent.tokens_out <= limit
    assert main(verb()) == 0
    assert progress(settings.output).done == 4
    assert len(decoding.asked) == 16  # four answers per problem, none requested twice


def test_a_model_on_this_machine_has_no_price(tmp_path: Path, model: str) -> None:
    settings = config(tmp_path, model, [0])
    priced = dataclasses.replace(settings.chat, budget_money=1.0, prices=(f"{model}=1/1",))
    with pytest.raises(UserError, match=r"budget_money: a model on this machine has no price; set chat\.budget_tokens"):
        run(dataclasses.replace(settings, chat=priced))
