"""MultiPL-E (Cassano et al., 2023): HumanEval in other languages, one task per language (`multipl_e_java` and others).

A program consists of prompt, completion and tests, as in MultiPL-E's own evaluators. It is compiled and run as defined
in `languages.py`, inside the project's isolation. Exit status 0 is not enough to pass: a statement after the last test
prints a random word, which the program contains in two halves. So a program does not pass by exiting early, by printing
what passing programs print, or by printing its own source. What the tests of C++, JavaScript, TypeScript, Rust and Bash
call to fail cannot be redefined (`Language.guards`). This does not protect against code that reads the word from its
own file or memory; docs/evaluation.md lists what is open in each language.

The data has no reference solutions; docs/evaluation.md lists its known errors. Of the two C# files, the one that
compares lists by their items is used. The other compares them by identity, which no answer can satisfy.
"""

from __future__ import annotations

import dataclasses
import re
import secrets
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflectioncoder.errors import UserError
from reflectioncoder.files.jsonl import iter_jsonl
from reflectioncoder.tasks import release
from reflectioncoder.tasks.base import RELEASE_VERSION, Prompt, Task, TaskOptions, Verdict, file_and_digest, not_run
from reflectioncoder.tasks.multipl_e.answers import assemble_program, function_in
from reflectioncoder.tasks.multipl_e.languages import LANGUAGES, Toolchain, find

if TYPE_CHECKING:
    from reflectioncoder.interpreter.interpreter import Interpreter, Isolation, Limits
    from reflectioncoder.interpreter.workspace import ProgramResult

MULTIPL_E_INSTRUCTION = "Write a complete {language} function for the problem.\n\n{prompt}"  # appendix D
COMPILE_SECONDS = 30.0
TRIAL_FACTOR = 10.0  # extra time of a program beyond its limit, in multiples of an empty one's processor time
_HEADING = "Unhandled Exception:"  # of mono, above the line that names the exception
# patterns of output lines that name the failure, the most specific first
_TELLING = (
    re.compile(r"\b\w*(?:Error|Exception)\b|panicked|error(?::|\[| [A-Z])"),
    re.compile(r"error|assert|fail", re.I),
)


