"""Random command lines and mutated TOML files end with status 0 or 2, errors of one line, and never a traceback."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from reflectioncoder.cli.main import main, verbs
from reflectioncoder.config.toml import known_keys, to_toml

SEED = 20_261_130
COMMANDS = 400
FILES = 200
LONG = "9" * 5000
VALUES = [
    *"0 -1 1e400 nan true x block a,b , 1,2 -- - = [ {} é 😀 none.toml / ../.. ' %s {0} $HOME None 1_000".split(),
    *("", " ", '"', LONG, "\ud800", "a\nb", "a\r"),
]
LINES = [
    *"[|]|[[x]]|= 1|x|x = |x = 1|seed = '1'|seed = 1.5|seed = true|output = 3|data = 'a'|data = [1]".split("|"),
    *"masking = 1|[masking]|strategy = 'blok'|[masking.order]|k = [[1]]|chat = {}|chat.model = 1".split("|"),
    *("levels = ['a']", "\x00", "# \u2028", "\ufeff", f"seed = {LONG}", f"x = {'[' * 3000}"),
]


def words(dice: random.Random) -> list[str]:
    """A random command line, partly valid. If it is valid it only prints its settings."""
    name = dice.choice(list(verbs()))
    keys = [*known_keys(verbs()[name].arguments), "config", "json", "partial", "nope"]
    line = name.split()
    for _ in range(dice.randrange(4)):
        key = dice.choice(keys)
        if dice.random() < 0.3:
            place = dice.randrange(len(key))
            key = key[:place] + dice.choice("xz-._ =") + key[place + dice.randrange(2) :]
        line += dice.choice([[f"--{key}", dice.choice(VALUES)], [f"--{key}={dice.choice(VALUES)}"], [f"--{key}"]])
        if dice.random() < 0.2:
            line.append(dice.choice(VALUES))
    if dice.random() < 0.1:
        line[0] = dice.choice(["", "trian", "BUILD", "\ud800", "--x", *VALUES[:8]])
    return [*line, "--print-config"]  # commands without settings reject this flag and do nothing


def judge(line: list[str], capsys: pytest.CaptureFixture[str]) -> int:
    status = main(line)
    printed = capsys.readouterr()
    assert status in (0, 2), (line, status)
    if status == 2:
        assert printed.err.count("\n") == 1, (line, printed.err)
        assert printed.err.startswith("reflectioncoder "), (line, printed.err)
        assert "Traceback" not in printed.err, line
        assert len(printed.err) < 2000, (line, len(printed.err))
    return status


def test_no_command_line_ends_in_a_traceback(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dice = random.Random(SEED)
    seen = [judge(words(dice), capsys) for _ in range(COMMANDS)]
    assert 20 < seen.count(0) < COMMANDS - 100  # both valid and invalid lines occurred
    assert list(tmp_path.iterdir()) == []  # no command wrote anything


def test_no_settings_file_ends_in_a_traceback(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dice = random.Random(SEED)
    configured = [(name, verb) for name, verb in verbs().items() if verb.configured]
    seen = []
    for _ in range(FILES):
        name, verb = dice.choice(configured)
        lines = to_toml(verb.arguments()).split("\n")
        for _ in range(dice.randrange(3)):
            lines.insert(dice.randrange(len(lines)), dice.choice(LINES))
        if dice.random() < 0.2:
            lines = lines[: dice.randrange(len(lines))]
        data = "\n".join(lines).encode()
        if dice.random() < 0.2:
            place = dice.randrange(len(data) + 1)
            data = data[:place] + dice.randbytes(2) + data[place:]
        (tmp_path / "config.toml").write_bytes(data)
        seen.append(judge([name, "--config", "config.toml", "--print-config"], capsys))
    assert 20 < seen.count(0) < FILES - 20
