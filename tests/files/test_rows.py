"""A row has the same values whichever door it comes through: JSON, Parquet, Arrow, a folder, a saved data set."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from reflectioncoder.errors import UserError
from reflectioncoder.files.json_text import ReadLimits
from reflectioncoder.files.rows import iter_rows

# values that loaders like to change: digits, quoted text, dates, 70 bits, mixed types in one column
ROWS: list[dict[str, Any]] = [
    {"id": "1", "answer": "42", "quoted": '"yes"', "date": "2024-01-02", "when": "2024-01-02T03:04:05", "mixed": "a"},
    {"id": "2", "answer": "007", "quoted": "[1]", "date": "2024-01-03", "when": "2024-01-03T00:00:00", "mixed": [1]},
]


def values(source: Path | str, split: str = "train") -> list[Any]:
    return [row for _, row in iter_rows(str(source), split)]


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_folder_gives_the_values_that_the_file_alone_gives(tmp_path: Path) -> None:
    rows = [*ROWS, {"id": "3", "big": 2**69, "quoted": '"\\u00e9"'}]
    file = write(tmp_path / "d" / "x.jsonl", rows)
    assert values(file) == values(tmp_path / "d") == rows
    (tmp_path / "d" / "x.jsonl").unlink()
    (tmp_path / "d" / "x.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    assert values(tmp_path / "d") == rows


def test_parquet_and_saved_data_sets_give_the_values_that_were_written(tmp_path: Path) -> None:
    import datasets

    plain = [{key: value for key, value in row.items() if key != "mixed"} for row in ROWS]
    rows = datasets.Dataset.from_list(plain)
    rows.to_parquet(tmp_path / "p" / "x.parquet")
    rows.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": rows, "test": rows.select([1])}).save_to_disk(tmp_path / "splits")
    assert values(tmp_path / "p" / "x.parquet") == values(tmp_path / "p") == values(tmp_path / "saved") == plain
    assert values(next((tmp_path / "saved").glob("*.arrow"))) == plain
    assert values(tmp_path / "splits") == plain
    assert values(tmp_path / "splits", "test") == plain[1:]
    assert values(tmp_path / "splits", "all") == [*plain, plain[1]]
    with pytest.raises(UserError, match=r"splits: no split 'dev'; there are train, test"):
        values(tmp_path / "splits", "dev")
    rows.shuffle(seed=1).select([1]).save_to_disk(tmp_path / "chosen")  # datasets flattens the order
    assert len(values(tmp_path / "chosen")) == 1


def test_json_text_that_datasets_writes_for_mixed_shapes_is_decoded(tmp_path: Path) -> None:
    import datasets

    rows = [
        {"messages": [{"role": "user", "content": "Add."}, {"role": "assistant", "content": "x + 1"}], "mixed": 1},
        {"messages": [{"role": "user", "content": [{"type": "text", "content": "Add."}]}], "mixed": {"a": "b"}},
    ]
    made = datasets.Dataset.from_list(rows, on_mixed_types="use_json")
    made.to_parquet(tmp_path / "x.parquet")
    made.save_to_disk(tmp_path / "saved")
    assert values(tmp_path / "x.parquet") == values(tmp_path / "saved") == rows


def test_damaged_parquet_and_json_text_give_one_line(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "x.parquet"
    kind = pyarrow.json_()
    column = pyarrow.ExtensionArray.from_storage(kind, pyarrow.array(["1", "{oops", '"t"'], kind.storage_type))
    pyarrow.parquet.write_table(pyarrow.table({"a": column}), path)
    with pytest.raises(UserError, match=r"x.parquet, row 2: holds text that is not JSON"):
        values(path)
    skipped: list[str] = []
    assert [row for _, row in iter_rows(str(path), skipped=skipped)] == [{"a": 1}, {"a": "t"}]
    assert len(skipped) == 1
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"x.parquet: not readable as Parquet"):
        values(path)
    pyarrow.parquet.write_table(pyarrow.table({"a": ["x" * 10_000] * 1000}), path)  # a dictionary: a few kilobytes
    with pytest.raises(UserError, match=r"x.parquet: unpacks to more than 1 MB"):
        list(iter_rows(str(path), limits=ReadLimits(file_mb=1)))


def test_files_of_a_folder_belong_to_splits_by_the_words_in_their_names(tmp_path: Path) -> None:
    for name in ("my-train-00000-of-00002", "my-train-00001-of-00002", "test/part", "extra", "eval.dev"):
        write(tmp_path / f"{name}.jsonl", [name])
    for unread in ("README.md", ".hidden.jsonl", "dataset_info.json"):
        (tmp_path / unread).write_text("no rows")
    assert values(tmp_path) == ["extra", "my-train-00000-of-00002", "my-train-00001-of-00002"]
    assert values(tmp_path, "test") == ["eval.dev", "test/part"]
    assert len(values(tmp_path, "all")) == 5
    with pytest.raises(UserError, match=r"no split 'validation'; there are test, train, all"):
        values(tmp_path, "validation")
    (tmp_path / "my-train-00001-of-00002.jsonl").unlink()
    with pytest.raises(UserError, match=r"holds 1 of the 2 files my-train-\*-of-00002.jsonl"):
        values(tmp_path)


def test_a_data_card_says_which_files_belong_to_a_configuration(tmp_path: Path) -> None:
    write(tmp_path / "full" / "a.jsonl", ["full train"])
    write(tmp_path / "full" / "b.jsonl", ["full test"])
    write(tmp_path / "clean.jsonl", ["clean"])
    card = """---
