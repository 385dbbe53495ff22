"""Decoding and the file of completions, with a tiny random Llama and a byte tokenizer."""

import json
from collections import Counter
from pathlib import Path

import pytest
import spm
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reflectioncoder.cli.main import main
from reflectioncoder.config.build import ChatConfig
from reflectioncoder.config.evaluate import GenerateConfig
from reflectioncoder.errors import UserError
from reflectioncoder.generate.completions import code_of
from reflectioncoder.generate.generate import generate, output_of
from reflectioncoder.generate.local import make_requests, resolve_style
from reflectioncoder.models.decode import Request, anchor, decode_batched, nucleus, text_behind
from reflectioncoder.models.special_tokens import add_special_tokens
from reflectioncoder.problems.problem import Problem
from reflectioncoder.tasks.base import Prompt, TaskOptions
from reflectioncoder.tasks.humaneval import HumanEval
from reflectioncoder.tasks.problem_sets import ProblemTask

WORDS = "def return list sum value count text number reverse first even key".split()


def byte_tokenizer():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|end|>": 0} | {letter: i + 1 for i, letter in enumerate(alphabet)}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(5)
    settings = LlamaConfig(
        vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, eos_token_id=0, initializer_range=0.4,
    )  # fmt: skip
    return LlamaForCausalLM(settings).eval()


def requests(tokenizer, count, new=40, samples=1, stops=()):
    """Requests with prompts and completions of different lengths, so that rows leave the batch at different times."""
    return [
        Request(f"p{i}", s, tuple(tokenizer.encode(" ".join(WORDS[: 1 + i % 12]) + str(i))), new - 3 * (i % 5), stops)
        for i in range(count)
        for s in range(samples)
    ]


def generated_by_transformers(model, request):
    ids = torch.tensor([request.ids])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=request.max_new_tokens, pad_token_id=0
    )
    new = out[0, ids.shape[1] :].tolist()
    return tuple(new[: new.index(0)] if 0 in new else new)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 8, 40])
def test_greedy_rows_equal_generate_one_by_one_whatever_leaves_and_joins(model, tokenizer, batch_size):
    wanted = requests(tokenizer, 23)
    found = {done.request.task_id: done.ids for done in decode_batched(model, tokenizer, wanted, batch_size)}
    assert found == {request.task_id: generated_by_transformers(model, request) for request in wanted}
    assert len(set(found.values())) > 10  # equal completions would make the test meaningless


def test_prompts_that_occur_twice_give_what_they_give_alone(model, tokenizer):
    one = requests(tokenizer, 3)
    twice = one + [Request(r.task_id, 1, r.ids, r.max_new_tokens) for r in one]
    found = {
        (done.request.task_id, done.request.sample): done.ids for done in decode_batched(model, tokenizer, twice, 6)
    }
    assert all(found[r.task_id, 0] == found[r.task_id, 1] == generated_by_transformers(model, r) for r in one)


def test_samples_depend_on_seed_task_and_sample_but_not_on_the_batch(model, tokenizer):
    def run(batch_size, seed, order=1):
        done = decode_batched(model, tokenizer, requests(tokenizer, 9, samples=3)[::order], batch_size, 0.8, 0.95, seed)
        return {(d.request.task_id, d.request.sample): d.ids for d in done}

    first = run(27, 0)
    assert first == run(2, 0) == run(7, 0, order=-1)
    assert len(set(first.values())) == 27
    assert first != run(27, 1)


def test_a_row_ends_at_its_stop_text_and_not_later(model, tokenizer):
    wanted = requests(tokenizer, 12)
    free = {d.request.task_id: d.text for d in decode_batched(model, tokenizer, wanted, 4)}
    letter = Counter("".join(free.values()).replace("\ufffd", "")).most_common(1)[0][0]
    stopped = list(decode_batched(model, tokenizer, requests(tokenizer, 12, stops=(letter,)), 4))
    assert {"stop"} <= {d.reason for d in stopped}
    for done in stopped:
        text = free[done.request.task_id]
        assert done.text == (text[: text.index(letter) + 1] if letter in text else text)


