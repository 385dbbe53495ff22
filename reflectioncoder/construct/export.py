"""Exports the files of a build in the order of its problems, with one sequence in memory at a time.

Results are read from the ledger on access, so only the problems are held in memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

from reflectioncoder.construct.filters import contamination
from reflectioncoder.construct.filters import near_duplicates as overlap
from reflectioncoder.construct.filters import sequence as filters
from reflectioncoder.construct.filters.contamination import Contamination
from reflectioncoder.construct.filters.sequence import Rejected
from reflectioncoder.construct.ledger.ledger import Ledger
from reflectioncoder.dialogues.dialogue import Dialogue, instruction_dialogue, write_jsonl
from reflectioncoder.files.folders import PASSED_FILE
from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.problems.problem import Problem

FILES = ("sequences.jsonl", "instructions.jsonl", "rejects.jsonl", "contamination.jsonl", "funnel.json")
PASSED = "passed_at_once"  # reason of an attempt that passed its tests: no sequence, but a plain sample


class Stored(Sequence[Dialogue]):
    """Sequences stored in a ledger; each is read on access.

    Args:
        ledger: an open ledger.
        ids: ids of finished problems with a sequence, in the order of the export.
    """

    def __init__(self, ledger: Ledger, ids: Sequence[str]) -> None:
        self.ledger, self.ids = ledger, ids

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, place: int) -> Dialogue: ...

    @overload
    def __getitem__(self, place: slice) -> Stored: ...

    def __getitem__(self, place: int | slice) -> Dialogue | Stored:
        if isinstance(place, slice):
            return Stored(self.ledger, self.ids[place])
        entry = self.ledger.get(self.ids[place])
        if entry is None:
            raise KeyError(f"problem {self.ids[place]} is not finished")
        return Dialogue.from_dict(entry.payload, f"ledger, problem {entry.id}")


class _Texts(Sequence[tuple[str, str]]):
    """Id and text (instruction and final code) of each sequence, for the near-duplicate filter."""

    def __init__(self, stored: Stored, instructions: Mapping[str, str]) -> None:
        self._stored, self._instructions = stored, instructions

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, place: int | slice) -> tuple[str, str]:  # type: ignore[override]
        assert isinstance(place, int)
        id = self._stored.ids[place]
        return id, f"{self._instructions[id]}\n{filters.final_code(self._stored[place])}"


def export_build(
    problems: Sequence[Problem],
    found: Sequence[Contamination],
    detector: contamination.Detector,
    ledger: Ledger,
    output: Path,
    near_duplicates: float = 0.9,
    attempts: bool = False,
) -> tuple[Stored, dict[str, int]]:
    """Write the files in `FILES` except the funnel, and count the sequences kept.

    Args:
        problems: all problems of the build.
        found: the contaminated problems.
        detector: contamination detector; it checks the final code of problems that have no solution of their own.
        ledger: results of the problems; problems without a result count as unfinished.
        output: directory to write to.
        near_duplicates: two sequences are near-duplicates if the Jaccard index of their 5-grams is at least this; above
            1 the filter is off.
        attempts: also write the attempts that passed as plain samples, to `PASSED_FILE`.

    Returns:
        the sequences kept, and the funnel.
    """
    copied = {item.id: item for item in found}
    rejects = {item.id: _rejection(item) for item in found}
    done, unfinished = [], 0
    for problem in problems:
        if problem.id in rejects:
            continue
        entry = ledger.get(problem.id)
        if entry is None:
            unfinished += 1
        elif entry.status == "rejected":
            rejects[problem.id] = Rejected(problem.id, entry.reason, entry.detail)
        else:
            done.append(problem.id)
            if not problem.solution and len(detector):
                code = filters.final_code(Dialogue.from_dict(entry.payload, f"ledger, problem {problem.id}"))
                item = detector.check(problem.id, ("", code), problem.entry_point or "")
                if item is not None:
                    copied[problem.id], rejects[problem.id] = item, _rejection(item)
    passed = [id for id, rejected in rejects.items() if rejected.reason == PASSED]
    ids = [id for id in done if id not in rejects]
    if near_duplicates <= 1:
        instructions = {problem.id: problem.instruction for problem in problems}
        for some in (ids, passed):
            for same in overlap.near_duplicates(_Texts(Stored(ledger, some), instructions), near_duplicates):
                detail = f"{same.share:.0%} of the 5-grams are those of {same.other}"
                rejects[same.id] = Rejected(same.id, "near_duplicate", detail)
        ids = [id for id in ids if id not in rejects]
    kept = Stored(ledger, ids)
    if attempts:
        write_jsonl(output / PASSED_FILE, Stored(ledger, [id for id in passed if rejects[id].reason == PASSED]))
    write_jsonl(output / "sequences.jsonl", kept)
    write_jsonl(output / "instructions.jsonl", map(last_round_dialogue, kept))
    write_lines(output / "rejects.jsonl", _reject_lines(problems, rejects, ledger))
    report = (copied[problem.id].to_dict() for problem in problems if problem.id in copied)
    write_lines(output / "contamination.jsonl", (json.dumps(line, ensure_ascii=False) for line in report))
    return kept, _funnel(len(problems), unfinished, Counter(reject.reason for reject in rejects.values()), len(ids))


def _reject_lines(problems: Sequence[Problem], rejects: Mapping[str, Rejected], ledger: Ledger) -> Iterator[str]:
    for problem in problems:
        reject = rejects.get(problem.id)
        if reject is not None and reject.reason != PASSED:
            entry = ledger.get(problem.id)
            sequence = None if entry is None else entry.payload
            told = {"id": problem.id, "reason": reject.reason, "detail": reject.detail}
            line = {**told, "instruction": problem.instruction, "sequence": sequence}
            yield json.dumps(line, ensure_ascii=False)


def _funnel(problems: int, unfinished: int, counts: Mapping[str, int], kept: int) -> dict[str, int]:
    last = [*filters.FILTERS, "final_code_fails", "non_deterministic", "internal_error", "near_duplicate"]
    reasons = ["contaminated", *sorted(counts.keys() - {"contaminated", *last}), *last]  # in the order of the steps
    return {
        "problems": problems,
        **({"unfinished": unfinished} if unfinished else {}),
        **{reason: counts[reason] for reason in reasons if counts.get(reason)},
        "sequences": kept,
    }


def _rejection(item: Contamination) -> Rejected:
    return Rejected(
        item.id, "contaminated", f"has {item.share:.0%} of the {item.part} of {item.reference}: '{item.example}'"
    )


def last_round_dialogue(dialogue: Dialogue) -> Dialogue:
    """Convert the second round of a reflection dialogue to plain instruction data."""
    instruction = "".join(block.content for block in dialogue.messages[-2].blocks)
    kept = {key: dialogue.extra[key] for key in ("id", "source", "licence", "level") if key in dialogue.extra}
    return instruction_dialogue(instruction, dialogue.final_answer, **kept)
