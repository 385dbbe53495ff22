import dataclasses
import json
import subprocess
import sys
import time
from typing import Literal, get_args, get_origin, get_type_hints

import docstring_parser
import pytest
import torch

from reflectioncoder import progress
from reflectioncoder.cli.arguments import read_arguments
from reflectioncoder.cli.main import main, verbs
from reflectioncoder.config.toml import known_keys
from reflectioncoder.progress import Meter


def test_flags_are_read_in_all_their_forms():
    train, _ = read_arguments(
        "train", verbs()["train"], ["--masking.strategy", "random", "--output=x y", "--resume", "--max-steps", "-1"]
    )
    assert (train.masking.strategy, train.output, train.resume, train.max_steps) == ("random", "x y", True, -1)
    again, given = read_arguments("train", verbs()["train"], ["--resume", "false", "--data", "a,b", "--print-config"])
    assert (again.resume, again.data, given) == (False, ("a", "b"), {"print_config"})
    scored, given = read_arguments("evaluate", verbs()["evaluate"], ["mbpp", "--data", "d", "--k", "1,10", "--json"])
    assert (scored.generate.task, scored.generate.data, scored.k, given) == ("mbpp", "d", (1, 10), {"json"})
    shown, _ = read_arguments("inspect", verbs()["inspect"], ["a.jsonl", "3"])
    assert (shown.file, shown.count) == ("a.jsonl", 3)