class MultiPLE(Task):
    """The problems of one language."""

    max_new_tokens = 512  # appendix B
    reads_answers = True

    def __init__(self, key: str, options: TaskOptions | None = None) -> None:
        """Read the problems of a language.

        Args:
            key: key of the language in `LANGUAGES`.
            options: `data` is the folder with `humaneval-<key>.jsonl`, or its parent; `limit` counts.

        Raises:
            UserError: the file is missing, or a row is not a problem of this language.
        """
        options = options or TaskOptions()
        self.key, self.language, self.name = key, LANGUAGES[key], f"multipl_e_{key}"
        path = _data_file(options.data, key)
        self.problems = dict(list(_read(path, key).items())[: options.limit or None])
        self.tests = file_and_digest(path)
        self._release = options.semantics == "release"
        if self._release:
            self.prompt_version, self.max_new_tokens = RELEASE_VERSION, release.RELEASE_TOKENS
        self._lock = threading.Lock()
        self._trial: tuple[float, float] | str | None = None

    def prompts(self) -> list[Prompt]:
        """Return the prompts in order. The instruction and the beginning of the answer contain it (appendix D)."""
        language = self.language
        if self._release:
            return [
                Prompt(name, asked, row["prompt"], tuple(row["stop_tokens"]), opening, fence_stops=(release.FENCE,))
                for name, row in self.problems.items()
                for asked, opening in [release.release_language_prompt(self.key, row["prompt"])]
            ]
        return [
            Prompt(
                task_id,
                MULTIPL_E_INSTRUCTION.format(language=language.name, prompt=row["prompt"]),
                row["prompt"],
                tuple(row["stop_tokens"]),
                f"```{language.fence}\n{row['prompt']}",
                function=function_in(row["prompt"]),
            )
            for task_id, row in self.problems.items()
        ]

    def read_release(self, task_id: str, answer: str) -> tuple[str, bool]:
        """Read an answer as the authors' script does; see `Task.read_release`."""
        row = self.problems[task_id]
        return release.cut_release_language(self.key, answer, row["prompt"], row["stop_tokens"]), True

    def rows(self, row: Any) -> list[Any]:
        """Accept MultiPL-E's own results format as well: the name of a problem and a list of its completions."""
        if not isinstance(row, dict) or "name" not in row or "task_id" in row:
            return [row]
        several = row.get("completions", [row.get("completion")])
        if not isinstance(several, list):
            return [row]
        return [{"task_id": row["name"], "completion": completion} for completion in several]

    def interpreter(self, limits: Limits, isolation: Isolation = "auto") -> Interpreter:
        """Open an interpreter whose programs can see the toolchain, if it is installed."""
        from reflectioncoder.interpreter.interpreter import Interpreter
        from reflectioncoder.tasks.multipl_e.compilers import ready_folder

        toolchain = find(self.key)
        ready = "" if toolchain.missing else ready_folder(toolchain)
        visible = [*toolchain.visible, *filter(None, [ready])]
        return Interpreter(limits, isolation, visible=visible, libraries=())

    def check(
        self, task_id: str, completion: str, interpreter: Interpreter, limits: Limits, whole: bool = False
    ) -> Verdict:
        """Compile and run prompt, completion and tests; see `Task.check`.

        Under `semantics = "release"` a whole program is not cut again.

        Returns:
            the verdict; `not_run` if the toolchain is missing or does not work on this machine.
        """
        row = self.problems.get(task_id)
        if row is None:
            raise UserError(f"task {self.name}: no problem '{task_id}' in it")
        toolchain = find(self.key)
        if toolchain.missing:
            return not_run(f"{self.language.name}: {toolchain.reason}")
        trial = self._measure(toolchain, interpreter, limits)
        if isinstance(trial, Verdict):
            return trial
        if isinstance(trial, str):
            return not_run(f"{self.language.name}: the toolchain does not work here: {trial}")
        compile_limit, run_limit = (
            dataclasses.replace(limits, seconds=seconds + TRIAL_FACTOR * empty)
            for seconds, empty in zip((COMPILE_SECONDS, limits.seconds), trial, strict=True)
        )
        code = completion + "\n"
        if not (self._release and whole):
            code = assemble_program(completion, row["prompt"], row["stop_tokens"], self.key, whole) + "\n"
        return _build_and_run(toolchain, code, row["tests"], interpreter, compile_limit, run_limit)[0]

    def measure_again(self, task_id: str, interpreter: Interpreter) -> None:
        """Have the empty program timed once more; see `Task.measure_again`."""
        with self._lock:
            self._trial = None

    def _measure(
        self, toolchain: Toolchain, interpreter: Interpreter, limits: Limits
    ) -> tuple[float, float] | str | Verdict:
        """Measure once how many processor seconds an empty program takes to compile and to run.

        Returns:
            both times; the error message if the toolchain does not work; or a verdict if the interpreter failed, which
            says nothing about the toolchain and is not cached.
        """
        with self._lock:
            if self._trial is None:
                generous = dataclasses.replace(limits, seconds=max(120.0, limits.seconds))
                verdict, times = _build_and_run(toolchain, "", self.language.trial, interpreter, generous, generous)
                if verdict.outcome == "infrastructure":
                    return verdict
                self._trial = times if verdict.passed else verdict.error
            return self._trial


def tasks() -> dict[str, Callable[[TaskOptions], Task]]:
    """Return the constructor of each language's task, by task name."""
    return {f"multipl_e_{key}": partial(MultiPLE, key) for key in LANGUAGES}


