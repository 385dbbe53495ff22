"""The tables of a study: merged for a variant and a seed, and every mistake named before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from reflectioncoder.cli.main import main
from reflectioncoder.config.study import StudyConfig, run_settings
from reflectioncoder.config.toml import load, to_toml
from reflectioncoder.errors import UserError

TEXT = """
output = "OUT"
seeds = [3, 4]
seeded = ["train.seed", "build.seed"]
reference = "plain"
[build]
count = 20
levels = [1]
[builds.more]
count = 90
[train]
data = ["{build}/sequences.jsonl"]
batch_size = 4
[train.masking]
strategy = "mix"
semantics = "release"
[generate]
limit = 50
[evaluate]
seconds = 3
[variants.plain]
label = "plain tuning"
train = {objective = "instruction", data = ["{builds.more}/instructions.jsonl"]}
[variants.block]
tokens_of = "plain"
paper = {HumanEval = 75.0}
evaluate = {seconds = 4}
[variants.block.train.masking]
strategy = "block"
[variants.base]
trained = false
generate = {model = "other"}
[variants.as_it_is]
"""


def config(tmp_path: Path, text: str = TEXT) -> StudyConfig:
    path = tmp_path / "s.toml"
    path.write_text(text.replace("OUT", str(tmp_path / "out")))
    return load(StudyConfig, path)


def test_a_variants_tables_override_the_studys_key_by_key(tmp_path: Path) -> None:
    study = config(tmp_path)
    block, plain, base = (run_settings(study, name, 4) for name in ("block", "plain", "base"))
    assert block.train is not None and plain.train is not None and base.train is None
    assert (block.train.masking.strategy, block.train.masking.semantics) == ("block", "release")
    assert (block.train.batch_size, block.train.seed, plain.train.objective) == (4, 4, "instruction")
    assert (block.scores[0].evaluate.seconds, plain.scores[0].evaluate.seconds) == (4.0, 3.0)
    assert (base.scores[0].generate.model, base.scores[0].generate.limit) == ("other", 50)


def test_only_the_builds_that_placeholders_name_are_made(tmp_path: Path) -> None:
    study = config(tmp_path)
    builds = {name: run_settings(study, name, 3).builds for name in study.variants}
    assert {name: {key: made.count for key, made in found.items()} for name, found in builds.items()} == {
        "plain": {"more": 90}, "block": {"": 20}, "base": {}, "as_it_is": {"": 20},
    }  # fmt: skip
    assert (builds["plain"]["more"].levels, builds["plain"]["more"].seed) == ((1,), 3)


def test_a_study_is_written_as_it_is_read(tmp_path: Path) -> None:
    study = config(tmp_path)
    again = tmp_path / "again.toml"
    text = to_toml(study)
    again.write_text(text)
    assert '[variants.block.train.masking]\nstrategy = "block"\n' in text
    assert load(StudyConfig, again) == study
    assert list(load(StudyConfig, again).variants) == ["plain", "block", "base", "as_it_is"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch_size", "batchsize", "unknown key 'train.batchsize'; did you mean 'batch_size'?"),
        ('"block"', '"blok"', "key 'variants.block.train.masking.strategy': 'blok' is not one of"),
        ("{seconds = 4}", "{second = 4}", "unknown key 'variants.block.evaluate.second'; did you mean 'seconds'?"),
        ("label", "lable", "unknown key 'variants.plain.lable'; did you mean 'label'?"),
        ('reference = "plain"', "", "key 'reference' is missing: name the variant that the others are compared with"),
        ('reference = "plain"', 'reference = "plan"', "key 'reference': there is no variant 'plan'; did you mean"),
        ('tokens_of = "plain"', 'tokens_of = "base"', "key 'variants.block.tokens_of': variant 'base' is not trained"),
        ("limit = 50", 'output = "x"', "key 'generate.output': is set by the study"),
        ("limit = 50", 'model = "x"', "key 'generate.model': is the trained model; set train.model"),
        ("{build}", "{biuld}", "unknown placeholder {biuld}; did you mean {build}?"),
        ("{builds.more}", "{builds.mroe}", "unknown placeholder {builds.mroe}; did you mean {builds.more}?"),
        ("count = 90", 'count = "90"', "key 'builds.more.count': expected int, found '90'"),
        ('"build.seed"', '"generate.seed"', "generate.seed decides the held-out problems"),
        ('{model = "other"}', "{seed = 2}", "key 'variants.base.generate.seed': is 2, and 0 for variant 'plain'"),
        ('"build.seed"', '"seed"', "'seed' is not COMMAND.KEY"),
        ('"build.seed"', '"build.sede"', "unknown key 'build.sede'"),
        ("seeds = [3, 4]", "seeds = [3, 3]", "key 'seeds': needs one seed or more, each once"),
        ("[variants.base]", '[variants."a b"]', "key 'variants.a b': a name is made of letters"),
        ("seeds = [3, 4]", "sedes = [3]", "unknown key 'sedes'; did you mean 'seeds'?"),
    ],
)
def test_a_mistake_in_any_table_is_one_line(
    old: str, new: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert old in TEXT
    with pytest.raises(UserError) as error:
        config(tmp_path, TEXT.replace(old, new, 1))
    assert message in str(error.value)
    assert main(["study", str(tmp_path / "s.toml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"reflectioncoder study: configuration file {tmp_path / 's.toml'}: ")
    assert not (tmp_path / "out").exists()