def test_a_closing_fence_may_come_at_once(tokenizer):
    torch.manual_seed(0)
    settings = LlamaConfig(
        vocab_size=257, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    fixed = LlamaForCausalLM(settings).eval()
    tick = tokenizer.convert_tokens_to_ids("`")
    with torch.no_grad():  # this model always predicts "`"
        fixed.model.norm.weight.fill_(0)
        fixed.lm_head = torch.nn.Linear(8, 257, bias=True)
        fixed.lm_head.bias.zero_()
        fixed.lm_head.bias[tick] = 1.0
    ids = tuple(tokenizer.encode("x\n"))
    (done,) = decode_batched(fixed, tokenizer, [Request("a", 0, ids, 20, ("\n```",), opens_line=True)])
    assert (done.text, done.reason) == ("```", "stop")
    (done,) = decode_batched(fixed, tokenizer, [Request("a", 0, ids, 20, ("\n```",), opens_line=False)])
    assert (done.text, done.reason) == ("`" * 20, "length")


@pytest.mark.parametrize("style", ["plain", "chat"])
def test_a_sentencepiece_tokenizer_loses_no_leading_blank(style, tmp_path):
    words = spm.tokenizer()
    ids = words.convert_tokens_to_ids(["<0x0A>", "▁▁▁▁", "return", "▁", "1", "</s>"])
    assert words.decode(ids[1:-1]) == "   return 1"  # the tokenizer itself drops the first of four spaces
    (tmp_path / "t.jsonl").write_text(json.dumps({"id": "a", "instruction": "Write f.", "tests": ["assert f()"]}))
    settings = GenerateConfig("saying", str(tmp_path / "t.jsonl"), str(tmp_path / "c.jsonl"), style, max_new_tokens=9)
    (made,) = generate(settings, None, spm.saying(ids, len(words)), words).completions
    assert (made.raw, made.completion) == ("    return 1", "    return 1\n")


def test_text_behind_a_prompt_is_what_it_adds_whatever_the_prompt_ends_with():
    words = spm.tokenizer()
    blanks, letter, half = words.convert_tokens_to_ids(["▁▁▁▁", "1", "<0xC3>"])
    for prompt in ("def f():\n", "x ", "é", "def f():", "\n"):
        before = anchor(words, words.encode(prompt))
        assert text_behind(words, before, [blanks, letter]) == "    1", prompt
        assert text_behind(words, before, [half]) == "\ufffd", prompt
    assert text_behind(words, [], [blanks, letter]) == "   1"  # without a prompt
    plain = byte_tokenizer()
    assert text_behind(plain, anchor(plain, plain.encode("é:\n")), plain.encode("  é")) == "  é"


def test_nucleus_takes_tokens_by_hand():
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()

    def token(top_p, draw):
        return nucleus(logits, top_p, torch.tensor([draw], dtype=torch.float64)).item()

    # By probability: 1 (0.5), 3 (0.25), 2 (0.15), 0 (0.1). top_p = 0.7 keeps the first two, with 2/3 and 1/3.
    assert [token(1.0, d) for d in (0.0, 0.49, 0.51, 0.74, 0.76, 0.89, 0.91, 0.999)] == [1, 1, 3, 3, 2, 2, 0, 0]
    assert [token(0.7, d) for d in (0.0, 0.66, 0.67, 0.999)] == [1, 1, 3, 3]
    assert [token(0.1, d) for d in (0.0, 0.999)] == [1, 1]


def test_nucleus_looks_at_the_whole_vocabulary_where_it_must():
    flat = torch.zeros(1, 5000)
    draws = torch.linspace(0, 0.9999, 500, dtype=torch.float64)
    tokens = nucleus(flat.expand(500, -1), 1.0, draws)
    assert len(set(tokens.tolist())) == 500


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("def f():\n    return 1\n```", "def f():\n    return 1\n"),
        ("def f():\n    return 1\n```\nThis function returns 1.\n```python\nf()\n```", "def f():\n    return 1\n"),
        ("```python\ndef f():\n    return 1\n```", "def f():\n    return 1\n"),
        ("```c++\n    return 1;\n```", "    return 1;\n"),
        ("    return 1\n\n", "    return 1\n"),
        ("\n\ndef f():\r\n    return 1\n", "def f():\n    return 1\n"),
        (
            'def f():\n    """\n    ```\n    """\n    return 1\n```',
            'def f():\n    """\n    ```\n    """\n    return 1\n',
        ),
        ("```", ""),
        ("", ""),
        ("def f(", "def f(\n"),
    ],
)
def test_cleaning_leaves_the_code(raw, code):
    prompt = Prompt("t", "", "", opening="```c++\n" if "c++" in raw else "```python\n")
    assert code_of(raw, prompt, "block") == code


def test_cleaning_a_continuation_ends_at_the_next_definition():
    raw = "    return 1\n\ndef g():\n    pass\n"
    assert code_of(raw, HumanEval(TaskOptions(limit=1)).prompts()[0], "continuation") == "    return 1\n"


def test_prompt_styles(tokenizer):
    task = ProblemTask("t", [Problem("a", "Write f.", tests=("assert f()",))], 77)

    def text(style, tok):
        (request,) = make_requests(task, style, tok)
        assert request.opens_line and request.max_new_tokens == 77
        return tok.decode(request.ids)

    assert text("chat", tokenizer) == "[user] Write f.\n[assistant] ```python\n"
    assert text("plain", tokenizer) == "Write f.\n\n```python\n"
    assert resolve_style("auto", tokenizer) == "chat"
    trained = byte_tokenizer()
    small = LlamaConfig(vocab_size=257, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    add_special_tokens(LlamaForCausalLM(small), trained)
    assert resolve_style("auto", trained) == "native"
    wanted = "<|user|><|text|>Write f.<|endofblock|><|endofmessage|><|assistant|><|text|>```python\n"
    assert text("native", trained) == wanted
    bare = byte_tokenizer()
    bare.chat_template = None
    assert resolve_style("auto", bare) == "plain"
    with pytest.raises(UserError, match="no chat template"):
        resolve_style("chat", bare)


@pytest.fixture
def config(tmp_path, model, tokenizer):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"id": f"q{i}", "instruction": " ".join(WORDS[:i]), "tests": ["assert f()"]} for i in range(1, 9)]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return GenerateConfig(
        str(tmp_path / "model"), str(tmp_path / "task.jsonl"), str(tmp_path / "out/c.jsonl"), max_new_tokens=12,
        batch_size=4, precision="float32", device="cpu",
    )  # fmt: skip


