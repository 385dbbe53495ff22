import subprocess
import sys

import pytest

from reflectioncoder.cli import main as cli
from reflectioncoder.cli.main import main, parse_flags
from reflectioncoder.errors import UserError


def test_flags_are_read_in_all_their_forms():
    words = ["--a.b", "1", "--c=x y", "--resume", "--print-config", "--json"]
    assert parse_flags(words) == ({"a.b": "1", "c": "x y", "resume": "true"}, {"print-config", "json"})
    assert parse_flags(["--max_steps", "-1"]) == ({"max_steps": "-1"}, set())
    with pytest.raises(UserError, match="'x' is not a flag"):
        parse_flags(["x"])
    with pytest.raises(UserError, match="flag --seed needs a value"):
        parse_flags(["--seed"])


def test_print_config_shows_what_a_run_would_use(capsys):
    assert main(["train", "--masking.strategy", "random", "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert '[masking]\nstrategy = "random"' in printed
    assert "learning_rate = 5e-05" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fly"], "unknown verb 'fly'"),
        (["train", "--masking.strategi", "x"], "unknown key 'strategi'; did you mean 'strategy'?"),
        (["train", "--config", "none.toml"], "configuration file none.toml: No such file"),
        (["inspect", "none.jsonl"], "file none.jsonl: No such file"),
        (["inspect"], "usage: reflectioncoder inspect"),
        (["compare", "a"], "usage: reflectioncoder compare"),
    ],
)
def test_bad_input_is_one_line_and_status_two(capsys, words, message):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_every_verb_has_help(capsys):
    assert main(["--help"]) == 0
    usage = capsys.readouterr().out
    for verb in ("build", "train", "generate", "evaluate", "demo"):
        assert f"  {verb} " in usage
        assert main([verb, "--help"]) == 0
        assert "Keys and defaults" in capsys.readouterr().out


def test_help_does_not_load_torch():
    code = "import sys, reflectioncoder.cli.main as c; c.main(['train', '--help']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_decoding_is_reported_every_few_seconds_where_somebody_looks(monkeypatch, capsys):
    assert cli._decoding_progress() is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    show = cli._decoding_progress()
    show(1, 3, 10.0)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cli, "PROGRESS_SECONDS", 0.0)
    show(2, 3, 10.5)
    monkeypatch.setattr(cli, "PROGRESS_SECONDS", 1e9)
    show(2, 3, 11.0)
    show(3, 3, 12.0)  # the last one always
    assert capsys.readouterr().err == "2/3 completed, 10.5 tokens a second\n3/3 completed, 12.0 tokens a second\n"


def test_inspect_shows_blocks(tmp_path, capsys):
    from reflectioncoder.dialogues.dialogue import Block, reflection_dialogue, write_jsonl

    path = tmp_path / "a.jsonl"
    write_jsonl(path, [reflection_dialogue("Do.", [Block("code", "f()"), Block("execution", "boom")], "Do.", "pass")])
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "assistant · execution" in shown
    assert "boom" in shown
    assert "1 dialogues" in shown
