"""The report is one page made from whichever files exist, and no content of a sequence can break it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reflectioncoder.cli.main import main
from reflectioncoder.config.build import BuildConfig
from reflectioncoder.config.toml import save
from reflectioncoder.config.train import TrainConfig
from reflectioncoder.dialogues.dialogue import Block, reflection_dialogue, write_jsonl
from reflectioncoder.errors import UserError
from reflectioncoder.report.charts import Line, binned, line_chart
from reflectioncoder.report.page import commands, comparisons, duration_text, percent, render, write_report
from reflectioncoder.report.run_files import Found, choose_examples, funnel, read_run, score, stages, steps_of

VOID = {"meta", "link", "br", "img", "hr", "input"}
ATTACK = '</pre><script>alert("1")</script><img src=x onerror=alert(2)> {{ 7 * 7 }} &amp; \ud800 \x1b[31m'
SUMMARY: dict[str, Any] = {
    "sequences": 1234,
    "heldout": {
        "before": {"pass_at_1": 0.145, "low": 0.103, "high": 0.2004, "n": 200},
        "instruction_tuned": {"pass_at_1": 0.565, "low": 0.4957, "high": 0.6318, "n": 200},
        "after": {"pass_at_1": 0.635, "low": 0.5664, "high": 0.6986, "n": 200},
    },
    "handwritten": {"before": {"pass_at_1": 0.21, "low": 0.15, "high": 0.28, "n": 157}},
    "humaneval": {"after": {"pass_at_1": 0.128, "low": 0.085, "high": 0.188, "n": 164}},
    "seconds": {"build": 41.25, "train after": 151.5, "evaluate after heldout": 107.25},
    "peak_mb": 2345.6,
    "training_tokens": {"after": 60044, "instruction_tuned": 60012},
    "comparisons": {
        "heldout: after against instruction_tuned": {
            "n": 200, "difference": 0.07, "low": -0.005, "high": 0.145, "only_first": 20, "only_second": 34,
            "p_value": 0.076,
        }
    },
}  # fmt: skip


class Page(HTMLParser):
    """Elements, attributes and text of a page; fails if tags are not properly nested and closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))

    @property
    def headings(self) -> set[str]:
        return {value for _, name, value in self.attributes if name == "aria-labelledby"}


def page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def rows(student: bool, steps: int = 12) -> list[dict[str, float]]:
    made = []
    for step in range(1, steps + 1):
        row = {"step": step, "loss": 2.5 / step, "teacher_ce": 1.5 / step, "student_ce": 0.0, "kl": 0.0}
        if student:
            row |= {"student_ce": 1.0 / step, "kl": 0.1, "mask_rate": step / steps}
        made.append({**row, "tokens": 100 * step, "tokens_per_second": 240.0 + step})
    return made


