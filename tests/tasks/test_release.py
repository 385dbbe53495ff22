"""`semantics = "release"`: the strings and cuts of the authors' test script, written down here as facts."""

import json

import pytest
import tiny

from reflectioncoder.config.evaluate import EvaluateConfig, GenerateConfig
from reflectioncoder.errors import UserError
from reflectioncoder.evaluate.evaluate import evaluate
from reflectioncoder.generate.generate import generate
from reflectioncoder.generate.local import make_requests
from reflectioncoder.models.special_tokens import add_special_tokens
from reflectioncoder.tasks.base import TaskOptions
from reflectioncoder.tasks.registry import get_task
from reflectioncoder.tasks.release import cut_release_language, cut_release_python

FUNCTION = (
    "<s><|user|><|text|>Write a complete Python function for the problem.\n\n"
    "def truncate_number(number: float) -> float:\n"  # the data has two newlines before, and one behind
    '    """ Given a positive floating point number, it can be decomposed into\n'
    "    and integer part (largest integer smaller than given number) and decimals\n"
    "    (leftover part always smaller than 1).\n\n"
    "    Return the decimal part of the number.\n"
    "    >>> truncate_number(3.5)\n"
    "    0.5\n"
    '    """<|endofblock|><|endofmessage|><|assistant|><|text|>```python\n'
)
ASSERTION = (
    "<s><|user|><|text|>Write a python function to find sum of products of all possible sublists of a given list. \n"
    "Your code should satisfy the following assertion:\n```python\nassert sum_Of_Subarray_Prod([1,2,3]) == 20\n```"
    "<|endofblock|><|endofmessage|><|assistant|><|text|>```python\n"
)
TITLES = {"cpp": "C++", "cs": "CSharp", "ts": "Typescript", "js": "Javascript", "rs": "Rust", "sh": "Bash"}


def text(tokenizer, task, task_id):
    """What the model reads, as text."""
    task.problems = {task_id: task.problems[task_id]}
    (request,) = make_requests(task, "native", tokenizer)
    return tokenizer.decode(request.ids), request


@pytest.fixture(scope="module")
def tokenizer():
    made = tiny.tokenizer()
    add_special_tokens(tiny.build_llama(len(made)), made)
    return made


def release(name, data):
    return get_task(name, TaskOptions(data=str(data), semantics="release"))


@pytest.mark.slow
def test_prompts_of_humaneval_and_mbpp(data, tokenizer):
    for name, task_id, wanted in (("humaneval", "HumanEval/2", FUNCTION), ("mbpp_plus", "Mbpp/734", ASSERTION)):
        task = release(name, data)
        found, request = text(tokenizer, task, task_id)
        assert found == wanted and request.stops == () and request.max_new_tokens == 1024
        assert task.prompt_version == "release"
        paper, request = text(tokenizer, get_task(name, TaskOptions(data=str(data))), task_id)
        assert paper != wanted and request.stops == ("\n```",) and request.max_new_tokens == 512


@pytest.mark.parametrize(("key", "title"), TITLES.items())
def test_prompts_of_multipl_e(data, tokenizer, key, title):
    task = release(f"multipl_e_{key}", data)
    with (data / f"multipl_e/humaneval-{key}.jsonl").open() as lines:
        row = json.loads(next(lines))
    found, request = text(tokenizer, task, row["name"])
    head = f"<s><|user|><|text|>Write a complete {title} function for the problem.\n\n"
    assert found == (
        f"{head}{row['prompt'].strip()}<|endofblock|><|endofmessage|><|assistant|><|text|>"
        f"```{title.lower()}\n{row['prompt']}"
    )
    assert request.stops == ("```",) and request.max_new_tokens == 1024


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("def f():\n    return 1\n```", "def f():\n    return 1"),
        ("def f():\n    return 1\n```\nThat is all.", "def f():\n    return 1"),
        ("    return 1\n```", "return 1"),  # the indentation goes, too
        ("a\n```\nb\n```python\nc\n```\nd", "a"),  # three fences: up to the last, but a fence at a line's start ends it
        ("a\n```\nb\n```\nc", "b"),  # two fences: what follows the first one's line
        ("a```py\nb```c", "b```c"),
        ("first\nsecond\nthird", "second\nthird"),  # none: the first line is lost
        ("only", "ly"),
        ("x = 1\n# Test\ny = 2\n```", "x = 1"),
        ("x = 1\nif x:\n    y = 2\n```", "x = 1"),
        ("x = 1\nassert x\n```", "x = 1"),
        ("x = 1\nprint(x)\n```", "x = 1"),
        ("x = 1\nprinter = 2\n```", "x = 1"),
        ("<|code|>x = 1<|endofblock|>\n```", "x = 1"),
        ("", ""),
    ],
)
def test_answers_in_python_are_cut_as_in_the_release(answer, code):
    assert cut_release_python(answer) == code


