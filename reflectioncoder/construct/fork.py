"""Starts a new build that reuses the valid results of another build: `build --fork NEW`.

A ledger belongs to one configuration. When the configuration changes, most of the paid answers often stay valid: a
model's answer to the same prompt does not depend on the filters. `TOUCHES` lists what each setting affects. Problems
are compared by their text. The old ledger is opened read-only and locked, so that no build can write to it meanwhile.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from reflectioncoder.clients.budget import Usage
from reflectioncoder.clients.messages import OF_THE_PROBLEM, Answer
from reflectioncoder.config.build import BuildConfig
from reflectioncoder.construct.conversation.conversation import (
    DUE,
    Ask,
    Checked,
    Conversation,
    ConversationRules,
    Event,
    from_record,
    to_record,
)
from reflectioncoder.construct.conversation.scheduler import FAILED, rules_of
from reflectioncoder.construct.ledger.database import OtherSettingsError, changes, check_layout, connect_to_read
from reflectioncoder.construct.ledger.ledger import Entry, Ledger, labels, progress
from reflectioncoder.errors import UserError
from reflectioncoder.files.json_value import parse_json
from reflectioncoder.problems.problem import Problem

Touched = Literal["last filters", "problems", "verdicts", "executions", "answers"]
TOUCHES: Mapping[str, Touched] = {
    # applied to all sequences together at the end of every build, so no record depends on them
    "near_duplicates": "last filters", "decontaminate": "last filters", "contamination_share": "last filters",
    "decontaminate_fields": "last filters", "decontaminate_split": "last filters",
    # affect which problems there are
    "problems": "problems", "fields": "problems", "split": "problems", "count": "problems", "levels": "problems",
    "problem_texts": "problems", "native.samples": "problems", "attempts.samples": "problems",
    # affect the verdict on given answers and executions
    "io_names": "verdicts", "io_match": "verdicts", "max_rounds": "verdicts", "repeats": "verdicts",
    "added_filters": "verdicts", "reflectioncoder": "verdicts", "attempts.largest_repair": "verdicts",
    "attempts.answer": "verdicts",
    # affect the output of a program, and so every later answer
    "seconds": "executions", "memory_mb": "executions", "isolation": "executions", "ipython": "executions",
    "python": "executions", "libraries": "executions",
}  # fmt: skip
# every other setting (model, prompts, seed, ...) affects all answers
ALL: Touched = "answers"
# raising one of these limits affects only the records that ran into it
EXECUTION_LIMITS = ("seconds", "memory_mb")
ANSWER_LIMITS = ("chat.max_tokens", "native.max_new_tokens")
CUT_OFF = "length"  # `finish` of an answer that ran into the token limit
FACTS = tuple(f"answer_{reason}" for reason in OF_THE_PROBLEM)  # rejections due to the model, not the filters
TOO_LONG = "answer_too_long"
LABELS = ("id", "source", "licence", "level")


@dataclass(frozen=True)
class Change:
    """Which records of a build stay valid under changed settings.

    Args:
        verdicts: whether the verdicts on finished problems stay valid.
        executions: which executions stay valid: all, those within their limits, or none.
        answers: the same for the model's answers.
    """

    verdicts: bool = True
    executions: Literal["all", "within limits", "none"] = "all"
    answers: Literal["all", "within limits", "none"] = "all"

    def keeps(self, event: Event) -> bool:
        """Whether an event by itself stays valid; it must also follow valid events."""
        if isinstance(event, Answer):
            return self.answers == "all" or (self.answers == "within limits" and event.finish != CUT_OFF)
        within = not event.detail if isinstance(event, Checked) else event.outcome in ("ok", "error")
        return self.executions == "all" or (self.executions == "within limits" and within)


def change_of(old: Mapping[str, Any], new: Mapping[str, Any]) -> Change:
    """Compare the fingerprints of an old and a new build: which records of the old one stay valid in the new one."""
    changed = changes(old, new)
    raised = {key for key in changed if key in (*EXECUTION_LIMITS, *ANSWER_LIMITS) and _raised(old, new, key)}
    touched = {TOUCHES.get(key, ALL) for key in changed if key not in raised}
    return Change(
        not raised and not touched & {"verdicts", "executions", "answers"},
        "none" if "executions" in touched else "within limits" if raised & {*EXECUTION_LIMITS} else "all",
        "none" if "answers" in touched else "within limits" if raised & {*ANSWER_LIMITS} else "all",
    )


def _raised(old: Mapping[str, Any], new: Mapping[str, Any], key: str) -> bool:
    numbers = old.get(key), new.get(key)
    return all(isinstance(number, (int, float)) for number in numbers) and numbers[0] < numbers[1]  # type: ignore[operator]


def problem_digest(problem: Problem) -> str:
    """Hash everything in a problem, except its id, that its conversation or its verdict depends on."""
    given = (problem.given,) if problem.given else ()
    parts = repr((problem.instruction, problem.solution, problem.tests, problem.entry_point, *given))
    return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def kept(
    problem: Problem,
    entry: Entry | None,
    events: Sequence[Event],
    change: Change,
    rules: ConversationRules,
    kind: type[Conversation] = Conversation,
) -> tuple[Entry | None, list[Event]]:
    """Return the valid part of a problem's record: its verdict, and the longest valid prefix of its events.

    Args:
        problem: the problem in the new build; its text is unchanged.
        entry: its ledger entry; None if it is not finished.
        events: the events of its conversation.
        change: which records stay valid under the changed settings.
        rules: settings of the conversation in the new build.
        kind: class of the conversation.
    """
    if change.verdicts:
        return entry, list(events)
    conversation, stay = kind(problem, rules), list[Event]()
    for event in events:
        # events after the end of the conversation under the new rules are not needed
        if not change.keeps(event) or not isinstance(event, DUE.get(type(conversation.step), ())):
            break
        stay.append(event)
        try:
            conversation.take(event)
        except Exception:
            break  # the new build takes this event again, fails in the same way and rejects the problem
    refused = entry is not None and entry.reason in FACTS and not (
        entry.reason == TOO_LONG and change.answers != "all"
    )  # fmt: skip
    still_asked = len(stay) == len(events) and isinstance(conversation.step, Ask) and change.answers != "none"
    return entry if refused and still_asked else None, stay


class _Old(Ledger):
    """A ledger of any configuration, opened read-only; its lock keeps builds out."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.path, self._held, self._database = Path(directory) / "ledger.sqlite", False, None
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such file; --fork takes over the results of the build in --output")
        lock = self.path.with_name("ledger.lock")
        try:
            self._lock = Path(lock if lock.is_file() else os.devnull).open(encoding="utf-8")  # noqa: SIM115 - held until `close`
            fcntl.flock(self._lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            self._database = connect_to_read(self.path, held=True)
            check_layout(self._database, self.path)
            rows = self._select("SELECT value FROM meta WHERE key = 'fingerprint'")
            self.fingerprint: dict[str, Any] = parse_json(rows[0][0] if rows else "")
            if not isinstance(self.fingerprint, dict):
                raise ValueError("its settings are no object")
        except BlockingIOError:
            self._lock.close()
            raise UserError(f"{self.path}: a build is using it; wait for it or stop it") from None
        except (OSError, sqlite3.Error, ValueError) as error:
            self.close()
            raise error if isinstance(error, UserError) else self._failed(error) from None


def offer(changed: Collection[str]) -> str:
    """Return the hint about `--fork` for an error message about changed settings."""
    if decisive := [key for key in changed if TOUCHES.get(key, ALL) == ALL and key not in ANSWER_LIMITS]:
        return f" ({decisive[0]} decides every answer, so nothing can be taken over)"
    return ", or add --fork NEW_DIRECTORY: it takes over what they do not touch and builds the rest there"


def open_ledger(output: Path, fingerprint: Mapping[str, Any]) -> Ledger:
    """Open the ledger of a build. Raises UserError like `Ledger`, with a hint about `--fork` if the settings differ."""
    try:
        return Ledger(output, fingerprint)
    except OtherSettingsError as error:
        raise UserError(f"{error}{offer(error.changed)}") from None


def check_ledger(output: Path, fingerprint: Mapping[str, Any]) -> None:
    """Make sure that `open_ledger` will open the ledger of a folder, if there is one; changes nothing.

    Raises:
        UserError: a build is running there or has other settings, or the ledger cannot be read.
    """
    if not (output / "ledger.sqlite").is_file() or not (output / "ledger.sqlite").stat().st_size:
        return
    old = _Old(output)
    with old:
        if (changed := changes(old.fingerprint, fingerprint)) and not old.is_empty():
            raise UserError(f"{OtherSettingsError(old.path, old.fingerprint, fingerprint)}{offer(changed)}")


def check_fork(config: BuildConfig, fingerprint: Mapping[str, Any]) -> _Old | None:
    """Open the old ledger of a fork; None if the build is not a fork, or has taken the old records over before.

    Raises:
        UserError: the new directory is that of the old build or holds another build; or the old ledger is missing, is
            in use, has the same settings, or holds nothing that stays valid.
    """
    if not config.fork:
        return None
    if Path(config.fork).resolve() == Path(config.output).resolve():
        raise UserError(f"fork: {config.fork} is the directory of the old build; name a new one")
    if (Path(config.fork) / "ledger.sqlite").is_file():
        found = progress(config.fork)
        if found.forked:
            return None
        if found.total:
            raise UserError(f"fork: {config.fork} holds a build of its own; name a new directory")
    old = _Old(config.output)
    try:
        if not (changed := changes(old.fingerprint, fingerprint)):
            raise UserError(f"{old.path}: has the same settings; to resume it leave out --fork")
        if change_of(old.fingerprint, fingerprint).answers == "none":
            raise UserError(f"{old.path}: nothing to take over{offer(changed)}; give another --output without --fork")
    except UserError:
        old.close()
        raise
    return old


def begin_fork(
    ledger: Ledger, fingerprint: Mapping[str, Any], config: BuildConfig, problems: Sequence[Problem],
    banned: Collection[str], old: _Old | None, console: Console,
) -> None:  # fmt: skip
    """Write the digests of the problems and the records of the old build to a new ledger, in one transaction.

    Does nothing if the ledger has the digests already.

    Args:
        ledger: ledger of the new build.
        fingerprint: fingerprint of the new build.
        config: configuration of the new build.
        problems: all problems of the new build.
        banned: ids of the contaminated problems, which are skipped.
        old: ledger of the old build from `check_fork`, which this function closes; None without a fork.
        console: console for the report.

    Raises:
        UserError: a ledger cannot be read or written, or the new directory holds another build.
    """
    if ledger.digests():
        if old is not None:
            old.close()
            raise UserError(f"fork: {ledger.path.parent} holds a build of its own; name a new directory")
        return
    digests = {problem.id: problem_digest(problem) for problem in problems}
    with ledger.together():
        ledger.digests(digests)
        if old is None:
            return
        with old:
            known = old.digests()
            if not known and old.fingerprint["problem_texts"] == fingerprint["problem_texts"]:
                known = digests  # the old build was begun by a version that recorded no digests
            same = [item for item in problems if known.get(item.id) == digests[item.id] and item.id not in banned]
            forked = _take_over(old, ledger, config, same, change_of(old.fingerprint, fingerprint))
        ledger.note("forked", forked)
    console.print(f"taken over from {old.path.parent}: {forked['finished']} finished problems, {forked['answers']}"
                  f" answers of {forked['open']} others", markup=False, highlight=False, soft_wrap=True)  # fmt: skip


def _take_over(
    old: Ledger, new: Ledger, config: BuildConfig, problems: Sequence[Problem], change: Change
) -> dict[str, Any]:
    finished = unfinished = answers = 0
    usage = Usage()
    rules, kind = rules_of(config) if config.sampler != "mutation" else (ConversationRules(), Conversation)
    for problem in problems:
        entry = old.get(problem.id)
        if config.sampler == "attempts":  # one step, which depends on nothing but the problem and the model
            events_of = old.events(problem.id)[:1]  # a conversation that repairs it begins again
            for number, (name, value) in enumerate(events_of):
                new.add_event(problem.id, number, name, value)
            if entry is not None and change.verdicts:
                new.put(relabelled(entry, problem), timed=False)
                finished += 1
            else:
                unfinished, answers = unfinished + bool(events_of), answers + len(events_of)
            continue
        recorded = [from_record(name, value) for name, value in old.events(problem.id) if name != FAILED]
        entry, events = kept(problem, entry, recorded, change, rules, kind)
        for number, event in enumerate(events):
            new.add_event(problem.id, number, *to_record(event))  # without usage: the old build paid for it
            usage += event.usage if isinstance(event, Answer) else Usage()
        if entry is not None:
            new.put(relabelled(entry, problem), timed=False)
        finished += entry is not None
        unfinished += entry is None and bool(events)
        answers += sum(isinstance(event, Answer) for event in events) if entry is None else 0
    return {
        "from": str(old.path.parent), "finished": finished, "open": unfinished, "answers": answers,
        **dataclasses.asdict(usage),
    }  # fmt: skip


def relabelled(entry: Entry, problem: Problem) -> Entry:
    """Copy an entry with the current labels (id, source, licence, level) of its problem."""
    if entry.payload is None:
        return entry
    given = labels(problem)
    rest = {key: value for key, value in entry.payload.items() if key not in LABELS}
    return dataclasses.replace(entry, payload={**given, **rest})
