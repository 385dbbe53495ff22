"""The Parquet file, data set directory and data card agree with the JSONL file and replace older ones atomically."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reflectioncoder.construct.outputs import (
    CARD,
    DATASET,
    OURS,
    PARQUET,
    Card,
    check_formats,
    error_of,
    export_formats,
    render_card,
    write_card,
)
from reflectioncoder.dialogues.dialogue import Block, Dialogue, reflection_dialogue
from reflectioncoder.errors import UserError

TRACE = "ZeroDivisionError                         Traceback (most recent call last)\nCell In[1], line 4\nE: d"
SYNTAX = "  Cell In[1], line 1\n    def f(:\n          ^\nSyntaxError: invalid syntax"


def sequence(id: str, executions: tuple[str, ...], **extra: object) -> Dialogue:
    blocks = [item for text in executions for item in (Block("code", "x = 'é'"), Block("execution", text))]
    return reflection_dialogue("Write and test `f`.", blocks, "Write `f`.", "def f(): ...", id=id, **extra)


KEPT = [
    sequence("a", (TRACE, ""), source="mbpp", licence="MIT", level=2, provenance={"model": "m", "rounds": 2}),
    sequence("b", (SYNTAX, TRACE, "1"), source="own", other=[1]),
]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (TRACE, "ZeroDivisionError"),
        (SYNTAX, "SyntaxError"),
        ("my.pkg.OddError                     Traceback (most recent call last)\nx", "my.pkg.OddError"),
        ("3\nThe interpreter was stopped (over 5 s) and has lost its state.", "stopped"),
        ("an Error in the middle of a line", None),
        ("", None),
    ],
)
def test_error_classes(text: str, name: str | None) -> None:
    assert error_of(text) == name


def test_parquet_and_data_set_hold_what_jsonl_holds(tmp_path: Path) -> None:
    import datasets
    import pyarrow.parquet

    export_formats(tmp_path, KEPT, ("jsonl", "parquet", "dataset"))
    rows = pyarrow.parquet.read_table(tmp_path / PARQUET).to_pylist()
    assert list(datasets.load_from_disk(str(tmp_path / DATASET))) == rows
    for row, dialogue in zip(rows, KEPT, strict=True):
        assert Dialogue.from_dict({"messages": row["messages"], "type": row["type"]}).messages == dialogue.messages
    assert [(row["id"], row["source"], row["licence"], row["level"]) for row in rows] == [
        ("a", "mbpp", "MIT", 2), ("b", "own", None, None),
    ]  # fmt: skip
    assert [json.loads(row["provenance"]) for row in rows] == [{"model": "m", "rounds": 2}, {"other": [1]}]
    assert sorted(path.name for path in tmp_path.iterdir()) == [DATASET, PARQUET]  # no temporary files are left


def test_what_was_there_is_replaced_and_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    import datasets

    export_formats(tmp_path, KEPT, ("parquet", "dataset"))
    before = (tmp_path / PARQUET).read_bytes()
    export_formats(tmp_path, KEPT[:1], ("parquet", "dataset"))
    assert len(datasets.load_from_disk(str(tmp_path / DATASET))) == 1
    export_formats(tmp_path, KEPT, ("parquet", "dataset"))
    assert (tmp_path / PARQUET).read_bytes() == before
    export_formats(tmp_path, [], ("parquet", "dataset"))
    assert len(datasets.load_from_disk(str(tmp_path / DATASET))) == 0


def test_a_full_disk_gives_one_line_and_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cannot write .*sequences.parquet"):
        export_formats(tmp_path / "file", KEPT, ("parquet",))


def test_unknown_formats_are_named() -> None:
    check_formats(("jsonl", "parquet", "dataset"))
    with pytest.raises(UserError, match="'csv' is not one of jsonl, parquet, dataset"):
        check_formats(("jsonl", "csv"))


def card(dialogues: list[Dialogue], **changes: object) -> Card:
    funnel = {"skipped_rows": 3, "problems": 4, "single_round": 2, "sequences": 2}
    origins = [("mbpp", "MIT"), ("mbpp", "MIT"), ("own", ""), ("own", "")]
    known = {"funnel": funnel, "dialogues": dialogues, "origins": origins, "how": {"seed": 3}, "formats": ("jsonl",)}
    return Card(**{**known, **changes})  # type: ignore[arg-type]


def test_the_card_counts() -> None:
    text = render_card(card(KEPT))
    for row in (
        "| rows that could not be read | 3 |  |",
        "| problems |  | 4 |",
        "| single round | 2 | 2 |",
        "| sequences |  | 2 |",
        "| mbpp | MIT | 2 | 1 |",
        "| own | not stated | 2 | 1 |",
        "| 2 | 1 |\n| 3 | 1 |",
        "| ZeroDivisionError | 2 |\n| SyntaxError | 1 |",
        "| seed | 3 |",
        "| final answer | 26 | 26 | 26 | 26 | 26 |",  # 9 + 1 + 12 + 1 + 3
    ):
        assert row in text
    assert "none" in render_card(card([]))


def test_the_head_is_what_the_hub_reads() -> None:
    import yaml

    def head(given: Card) -> dict[str, object]:
        _, text, _ = render_card(given).split("---\n", 2)
        return dict(yaml.safe_load(text))

    assert head(card(KEPT)) == {
        "pretty_name": "Reflection sequences",
        "language": ["en"],
        "license": "other",  # two licences
        "task_categories": ["text-generation"],
        "size_categories": ["n<1K"],
        "tags": ["code", "synthetic", "reflection"],
        "configs": [{"config_name": "default", "data_files": "sequences.jsonl"}],
    }
    one = head(card(KEPT[:1], formats=("jsonl", "parquet")))
    assert (one["license"], one["configs"]) == ("mit", [{"config_name": "default", "data_files": PARQUET}])


def test_a_readme_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    assert write_card(tmp_path, card(KEPT)).name == CARD
    assert write_card(tmp_path, card(KEPT)).name == CARD
    assert OURS in (tmp_path / CARD).read_text()
    (tmp_path / CARD).write_text("# My project\n")
    assert write_card(tmp_path, card(KEPT)).name == "data_card.md"
    assert (tmp_path / CARD).read_text() == "# My project\n"