def _build_and_run(
    toolchain: Toolchain, code: str, tests: str, interpreter: Interpreter, compile_limit: Limits, run_limit: Limits
) -> tuple[Verdict, tuple[float, float]]:
    """Return the verdict on a program, and the processor seconds that compiling and running it took."""
    from reflectioncoder.interpreter.workspace import workspace
    from reflectioncoder.tasks.multipl_e.compilers import ready_folder

    language, ready = toolchain.language, ready_folder(toolchain)
    first, second = secrets.token_hex(8), secrets.token_hex(8)
    files = {language.source: code + language.ending(tests, first, second)}
    built = spent = 0.0
    with workspace(interpreter, run_limit) as place:
        if language.compile:
            argv = toolchain.command(language.compile, ready, run_limit.memory_mb)
            result = place.run(argv, files, limits=compile_limit)
            built, spent = result.seconds, place.processor_seconds()
            if not result.ok:
                return _failure(result, "compilation: "), (spent, 0.0)
            files = {language.source: ""}  # a compiled program cannot read its own source
        if language.loaded:
            files[language.loaded[0]] = language.loaded[1].replace("NAME", language.guard_name(first))
        argv = toolchain.command(language.run, ready, run_limit.memory_mb)
        result = place.run(argv, files, env=language.environment, made=bool(language.compile))
        times, seconds = (spent, place.processor_seconds() - spent), built + result.seconds
    if not result.ok:
        return _failure(result), times
    if language.failure and language.failure in result.stderr:
        return Verdict(False, "error", "an assertion failed", seconds), times
    if first + second not in result.stdout:
        return Verdict(False, "error", "ended before its last test", seconds), times
    return Verdict(True, "ok", "", seconds), times


def _failure(result: ProgramResult, what: str = "") -> Verdict:
    lines = [line.strip() for line in f"{result.stderr}\n{result.stdout}".splitlines() if line.strip()]
    lines = [line for line in lines if line != _HEADING] or lines
    telling = next((line for sign in _TELLING for line in lines if sign.search(line)), lines[0] if lines else "")
    by_itself = result.outcome == "killed" and result.status is not None  # as after a failed assert, which aborts
    outcome = "error" if by_itself else result.outcome
    words = result.message if outcome not in ("error", "ok") else telling or result.message
    return Verdict(False, outcome, f"{what}{words or f'exit status {result.status}'}"[:300], result.seconds)


def _data_file(folder: str, key: str) -> Path:
    """Find the data file of a language in a data folder."""
    if not folder:
        raise UserError(
            f"task multipl_e_{key}: give the folder of humaneval-{key}.jsonl with --data (the files are in"
            " github.com/deepseek-ai/DeepSeek-Coder, Evaluation/HumanEval/data)"
        )
    names = [f"humaneval-{key}.jsonl", *(["humaneval-cs-bu.jsonl"] if key == "cs" else [])]
    places = [Path(folder) / below / name for below in ("", "multipl_e") for name in names]
    there = [place for place in places if place.is_file()]
    if not there:
        raise UserError(f"task multipl_e_{key}: no file {names[0]} in {folder} or {folder}/multipl_e")
    if key == "cs":  # there are two editions, and their names have been swapped over time
        return next((place for place in there if "SequenceEqual" in place.read_text(encoding="utf-8")), there[0])
    return there[0]


def _read(path: Path, key: str) -> dict[str, dict[str, Any]]:
    problems: dict[str, dict[str, Any]] = {}
    for where, row in iter_jsonl(path):
        texts = ("name", "prompt", "tests")
        if not isinstance(row, dict) or any(not isinstance(row.get(name), str) for name in texts):
            raise UserError(f"{where}: not a problem of MultiPL-E; it needs {', '.join(texts)} and stop_tokens")
        stops = row.get("stop_tokens")
        if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
            raise UserError(f"{where}: 'stop_tokens' must be a list of texts")
        if row.get("language", key) != key:
            raise UserError(f"{where}: a problem in '{row['language']}', not in '{key}'")
        if row["name"] in problems:
            raise UserError(f"{where}: problem '{row['name']}' occurs twice")
        try:
            LANGUAGES[key].ending(row["tests"], "", "")
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
        problems[row["name"]] = row
    if not problems:
        raise UserError(f"file {path}: holds no problems")
    return problems