def test_print_config_shows_what_a_run_would_use(capsys):
    assert main(["train", "--masking.strategy", "random", "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert '[masking]\nstrategy = "random"' in printed
    assert "learning_rate = 5e-05" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fly"], "unknown verb 'fly'"),
        (["train", "--masking.strategi", "x"], "unknown key 'strategi'; perhaps you meant --masking.strategy"),
        (["train", "--config", "none.toml"], "configuration file none.toml: No such file"),
        (["inspect", "none.jsonl"], "file none.jsonl: No such file"),
        (["inspect"], "FILE is missing; usage: reflectioncoder inspect FILE [COUNT]"),
        (["compare", "a"], "SECOND is missing; usage: reflectioncoder compare FIRST SECOND"),
        (["trian"], "perhaps you meant 'train'"),
        (["train", "masking"], "'masking' is not a flag; write --key value"),
        (["train", "--masking", "x"], "is a table; set one of its keys (masking.strategy"),
        (["train", "--learning-rat", "1"], "perhaps you meant --learning_rate"),
        (["train", "--strategy", "mix"], "perhaps you meant --masking.strategy"),
        (["train", "--masking.strategy", "blok"], "'blok' is not one of block, sequential"),
        (["train", "--seed", "x"], "flag --seed: expected int, found 'x'"),
        (["train", "--seed"], "flag --seed needs a value"),
        (["train", "--dry-run=1"], "flag --dry-run takes no value"),
        (["train", "-x"], "'-x' is not a flag"),
        (["inspect", "a", "b"], "COUNT: expected int, found 'b'"),
        (["doctor", "now"], "'now' is not a flag"),
        (["completion", "fish"], "SHELL: 'fish' is not one of bash, zsh"),
    ],
)
def test_bad_input_is_one_line_and_status_two(capsys, words, message):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("allocate", [lambda: bytearray(2**62), lambda: torch.empty(2**60)])
def test_memory_that_runs_out_is_one_line(capsys, monkeypatch, allocate):
    monkeypatch.setattr("reflectioncoder.generate.generate.generate", lambda *_: allocate())
    assert main(["generate", "--backend", "vllm"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("reflectioncoder generate: out of memory (") and said.count("\n") == 1


def test_the_list_of_verbs_names_each(capsys):
    assert main(["--help"]) == 0
    usage = capsys.readouterr().out
    assert all(f"  {name} " in usage for name in verbs())


@pytest.mark.parametrize("name", verbs())
def test_help_says_what_every_key_means_with_choices_and_default(name, capsys):
    verb = verbs()[name]
    assert main([*name.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    words = " ".join(shown.replace("│", " ").split())
    assert f"usage: reflectioncoder {name}" in shown
    for key, hint in known_keys(verb.arguments).items():
        assert f"--{key} " in shown, key
        if get_origin(hint) is Literal:
            assert f"--{key} {{{','.join(get_args(hint))}}}" in words.replace(", ", ",")
    for cls, field in every_field(verb.arguments):
        meaning = {item.arg_name: item.description for item in docstring_parser.parse(cls.__doc__).params}
        assert len(meaning.get(field, "")) > 5, f"{cls.__name__}.{field} has no meaning"
    assert all(f"--{switch}" in shown for switch in verb.switches() if switch != "help")


def every_field(cls):
    hints = get_type_hints(cls)
    for entry in dataclasses.fields(cls):
        yield cls, entry.name
        if dataclasses.is_dataclass(hints[entry.name]):
            yield from every_field(hints[entry.name])


def test_help_and_mistakes_load_nothing_heavy():
    code = (
        "import sys; from reflectioncoder.cli.main import main; status = main(sys.argv[1:]); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'datasets', 'numpy', 'IPython')))"
    )
    for words in (["train", "--help"], ["--help"], ["train", "--sed", "1"], ["evaluate", "--help"]):
        subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)


def test_the_shell_completes_verbs_and_keys(tmp_path, capsys):
    assert main(["completion", "zsh"]) == 0
    assert "#compdef reflectioncoder" in capsys.readouterr().out
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion.sh"
    script.write_text(capsys.readouterr().out)

    def completed(*words):
        ask = f"source {script}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_reflectioncoder"
        command = ["bash", "-c", f'{ask} reflectioncoder "{words[-1]}"; echo "${{COMPREPLY[@]}}"']
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()

    assert "train" in completed("reflectioncoder", "tr")
    assert "--learning_rate" in completed("reflectioncoder", "train", "--learn")
    assert completed("reflectioncoder", "train", "--masking.strategy", "bl") == ["block"]


def test_progress_is_a_line_every_thirty_seconds_in_a_log(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 31.0, 50.0, 62.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Meter("checking", 8) as meter:
        for done in (1, 2, 4):
            meter.update(done, note="10.0 tokens a second")
        meter.advance()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.split("\n") == [
        "checking: 2/8, 10.0 tokens a second, about 93 s left".replace("93 s", "2 min"),
        "checking: 5/8, about 37 s left",
        "",
    ]


def test_progress_is_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Meter("checking", 2) as meter:
        meter.advance()
        meter.advance("so far so good")
    assert "checking" in capsys.readouterr().err


def test_what_is_slow_is_announced_and_what_is_quick_is_not(monkeypatch, capsys):
    with progress.slow("loading x"):
        pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "SLOW_SECONDS", 0.01)
    with progress.slow("loading x"):
        time.sleep(0.2)
    assert capsys.readouterr().err.startswith("loading x (0 s so far)\n")


def test_a_comparison_is_a_table_for_people(tmp_path, capsys):
    for name, passed in (("before", [True, False, False, True]), ("after", [True, True, True, False])):
        rows = [
            {"task_id": f"p{i}", "sample": 0, "passed": ok, "outcome": "ok", "error": "", "seconds": 0.0}
            for i, ok in enumerate(passed)
        ]
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["compare", str(tmp_path / "before"), str(tmp_path / "after")]
    assert main(words) == 0
    lines = dict(line.rsplit("  ", 1) for line in capsys.readouterr().out.strip().split("\n"))
    lines = {name.strip().replace(str(tmp_path), ""): value.strip() for name, value in lines.items()}
    assert lines["pass@1 of /before"] == "50.0%"
    assert lines["pass@1 of /after"] == "75.0%"
    assert lines["difference"].startswith("+25.0 points [")
    assert (lines["solved by /before only"], lines["solved by /after only"]) == ("1", "2")
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["difference"] == 0.25


def test_inspect_shows_blocks(tmp_path, capsys):
    from reflectioncoder.dialogues.dialogue import Block, reflection_dialogue, write_jsonl

    path = tmp_path / "a.jsonl"
    write_jsonl(path, [reflection_dialogue("Do.", [Block("code", "f()"), Block("execution", "boom")], "Do.", "pass")])
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "assistant · execution" in shown
    assert "boom" in shown
    assert "1 dialogues" in shown
