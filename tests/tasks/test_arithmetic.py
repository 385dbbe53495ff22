"""The task of word problems: its prompts ask for text, a number decides, and the whole pipeline runs on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import tiny

from reflectioncoder import EvaluateConfig, GenerateConfig, TrainConfig, evaluate, train
from reflectioncoder.cli.main import main
from reflectioncoder.dialogues.tokens import prompt_ids
from reflectioncoder.errors import UserError
from reflectioncoder.generate.completions import code_of
from reflectioncoder.interpreter.interpreter import Interpreter, Limits
from reflectioncoder.models.special_tokens import add_special_tokens
from reflectioncoder.problems.problem import Problem
from reflectioncoder.tasks.base import Prompt, TaskOptions, Verdict
from reflectioncoder.tasks.problem_sets import NumberTask
from reflectioncoder.tasks.registry import get_task

FOURTEEN = Problem("p", "How many? End with the line `Answer: NUMBER`.", answer="12 + 2 = 14.\nAnswer: 14")
UNUSED = cast(Interpreter, None)


def check(completion: str) -> Verdict:
    return NumberTask("mine", [FOURTEEN], 64).check("p", completion, UNUSED, Limits())


@pytest.mark.parametrize("answer", ["Answer: 14", "12 + 3 = 15.\nAnswer: 14.00 pens", "Answer: 3\nAnswer: 14"])
def test_the_number_alone_decides(answer: str) -> None:
    assert check(answer) == Verdict(True, "ok")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("Answer: 15", "the number is 15"),
        ("Answer: -14", "the number is -14"),
        ("Answer: 14.5", "the number is 29/2"),
        ("12 + 2 = 14", "the last line is not `Answer: NUMBER`"),
        ("Answer: 14 or 15", "the last line is not `Answer: NUMBER`"),
        ("", "the last line is not `Answer: NUMBER`"),
        ("```python\nprint(14)\n```", "the last line is not `Answer: NUMBER`"),
    ],
)
def test_another_number_and_another_form_are_wrong(answer: str, error: str) -> None:
    assert check(answer) == Verdict(False, "wrong", error)


def test_prompts_ask_for_text_and_answers_stay_as_they_are() -> None:
    task = get_task("arithmetic_heldout", TaskOptions(limit=5, levels=(2,)))
    first = task.prompts()[0]
    assert len(task.prompts()) == 5 and first.task_id.startswith("arithmetic/heldout/")
    assert (first.opening, first.answer, first.continuation) == ("", "text", f"{first.instruction}\n\n")
    for form in ("block", "chat", "continuation"):
        raw = "<think>5?</think>\nSo 2 * 3 = 6.\nAnswer: 6\n"
        assert code_of(raw, first, form) == "So 2 * 3 = 6.\nAnswer: 6"  # type: ignore[arg-type]
    words = tiny.build_tokenizer()
    model = tiny.build_llama(len(words))
    add_special_tokens(model, words)
    assert words.decode(prompt_ids(first.instruction, words, first.opening)).endswith("<|assistant|><|text|>")
    assert Prompt("p", "", "").answer == "code"


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no problem 'q'"):
        NumberTask("mine", [FOURTEEN], 64).check("q", "Answer: 14", UNUSED, Limits())
    with pytest.raises(UserError, match="does not end in `Answer: NUMBER`"):
        NumberTask("mine", [Problem("p", "How many?", answer="14")], 64)
    for arguments, said in (
        (["build", "--problems", "arithmetic", "--levels", "7"], "levels [7]: choose one or more of 1, 2, 3, 4"),
        (["build", "--problems", "arithmetic", "--sampler", "attempts"], "only the sampler mutation writes"),
        (["generate", "--task", "arithmetic_held"], "did you mean 'arithmetic_heldout'"),
    ):
        assert main([*arguments, "--output", str(tmp_path / "new")]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    rows = tmp_path / "answers.jsonl"
    rows.write_text(json.dumps({"task_id": "arithmetic/heldout/none", "completion": "Answer: 1"}) + "\n")
    settings = ["--generate.task", "arithmetic_heldout", "--completions", str(rows), "--output", str(tmp_path / "s")]
    assert main(["evaluate", *settings]) == 2
    assert "has no problem 'arithmetic/heldout/none'" in capsys.readouterr().err
    assert main(["evaluate", *settings, "--rounds", "1", "--generate.model", "smollm2-135m-instruct"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_of_answers_is_scored(tmp_path: Path) -> None:
    task: Any = get_task("arithmetic_heldout", TaskOptions(limit=4))
    answers = [problem.answer for problem in task.problems.values()]
    answers[1] = answers[1].replace("Answer: ", "Answer: 1")
    answers[2] = "I do not know."
    lines = [
        json.dumps({"task_id": problem.id, "completion": answer})
        for problem, answer in zip(task.problems.values(), answers, strict=True)
    ]
    (tmp_path / "answers.jsonl").write_text("\n".join(lines) + "\n")
    config = GenerateConfig(task="arithmetic_heldout", limit=4)
    score = evaluate(
        EvaluateConfig(config, completions=str(tmp_path / "answers.jsonl"), output=str(tmp_path / "score"), workers=1)
    )
    assert (score.n, score.pass_at_1) == (4, 0.5)


@pytest.mark.slow
def test_the_pipeline_runs_on_word_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build = ["build", "--problems", "arithmetic", "--levels", "1", "--count", "4", "--workers", "1"]
    assert main([*build, "--output", str(tmp_path / "build")]) == 0
    model = tiny.save(tmp_path / "model", tiny.build_llama(258))
    data = tuple(str(tmp_path / "build" / name) for name in ("sequences.jsonl", "instructions.jsonl"))
    done = train(
        TrainConfig(
            model=model, data=data, output=str(tmp_path / "train"), max_steps=2, batch_size=4, precision="float32",
            device="cpu", report_to=("none",),
        ),
        lambda _: None,
    )  # fmt: skip
    generate = ["generate", "--model", done.output, "--task", "arithmetic_heldout", "--limit", "3"]
    completions = str(tmp_path / "completions.jsonl")
    assert main([*generate, "--max_new_tokens", "8", "--output", completions, "--device", "cpu"]) == 0
    scored = ["evaluate", "--generate.task", "arithmetic_heldout", "--generate.limit", "3", "--workers", "1"]
    assert main([*scored, "--completions", completions, "--output", str(tmp_path / "score")]) == 0
    facts = json.loads((tmp_path / "score" / "score.json").read_text())
    assert (facts["task"], facts["n"], facts["pass_at_1"]) == ("arithmetic_heldout", 3, 0.0)
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "build" / "sequences.jsonl"), "1"]) == 0
    shown = capsys.readouterr().out
    assert "def answer():" in shown and "AssertionError" in shown and "Answer: " in shown


def test_numbers_need_problems_with_different_ids() -> None:
    one = next(iter(get_task("arithmetic_heldout", TaskOptions(limit=1)).problems.values()))  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="1 problem ids occur more than once"):
        NumberTask("words", [one, one], 10)
    with pytest.raises(UserError, match="no problems in it"):
        NumberTask("words", [], 10)