def changed(config, **settings):
    return GenerateConfig(**{**vars(config), **settings})


def test_a_killed_run_generates_only_what_is_missing(config, tmp_path):
    whole = generate(config)
    assert whole.new == 8 and whole.tokens > 0
    lines = whole.path.read_text().splitlines(keepends=True)
    assert [json.loads(line)["task_id"] for line in lines] == [f"q{i}" for i in range(1, 9)]
    assert set(json.loads(lines[0])) == {"task_id", "sample", "completion", "raw", "prompt", "finish"}
    whole.path.write_text("".join([lines[4], lines[1], lines[6][:20]]))  # killed while writing the third
    seen = []
    again = generate(config, lambda done, total, speed: seen.append((done, total)))
    assert again.new == 6 and seen == [(i, 8) for i in range(3, 9)]
    assert again.completions == whole.completions
    assert whole.path.read_text() == "".join(lines)
    assert generate(config).new == 0


def test_why_an_answer_ended_is_kept_and_files_without_it_go_on(config):
    made = generate(config)
    finished = {c.task_id: c.finish for c in made.completions}
    assert set(finished.values()) <= {"end", "stop", "length"}
    assert sum(c.truncated for c in made.completions) == list(finished.values()).count("length") > 0
    rows = [json.loads(line) for line in made.path.read_text().splitlines()]
    for row in rows:
        del row["finish"]
    made.path.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    again = generate(config)
    assert again.new == 5 and [c.finish for c in again.completions[:3]] == ["", "", ""]
    assert [c.finish for c in again.completions[3:]] == list(finished.values())[3:]


def test_without_an_output_each_task_and_model_has_a_file_of_its_own(config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for task in ("task.jsonl", "other.jsonl"):
        (tmp_path / task).write_text((tmp_path / "task.jsonl").read_text())
        for model in ("model", str(tmp_path / "model")):
            made = generate(changed(config, task=task, model=model, output=""))
            assert made.new == 8 and made.path.parent == Path("runs/completions")
    assert len(list(Path("runs/completions").glob("*.jsonl"))) == 4
    served = changed(config, task="heldout", backend="server", output="", chat=ChatConfig(model="org/Name-7B:free"))
    assert output_of(served) == "runs/completions/heldout-org-Name-7B-free.jsonl"
    words = ["--task", "task.jsonl", "--model", "model", "--max_new_tokens", "12", "--precision", "float32"]
    assert main(["generate", *words]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "8 completions, 0 of them new: runs/completions/task-model.jsonl" and len(said) <= 2
    assert main(["generate", *words, "--temperature", "1"]) == 2
    assert "choose another file with --output (--generate.output of evaluate)" in capsys.readouterr().err


def test_data_may_lie_elsewhere(config):
    generate(config)
    assert generate(changed(config, data="elsewhere")).new == 0


def test_a_smaller_limit_keeps_what_is_there_and_more_samples_add_to_it(config):
    sampled = changed(config, temperature=0.7, samples=1)
    first = generate(sampled)
    few = generate(changed(sampled, limit=2))
    assert few.new == 0 and few.completions == first.completions[:2]
    more = generate(changed(sampled, samples=2))
    assert more.new == 8 and more.completions[::2] == first.completions


@pytest.mark.parametrize(
    "setting", [{"max_new_tokens": 13}, {"temperature": 0.5}, {"seed": 1}, {"prompt_style": "plain"}]
)
def test_another_setting_is_not_mixed_in(config, setting):
    generate(config)
    with pytest.raises(UserError, match=f"was made with {next(iter(setting))} = "):
        generate(changed(config, **setting))


def test_other_weights_or_another_prompt_are_not_mixed_in(config, tmp_path, model):
    generate(config)
    torch.manual_seed(6)
    LlamaForCausalLM(model.config).save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="other weights"):
        generate(config)
    model.save_pretrained(tmp_path / "model")
    assert generate(config).new == 0
    task = tmp_path / "task.jsonl"
    task.write_text(task.read_text().replace("def return list", "def return tuple"))
    with pytest.raises(UserError, match="line 3: completion of another prompt for problem 'q3'"):
        generate(config)


def test_contradicting_settings_are_refused(config):
    with pytest.raises(UserError, match="set a temperature"):
        generate(changed(config, samples=2))
    with pytest.raises(UserError, match="top_p"):
        generate(changed(config, top_p=0.0))


def test_a_prompt_beyond_the_positions_is_named(model, tokenizer):
    long = Request("long", 0, (1,) * 500, 40)
    with pytest.raises(UserError, match="'long': prompt of 500 and answer of 40 tokens, but the model has 512"):
        list(decode_batched(model, tokenizer, [long]))