def write_log(folder: Path, lines: list[dict[str, float]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def sequence(rounds: int, name: str = "p", text: str = "Let me think.") -> Any:
    blocks = [
        block
        for number in range(rounds)
        for block in (Block("text", text), Block("code", f"x = {number}"), Block("execution", ""))
    ]
    return reflection_dialogue("Solve it.", blocks, "Solve it.", "x = 1", id=name)


def write_build(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    table = {"problems": 2000, "no_mutant": 700, "near_duplicate": 66, "sequences": 1234}
    (folder / "funnel.json").write_text(json.dumps(table), encoding="utf-8")
    write_jsonl(folder / "sequences.jsonl", [sequence(1, "one"), sequence(2, "two"), sequence(3, "three")])
    save(BuildConfig(count=2000), folder)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A directory like the output of `demo`."""
    folder = tmp_path / "demo"
    write_build(folder / "build")
    write_log(folder / "train" / "reflection", rows(student=True))
    write_log(folder / "train" / "instruction", rows(student=False))
    save(TrainConfig(model="some-model"), folder / "train" / "reflection")
    (folder / "summary.json").write_text(json.dumps(SUMMARY), encoding="utf-8")
    return folder


def test_page_of_a_whole_run_has_every_section_and_is_well_formed(run: Path) -> None:
    found = page(write_report(run))
    assert found.headings == {"scores", "funnel", "example", "training", "stages", "made"}
    assert found.tags.count("svg") == 4  # losses, mask rate, loss of instruction tuning, speed
    assert found.tags.count("table") == found.tags.count("caption") == 3 + 2 + 1  # two logs, one versions table
    labels = [value for tag, name, value in found.attributes if tag == "figure" and name == "aria-label"]
    assert len(labels) == 4 and all(labels)
    ids = [value for _, name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_numbers_of_the_summary_are_on_the_page(run: Path) -> None:
    words = page(write_report(run)).words
    for text in ("14.5 %", "56.5 %", "63.5 %", "49.6–63.2 %", "n = 157", "12.8 %", "1,234", "2,346", "60,044"):
        assert text in words
    assert "5.0 minutes total" in words  # (41.25 + 151.5 + 107.25) / 60
    assert "41.2" in words and "151.5" in words and "300.0" in words
    assert "held-out: after against instruction-tuned: +7.0 points" in words
    assert "34 problems gained, 20 lost" in words and "p = 0.076" in words
    assert "some-model fine-tuned for 12 steps" in words


def test_page_asks_for_nothing_outside_itself(run: Path) -> None:
    text = write_report(run).read_text(encoding="utf-8")
    assert "://" not in text and "@import" not in text and "<script" not in text
    for _, name, value in Page(text).attributes:
        if name in ("src", "href", "xlink:href", "data", "poster", "srcset"):
            assert value.startswith(("#", "data:"))
    targets = re.findall(r"url\(#([^)]*)\)", text)
    assert targets and all(f'id="{target}"' in text for target in targets)


def test_text_of_sequences_and_keys_cannot_break_out(tmp_path: Path) -> None:
    line = sequence(2, ATTACK, ATTACK).to_dict()
    (tmp_path / "sequences.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    (tmp_path / "funnel.json").write_text(json.dumps({"problems": 2, ATTACK: 1, "sequences": 1}), encoding="utf-8")
    summary = {ATTACK: {ATTACK: {"pass_at_1": 0.5}}, "comparisons": {ATTACK: ATTACK}, "seconds": {ATTACK: 1}}
    (tmp_path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    write_log(tmp_path / "train" / "<i>&", rows(student=True))
    found = page(write_report(tmp_path))
    assert not {"script", "img", "i>&"} & set(found.tags)
    assert not any(name.startswith("on") for _, name, _ in found.attributes)
    assert '</pre><script>alert("1")</script>' in found.words  # shown as text
    assert "{{ 7 * 7 }}" in found.words and "␛[31m" in found.words


@settings(max_examples=40, deadline=None)
@given(st.text())
def test_any_content_gives_a_well_formed_page(content: str) -> None:
    found = Found(Path("somewhere"), examples=[sequence(2, content, content)])
    shown = Page(render(found))
    assert shown.tags.count("pre") == 6 + 2 * bool(content.strip())  # two users, two codes, the answer, the commands
    assert shown.tags.count("div") == Page(render(Found(Path("x"), examples=[sequence(2, "p", "q")]))).tags.count("div")


def test_two_runs_give_the_same_bytes(run: Path) -> None:
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first  # the page of the first call is not read as input


@pytest.mark.parametrize(
    ("gone", "section", "note"),
    [
        ("summary.json", "stages", "summary.json is missing"),
        ("build/funnel.json", "funnel", "funnel.json is missing"),
        ("build/sequences.jsonl", "example", "build/sequences.jsonl is missing"),
    ],
)
def test_a_missing_file_costs_its_section_and_is_named(run: Path, gone: str, section: str, note: str) -> None:
    before = page(write_report(run)).headings
    (run / gone).unlink()
    found = page(write_report(run))
    assert section in before and section not in found.headings
    assert "missing" in found.headings and note in found.words


@pytest.mark.parametrize("broken", ["{", "[1]", "\xff", '{"sequences": "x", "heldout": [1], "seconds": 3}'])
def test_broken_files_never_stop_the_page(run: Path, broken: str) -> None:
    for name in ("summary.json", "build/funnel.json", "build/sequences.jsonl", "build/config.versions.json"):
        (run / name).write_bytes(broken.encode("latin-1"))
    found = page(write_report(run))
    assert {"training", "made", "missing"} <= found.headings and "example" not in found.headings


def test_plain_build_train_and_evaluate_directories(tmp_path: Path) -> None:
    write_build(tmp_path / "b")
    words = page(write_report(tmp_path / "b"))
    assert {"funnel", "example", "made"} <= words.headings and "training" not in words.headings
    assert "1,234 reflection sequences built by running code from 2,000 problems" in words.words
    write_log(tmp_path / "t", rows(student=False))
    save(TrainConfig(objective="instruction"), tmp_path / "t")
    assert "Loss, instruction arm" in page(write_report(tmp_path / "t")).words
    (tmp_path / "e").mkdir()
    value = {"task": "humaneval", "pass_at_1": 0.25, "low": 0.2, "high": 0.3, "n": 164}
    (tmp_path / "e" / "score.json").write_text(json.dumps(value), encoding="utf-8")
    assert "HumanEval this run 25.0 % 20.0–30.0 %" in page(write_report(tmp_path / "e")).words


def test_scores_of_the_evaluations_fill_what_the_summary_lacks(tmp_path: Path) -> None:
    for arm, rate in (("before", 0.1), ("after", 0.4)):
        folder = tmp_path / "evaluate" / arm / "heldout"
        folder.mkdir(parents=True)
        (folder / "score.json").write_text(json.dumps({"pass_at_1": rate, "n": 10}), encoding="utf-8")
    (tmp_path / "summary.json").write_text(json.dumps({"heldout": {"before": {"pass_at_1": 0.2}}}), encoding="utf-8")
    found = read_run(tmp_path).scores["heldout"]
    assert {arm: score.rate for arm, score in found.items()} == {"before": 0.2, "after": 0.4}


def test_nothing_usable_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.jsonl").write_text("no json\n", encoding="utf-8")
    with pytest.raises(UserError, match="nothing to report on in"):
        write_report(tmp_path)
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "nowhere is not a directory" in error
    assert not (tmp_path / "report.html").exists()


def test_the_page_of_a_study_is_not_replaced(run: Path) -> None:
    (run / "study.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="is the folder of a study, which writes its own page"):
        write_report(run)


def test_funnel_counts_down() -> None:
    steps = funnel({"skipped_rows": 3, "problems": 10, "too_long": 4, "idle_asserts": 1, "sequences": 5})
    assert [(step.removed, step.left) for step in steps] == [(3, None), (None, 10), (4, 6), (1, 5), (None, 5)]
    assert (steps[2].left_percent, steps[2].removed_percent) == (60.0, 40.0)


def test_a_log_may_end_in_half_a_line_and_repeat_steps(tmp_path: Path) -> None:
    lines = ['{"step": 2, "loss": 5.0}', '{"step": 1, "loss": 9.0}', '{"step": 2, "loss": 4.0, "kl": NaN}']
    lines += ['{"seconds": 12, "samples": 3}', '{"step": 3, "lo']
    (tmp_path / "log.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert steps_of(tmp_path / "log.jsonl") == [{"step": 1, "loss": 9.0}, {"step": 2, "loss": 4.0}]


def test_examples_start_with_two_rounds_and_differ_in_length() -> None:
    found = [sequence(1, "a"), sequence(1, "b"), sequence(2, "c"), sequence(2, "d"), sequence(4, "e")]
    assert [dialogue.extra["id"] for dialogue in choose_examples(found)] == ["c", "a", "e"]
    assert [dialogue.extra["id"] for dialogue in choose_examples(found[:2])] == ["a", "b"]


@pytest.mark.parametrize("value", [None, 0.5, {}, {"pass_at_1": "0.5"}, {"pass_at_1": math.nan}, {"pass_at_1": 1.5}])
def test_what_is_no_score_is_none(value: Any) -> None:
    assert score(value) is None


def test_numbers_as_people_read_them() -> None:
    assert [percent(share) for share in (0.0, 0.0625, 1.0)] == ["0.0\u00a0%", "6.2\u00a0%", "100.0\u00a0%"]
    assert [duration_text(seconds) for seconds in (12.34, 600, 9000)] == ["12.3 s", "10.0 min", "2.5 h"]
    assert stages({"a": 1, "b": {"c": 2.5, "d": None}, "e": True, "f": -1}) == {"a": 1, "b c": 2.5}
    nested = {"heldout": {"before": {"difference": -0.125}}}
    assert list(comparisons(nested)) == [("held-out, before", "−12.5 points")]


def test_commands_are_those_of_the_kept_configurations(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    assert commands(Found(run)) == [
        "reflectioncoder demo",
        "",
        "# the same, stage by stage:",
        "reflectioncoder build --config demo/build/config.toml",
        "reflectioncoder train --config demo/train/reflection/config.toml",
        "reflectioncoder report demo",
    ]


def test_long_series_are_averaged() -> None:
    assert binned([1, 2, 3, 4, 5], [1.0, 3.0, math.nan, 8.0, math.nan], 3)[0] == [1.5, 3.5, 5.0]
    assert binned([1, 2, 3, 4], [1.0, 3.0, math.nan, 8.0], 2)[1] == [2.0, 8.0]


def test_a_chart_describes_itself_and_takes_its_colours_from_the_page() -> None:
    svg = line_chart("a", "Loss & more", [Line("total", [1, 2], [2.0, 0.5]), Line("KL", [1, 2], [0.1, 0.2])], "nats")
    found = Page(svg)
    attributes: Mapping[str, str] = {name: value for tag, name, value in found.attributes if tag == "svg"}
    assert (
        attributes["aria-label"]
        == "Loss & more. total: 2 at the start, 0.5 at the end; KL: 0.1 at the start, 0.2 at the end"
    )
    assert "var(--series-1" in svg and "var(--series-2" in svg and "#0101" not in svg
    assert {"total", "KL", "nats", "step"} <= {text.strip() for text in found.text}