configs:
- config_name: full
  data_files:
  - {split: train, path: "full/a*"}
  - {split: test, path: ["full/b.jsonl"]}
- config_name: clean
  data_files: clean.jsonl
---
Text.
"""
    (tmp_path / "README.md").write_text(card)
    assert values(f"{tmp_path}:full") == ["full train"]
    assert values(f"{tmp_path}:full", "test") == ["full test"]
    assert values(f"{tmp_path}:clean") == ["clean"]
    with pytest.raises(UserError, match=r"has the configurations full, clean; write one behind the name"):
        values(tmp_path)
    with pytest.raises(UserError, match=r"no configuration 'small'; there are full, clean"):
        values(f"{tmp_path}:small")
    (tmp_path / "clean.jsonl").unlink()
    with pytest.raises(UserError, match=r"README.md names clean.jsonl, which is not there"):
        values(f"{tmp_path}:clean")


def test_no_file_with_rows_is_left_out_or_read_twice_silently(tmp_path: Path) -> None:
    write(tmp_path / "x.jsonl", [1])
    (tmp_path / "y.jsonl.zst").write_bytes(b"")
    with pytest.raises(UserError, match=r"y.jsonl.zst is compressed in a format that is not read"):
        values(tmp_path)
    (tmp_path / "y.jsonl.zst").rename(tmp_path / "x.json.gz")
    with pytest.raises(UserError, match=r"holds x.json.gz and x.jsonl, the same rows twice as it seems"):
        values(tmp_path)
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "a.csv").write_text("a,b\n")
    with pytest.raises(UserError, match=r"no data file .*; it holds .csv"):
        values(tmp_path / "csv")


def test_the_folder_of_a_build_is_its_sequences_and_its_instructions(tmp_path: Path) -> None:
    for name in ("sequences", "instructions", "rejects", "problems.cache"):
        write(tmp_path / f"{name}.jsonl", [name])
    (tmp_path / "funnel.json").write_text("{}")
    (tmp_path / "ledger.sqlite").write_bytes(b"")
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: sequences.parquet\n---\n")
    assert values(tmp_path) == ["sequences", "instructions"]
    (tmp_path / "instructions.jsonl").unlink()
    with pytest.raises(UserError, match=r"is a build without instructions.jsonl; finish it first"):
        values(tmp_path)


def test_names_that_are_no_data_set_are_not_looked_up_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("data/missing", "data/x.jsonl", "/no/such/folder", "owner/x.parquet", "x"):
        with pytest.raises(UserError, match=f"^{name}: no such file or folder$"):
            values(name)