@pytest.mark.parametrize(
    ("key", "answer", "stops", "program"),
    [
        ("js", "  a\n}\nfunction g() {\n}\ng()", ["\nfunction "], "P  a\n}\nfunction g() {\n}"),  # the last brace
        ("ts", "  a\n}\nfunction g() {\n}\ng()", ["\nfunction "], "P  a\n}\n}"),
        ("php", "  a\n", ["\n?>"], "P  a\n\n}"),
        ("cpp", "  a;\n}\nint main() {\n}\n", ["\n}"], "P  a;"),
        ("rs", "  a\n}\nfn main() {\n}", ["\n}"], "P  a"),
        ("java", "  a;\n    }\n    int b;\n    }\n", ["\n    }\n"], "P  a;\n    }\n    int b;"),
        ("sh", "  a\n```\nmore", ["\n}"], "P  a\n"),
        ("cs", "  a", ["\n    }\n"], "P  a"),
    ],
)
def test_answers_in_other_languages_are_cut_as_in_the_release(key, answer, stops, program):
    assert cut_release_language(key, answer, "P", stops) == program


def test_a_generated_file_holds_the_cut_and_is_scored_as_it_stands(data, tmp_path, tokenizer):
    folder, model = tmp_path / "model", tiny.build_llama(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    made = {}
    for name in ("humaneval", "multipl_e_sh"):
        settings = GenerateConfig(
            str(folder), name, str(tmp_path / f"{name}.jsonl"), limit=1, max_new_tokens=12, device="cpu",
            data=str(data), semantics="release",
        )  # fmt: skip
        (made[name],) = generate(settings, model=model, tokenizer=tokenizer).completions
    python, bash = made["humaneval"], made["multipl_e_sh"]
    assert python.completion == cut_release_python(python.raw) and not python.whole
    assert bash.whole and bash.completion.startswith("#!/bin/bash\n")
    score = evaluate(EvaluateConfig(settings, completions=settings.output, output=str(tmp_path / "out"), workers=1))
    assert (score.n, score.pass_at_1) == (1, 0.0)
    assert json.loads((tmp_path / "out/score.json").read_text())["prompts"] == "release"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "handwritten"}, "no task handwritten; it has humaneval"),
        ({"task": "humaneval", "prompt_style": "chat"}, "is for prompt_style native"),
        ({"task": "humaneval", "backend": "server"}, "a server renders its own prompts"),
    ],
)
def test_what_the_release_does_not_have_is_refused(data, tmp_path, settings, message):
    config = GenerateConfig(output=str(tmp_path / "x.jsonl"), data=str(data), semantics="release", **settings)
    with pytest.raises(UserError, match=message):
        generate(config)
    assert not (tmp_path / "x.jsonl").exists()


def test_a_model_that_does_not_know_the_format_is_refused(data, tmp_path):
    config = GenerateConfig(task="humaneval", output=str(tmp_path / "x.jsonl"), data=str(data), semantics="release")
    with pytest.raises(UserError, match="models trained on the authors' format"):
        generate(config, tokenizer=tiny.build_tokenizer())
