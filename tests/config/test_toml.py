import json

import pytest

from reflectioncoder.config.build import BuildConfig
from reflectioncoder.config.evaluate import EvaluateConfig
from reflectioncoder.config.toml import load, save, to_toml
from reflectioncoder.config.train import TrainConfig
from reflectioncoder.errors import UserError


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('epochs = 3\nseed = 5\n[masking]\nstrategy = "random"\n')
    config = load(TrainConfig, path, {"seed": "6", "masking.order": "code,text,execution", "loss.distillation": "0.5"})
    assert (config.epochs, config.seed, config.masking.strategy) == (3.0, 6, "random")
    assert config.masking.order == ("code", "text", "execution")
    assert config.loss.distillation == 0.5
    assert config.learning_rate == 5e-5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "unknown key 'epoch'; did you mean 'epochs'?"),
        ("[masking]\nstrategi = 1", "unknown key 'masking.strategi'; did you mean 'strategy'?"),
        ('seed = "x"', "key 'seed': expected int, found 'x'"),
        ("seed = true", "key 'seed': expected int, found True"),
        ("seed = 1.5", "key 'seed': expected int, found 1.5"),
        ("resume = 1", "key 'resume': expected bool, found 1"),
        ("masking = 3", "key 'masking': expected a table, found 3"),
        ('[masking]\nstrategy = "blok"', "key 'masking.strategy': 'blok' is not one of block"),
        ('data = "a.jsonl"', "key 'data': expected a list, found 'a.jsonl'"),
        ("data = [1]", "key 'data': expected str, found 1"),
        ("seed = ", "Invalid value"),
    ],
)
def test_a_bad_file_names_itself_and_the_key(tmp_path, text, message):
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load(TrainConfig, path)
    assert str(error.value).startswith(f"configuration file {path}: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("sed", "1", "unknown key 'sed'; did you mean 'seed'?"),
        ("seed", "one", "flag --seed: expected int, found 'one'"),
        ("resume", "maybe", "flag --resume: expected true or false, found 'maybe'"),
        ("masking", "x", "is a table; set one of its keys"),
        ("seed.x", "1", "'seed' has no keys of its own"),
        ("precision", "float16", "'float16' is not one of float32, bfloat16"),
    ],
)
def test_a_bad_flag_names_itself(key, text, message):
    with pytest.raises(UserError) as error:
        load(TrainConfig, None, {key: text})
    assert message in str(error.value)


@pytest.mark.parametrize("cls", [BuildConfig, TrainConfig, EvaluateConfig])
def test_what_is_saved_loads_as_the_same_value(tmp_path, cls):
    config = load(cls, None, {"output": 'a "quoted" näme'})
    save(config, tmp_path / "out")
    assert load(cls, tmp_path / "out" / "config.toml") == config
    assert to_toml(config) == (tmp_path / "out" / "config.toml").read_text()
    assert json.loads((tmp_path / "out" / "config.versions.json").read_text())["python"].startswith("3.")


TABLE = {"reasoning_effort": "low", "a": {"b": [1, 2.5, True, {"c": 'é "x"'}]}, "null": "null"}
IN_TOML = """
[chat.extra_body]
reasoning_effort = "low"
null = "null"
[chat.extra_body.a]
b = [1, 2.5, true, {c = 'é "x"'}]
"""


@pytest.mark.parametrize("text", [IN_TOML, f"[chat]\nextra_body = '{json.dumps(TABLE)}'"])
def test_a_table_of_free_keys_is_a_toml_table_or_the_text_of_a_json_object(tmp_path, text):
    (tmp_path / "a.toml").write_text(text)
    assert load(BuildConfig, tmp_path / "a.toml").chat.extra_body == TABLE
    flags = {"chat.extra_body": json.dumps(TABLE), "chat.extra_headers": '{"X-Title": "t"}', "chat.extra_query": ""}
    chat = load(BuildConfig, None, flags).chat
    assert (chat.extra_body, chat.extra_headers, chat.extra_query) == (TABLE, {"X-Title": "t"}, {})


@pytest.mark.parametrize("table", [TABLE, {}, {"stop": None}, {"a": [None, {"b": None}]}, {"a.b c": {}, "é": [[]]}])
def test_a_table_of_free_keys_is_saved_as_it_is_read(tmp_path, table):
    config = load(BuildConfig, None, {"chat.extra_body": json.dumps(table)})
    assert config.chat.extra_body == table
    (tmp_path / "a.toml").write_text(to_toml(config))
    assert load(BuildConfig, tmp_path / "a.toml") == config
    assert hash(config.chat) == hash(load(BuildConfig, tmp_path / "a.toml").chat)


@pytest.mark.parametrize(
    "text", ["x", "[1]", "1", "null", '{"a": }', '{"a": NaN}', '{"a": 1e999}', "[" * 5000, '{"a": "\\ud800"}']
)
def test_a_table_of_free_keys_that_cannot_be_read_is_not_shown(text):
    with pytest.raises(UserError, match=r"^flag --chat\.extra_body: (expected a table|holds a value)") as error:
        load(BuildConfig, None, {"chat.extra_body": text})
    assert len(str(error.value)) < 200
    with pytest.raises(UserError, match="the value of 'v' must be text in quotes"):
        load(BuildConfig, None, {"chat.extra_query": '{"v": 1}'})


def test_a_date_in_a_table_of_free_keys_is_refused(tmp_path):
    (tmp_path / "a.toml").write_text("[chat.extra_body]\nday = 2026-11-30\n")
    with pytest.raises(UserError, match=r"a\.toml: key 'chat\.extra_body': holds a value that JSON cannot express"):
        load(BuildConfig, tmp_path / "a.toml")


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        load(TrainConfig, tmp_path / "none.toml")
