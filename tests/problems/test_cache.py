import json
from pathlib import Path

import pytest

from reflectioncoder.errors import UserError
from reflectioncoder.problems.cache import CACHE, WORTH_IT, Loaded, load_once
from reflectioncoder.problems.load import load_problems
from reflectioncoder.problems.problem import Problem
from reflectioncoder.problems.procedural import problems as procedural


def many(path: Path, count: int = WORTH_IT + 5) -> Path:
    rows = [{"id": f"p{n}", "instruction": f"Write f{n}.", "tests": [f"assert f{n}(1) == {n}"]} for n in range(count)]
    rows[7] = {"id": "p7", "instruction": ""}
    rows[9]["id"] = "p8"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def loader(path: Path, folder: Path) -> tuple[Loaded, bool]:
    """Load problems through the cache; return them, and whether the source was read."""
    calls = []

    def read() -> Loaded:
        calls.append(1)
        skipped: list[str] = []
        renamed: list[str] = []
        return Loaded(load_problems(str(path), "", "train", 0, skipped, renamed), skipped, renamed)

    return load_once(str(path), ("", "train"), folder, read), bool(calls)


def test_the_second_load_gives_the_same_without_reading_the_source_again(tmp_path: Path) -> None:
    path = many(tmp_path / "problems.jsonl")
    first, read = loader(path, tmp_path / "build")
    assert read and len(first.problems) == WORTH_IT + 4 and len(first.skipped) == len(first.renamed) == 1
    again, read = loader(path, tmp_path / "build")
    assert not read and again == first


@pytest.mark.slow
def test_a_changed_source_or_a_damaged_cache_is_read_anew(tmp_path: Path) -> None:
    path = many(tmp_path / "problems.jsonl")
    first, _ = loader(path, tmp_path)
    path.write_text(path.read_text().replace("Write f3.", "Write f3 well."))
    changed, read = loader(path, tmp_path)
    assert read and changed != first and changed.problems[3].instruction.startswith("Write f3 well.")
    cache = tmp_path / CACHE
    cache.write_text(cache.read_text()[:-40])
    assert loader(path, tmp_path) == (changed, True)
    assert loader(path, tmp_path) == (changed, False)


def test_few_problems_leave_no_cache_and_what_cannot_be_read_raises(tmp_path: Path) -> None:
    loader(many(tmp_path / "few.jsonl", 50), tmp_path)
    assert not (tmp_path / CACHE).exists()
    with pytest.raises(UserError, match=r"no\.jsonl"):
        loader(tmp_path / "no.jsonl", tmp_path)


def test_every_field_of_a_problem_survives(tmp_path: Path) -> None:
    made = [*procedural.procedural_problems(3, 0, "train", (1, 2)), Problem("x", "y", level=None)] * (WORTH_IT // 4 + 1)
    assert load_once("procedural", (1,), tmp_path, lambda: Loaded(made)) == Loaded(made)
    cached = load_once("procedural", (1,), tmp_path, lambda: pytest.fail("read again"))
    assert cached == Loaded(made)
