"""The ledger keeps finished work whatever happens to the process, and never mixes two builds."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from reflectioncoder.cli.build import describe
from reflectioncoder.construct.ledger.ledger import Entry, Ledger, progress
from reflectioncoder.errors import UserError

PRINT = {"seed": 1, "count": 3}
KILLED = """
import itertools, sys
from reflectioncoder.construct.ledger.ledger import Entry, Ledger
ledger = Ledger(sys.argv[1], {"seed": 1, "count": 3})
for number in itertools.count():
    ledger.put(Entry(f"p{number}", "done", payload={"n": number, "text": "x" * 5000}))
    print(number, flush=True)
"""


def test_entries_come_back_as_they_were(tmp_path: Path) -> None:
    done = Entry("é/1", "done", payload={"messages": [{"a": "ü"}]})
    rejected = Entry("b", "rejected", "input_output", "`open` in line 1")
    with Ledger(tmp_path, PRINT) as ledger:
        assert ledger.put(done)
        assert ledger.put(rejected)
        assert ledger.note("seconds") is None
        ledger.note("seconds", 2.5)
    with Ledger(tmp_path, dict(reversed(PRINT.items()))) as ledger:  # the order of keys does not matter
        assert ledger.finished() == {"é/1", "b"}
        assert ledger.get("é/1") == done
        assert ledger.get("b") == rejected
        assert ledger.get("c") is None
        assert ledger.note("seconds") == 2.5


def test_a_problem_is_recorded_once(tmp_path: Path) -> None:
    with Ledger(tmp_path, PRINT) as ledger:
        assert ledger.put(Entry("a", "done", payload=1))
        assert not ledger.put(Entry("a", "rejected", "late"))
        assert ledger.get("a") == Entry("a", "done", payload=1)


def test_a_changed_setting_is_refused_by_name(tmp_path: Path) -> None:
    with Ledger(tmp_path, PRINT) as ledger:
        ledger.put(Entry("a", "done"))
    with pytest.raises(UserError, match=r"other settings \(count was 3, is 4, io was null, is true\)"):
        Ledger(tmp_path, {"seed": 1, "count": 4, "io": True})
    Ledger(tmp_path, PRINT).close()  # the refused build neither changed nor locked it


def test_an_empty_ledger_binds_nobody(tmp_path: Path) -> None:
    with Ledger(tmp_path, PRINT) as ledger:  # a run that failed before its first result
        ledger.note("total", 3)
        ledger.digests({"a": "1"})
    with Ledger(tmp_path, {**PRINT, "count": 4}) as ledger:
        assert (ledger.note("total"), ledger.digests()) == (None, {})
        ledger.add_event("a", 0, "answer", {})
    with pytest.raises(UserError, match=r"other settings \(count was 4, is 3\)"):
        Ledger(tmp_path, PRINT)


def test_a_second_holder_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, PRINT)
    with pytest.raises(UserError, match=rf"another build \(process {os.getpid()}\) is using it"):
        Ledger(tmp_path, PRINT)
    ledger.put(Entry("a", "done"))
    ledger.close()
    with Ledger(tmp_path, PRINT) as again:
        assert again.finished() == {"a"}


def test_a_killed_process_loses_nothing_it_had_recorded_and_holds_no_lock(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(20)]
        process.send_signal(signal.SIGKILL)
        said += [int(line) for line in process.stdout.read().splitlines()]
    with Ledger(tmp_path, PRINT) as ledger:
        finished = ledger.finished()
        assert {f"p{number}" for number in said} <= finished
        assert len(finished) - len(said) in (0, 1)
        for id in finished:
            entry = ledger.get(id)
            assert entry is not None
            assert entry.payload == {"n": int(id[1:]), "text": "x" * 5000}


def test_a_full_disk_gives_one_line_and_keeps_what_was_there(tmp_path: Path) -> None:
    with Ledger(tmp_path, PRINT) as ledger:
        ledger.put(Entry("a", "done", payload="kept"))
        pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
        ledger._connection.execute(f"PRAGMA max_page_count={pages}")  # makes SQLite report a full disk
        with pytest.raises(UserError, match=r"full; free some space, then run again") as caught:
            ledger.put(Entry("b", "done", payload="x" * 100_000))
        assert "\n" not in str(caught.value)
        assert ledger.finished() == {"a"}


def test_a_file_that_is_no_ledger_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"something else" * 100)
    with pytest.raises(UserError, match="not a database"):
        Ledger(tmp_path, PRINT)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write to"):
        Ledger(tmp_path / "file", PRINT)


def test_a_damaged_ledger_gives_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a", PRINT) as ledger:
        for number in range(50):
            ledger.put(Entry(f"p{number}", "done", payload="x" * 500))
    whole = (tmp_path / "a" / "ledger.sqlite").read_bytes()
    database = sqlite3.connect(tmp_path / "a" / "ledger.sqlite")
    database.execute("UPDATE meta SET value = '{no json' WHERE key = 'fingerprint'")
    database.commit()
    database.close()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "ledger.sqlite").write_bytes(whole[:20_000])
    for folder in ("a", "b"):
        for look in (
            lambda folder=folder: Ledger(tmp_path / folder, PRINT),
            lambda folder=folder: progress(tmp_path / folder),
        ):
            with pytest.raises(UserError, match=r"the file is damaged: restore a copy of it") as caught:
                look()
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("beside", ["sequences.jsonl", "funnel.json", "config.versions.json", "problems.cache.jsonl"])
@pytest.mark.parametrize("empty", [True, False])
def test_a_ledger_that_is_gone_or_empty_beside_files_of_a_build_is_not_taken_for_new(
    tmp_path: Path, beside: str, empty: bool
) -> None:
    path = tmp_path / "ledger.sqlite"
    if empty:
        path.touch()
    Ledger(tmp_path / "new", PRINT).close()
    (tmp_path / beside).write_text("{}")
    state = "empty" if empty else "missing"
    with pytest.raises(UserError, match=rf"is {state}, but .* holds {beside} of a run: restore a copy") as caught:
        Ledger(tmp_path, PRINT)
    assert "\n" not in str(caught.value)
    assert path.exists() == empty
    assert not empty or path.stat().st_size == 0
    (tmp_path / beside).unlink()
    Ledger(tmp_path, PRINT).close()  # an empty file alone is a build that was killed as it began


def test_the_same_problems_by_another_path_are_the_same_settings(tmp_path: Path) -> None:
    old = {"problems": "/data/a/own.jsonl", "problem_texts": "x", "native.model": "runs/m", "native.weights": "w"}
    with closing(Ledger(tmp_path, old)) as ledger:
        ledger.put(Entry("a", "done", payload={"messages": []}))  # a ledger without results binds nobody
    Ledger(tmp_path, {**old, "problems": "own.jsonl", "native.model": "/elsewhere/runs/m"}).close()
    for change in (
        {"problems": "own.jsonl", "problem_texts": "y"}, {"problems": "b/other.jsonl"}, {"native.weights": "v"},
        {"native.model": "runs/n"},
    ):  # fmt: skip
        with pytest.raises(UserError, match="created with other settings"):
            Ledger(tmp_path, {**old, **change})


def test_a_ledger_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    Ledger(tmp_path, PRINT).close()
    database = sqlite3.connect(tmp_path / "ledger.sqlite")
    database.execute("PRAGMA user_version=1000")
    database.close()
    for look in (lambda: Ledger(tmp_path, PRINT), lambda: progress(tmp_path)):
        with pytest.raises(UserError, match=r"^ledger .*written by a newer version of reflectioncoder"):
            look()


def test_what_is_recorded_together_is_there_all_or_not_at_all(tmp_path: Path) -> None:
    with Ledger(tmp_path, PRINT) as ledger:
        ledger.put(Entry("a", "done"))

        def cut_off() -> None:
            with ledger.together():
                ledger.put(Entry("b", "done"))
                ledger.digests({"b": "x"})
                ledger.add_event("b", 0, "answer", {}, 1)
                ledger.note("forked", 1)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            cut_off()
        assert (ledger.finished(), ledger.digests(), ledger.events("b"), ledger.note("forked")) == ({"a"}, {}, [], None)
        with ledger.together():
            ledger.put(Entry("b", "done"), timed=False)
            ledger.digests({"b": "x"})
    with Ledger(tmp_path, PRINT) as ledger:
        assert (ledger.finished(), ledger.digests()) == ({"a", "b"}, {"b": "x"})


def test_others_may_read_along(tmp_path: Path) -> None:
    with Ledger(tmp_path, PRINT) as ledger:
        ledger.put(Entry("a", "done"))
        reader = sqlite3.connect(f"file:{tmp_path / 'ledger.sqlite'}?mode=ro", uri=True)
        assert reader.execute("SELECT count(*) FROM problems").fetchone() == (1,)
        reader.close()


def test_steps_of_a_conversation_come_back_in_order_and_only_once(tmp_path: Path) -> None:
    with Ledger(tmp_path, PRINT) as ledger:
        ledger.add_event("a", 0, "answer", {"text": "é"}, 1, (10, 5))
        ledger.add_event("b", 0, "failed", {"reason": "timeout"}, 2)
        ledger.add_event("a", 1, "execution", {"outcome": "ok"})
        with pytest.raises(ValueError, match="problem a has step 1 already"):
            ledger.add_event("a", 1, "answer", {}, 1, (10, 5))
    with Ledger(tmp_path, PRINT) as ledger:
        assert ledger.events("a") == [("answer", {"text": "é"}), ("execution", {"outcome": "ok"})]
        assert ledger.events("c") == []
        assert ledger.last_kinds() == {"a": "execution", "b": "failed"}
        assert ledger.spent() == (3, 10, 5)


def test_progress_is_read_while_a_build_holds_the_ledger(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; give the output directory"):
        progress(tmp_path)
    with Ledger(tmp_path, PRINT) as ledger:
        assert progress(tmp_path).total == 0
        ledger.note("total", 9)
        ledger.note("contaminated", 2)
        ledger.note("prices", [1, 2])
        ledger.add_event("a", 0, "answer", {}, 1, (10, 5))
        ledger.add_event("b", 0, "answer", {}, 1, (10, 5))
        for id, status, reason in (("a", "done", ""), ("c", "rejected", "x"), ("d", "rejected", "x")):
            ledger.put(Entry(id, status, reason))  # type: ignore[arg-type]
        database = sqlite3.connect(tmp_path / "ledger.sqlite")
        database.executemany("UPDATE finished_at SET at = ? WHERE id = ?", [(1000, "a"), (1010, "c"), (1030, "d")])
        database.commit()
        database.close()
        found = progress(tmp_path, now=1030)
        assert found.running
        assert progress(tmp_path, now=1060).per_minute == 2.0  # none since
        assert progress(tmp_path, now=1009).per_minute == 0  # too short a time to measure
    assert (found.total, found.done, found.rejected, found.open) == (7, 1, {"x": 2}, 1)
    assert (found.requests, found.tokens_in, found.tokens_out, found.prices) == (2, 20, 10, (1, 2))
    assert found.per_minute == 4.0  # two more problems within half a minute
    stopped = progress(tmp_path, now=1030)
    assert (stopped.running, stopped.per_minute) == (False, 0)
    assert not [line for line in describe(stopped) if line.startswith(("speed", "time left"))]
    assert describe(found) == [
        "state                 running",
        "problems finished     3 of 7 (42.9%)",
        "  sequences so far    1",
        "  x                   2",
        "conversations open    1",
        "spent                 2 requests, 20 tokens in, 10 out, 4e-05 in money",
        "speed                 4.0 problems a minute",
        "time left             1.0 minutes",
    ]
