"""Build reflection sequences for many problems, by mutation or with a model; filter and export them (appendix A).

Workers turn problems into sequences in any order. Only this process writes to the ledger, and at the end it exports
the sequences in the order of the problems. So the files depend neither on the number of workers nor on how often the
build was killed and restarted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from reflectioncoder.config.build import BuildConfig, ChatConfig
from reflectioncoder.config.libraries import DEFAULT_LIBRARIES
from reflectioncoder.config.toml import save, versions
from reflectioncoder.construct import fork, outputs
from reflectioncoder.construct.conversation.samples import sample_id
from reflectioncoder.construct.conversation.scheduler import Ended, reflect_by_chat
from reflectioncoder.construct.engines import engine
from reflectioncoder.construct.export import FILES, export_build
from reflectioncoder.construct.filters import sequence as filters
from reflectioncoder.construct.filters.contamination import Contamination, Detector, Thresholds, contaminated
from reflectioncoder.construct.filters.references import counted, load_references
from reflectioncoder.construct.ledger.database import check_not_lost
from reflectioncoder.construct.ledger.ledger import Ledger
from reflectioncoder.construct.mutation.kinds import BUG_KINDS
from reflectioncoder.construct.mutation.reasons import WORDING_VERSION
from reflectioncoder.construct.mutation.worker import INFRASTRUCTURE, Reflector
from reflectioncoder.construct.prompts import load_prompts
from reflectioncoder.construct.samplers import replay
from reflectioncoder.construct.samplers.registry import check_sampler
from reflectioncoder.dialogues.dialogue import Dialogue
from reflectioncoder.errors import IncompleteError, UserError
from reflectioncoder.files.funnel import funnel_steps
from reflectioncoder.files.json_text import ReadLimits
from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.files.owned import refuse_foreign, refuse_inputs
from reflectioncoder.problems.cache import Loaded, load_once
from reflectioncoder.problems.load import load_problems
from reflectioncoder.problems.problem import Problem
from reflectioncoder.problems.procedural import problems as procedural
from reflectioncoder.progress import Meter
from reflectioncoder.registry import refuse_in_worker

# chat settings that affect the answers; the server's address and the budget may change between runs
CHAT_SETTINGS = ("model", "protocol", "system_prompt", "temperature", "top_p", "max_tokens")
# the same, but recorded only if they are set, as earlier versions did not know them
FREE_CHAT_SETTINGS = ("extra_body", "endings", "thoughts", "thought_marks")
# native settings that do not affect the answers (as in `generate`, the effect of the batch on a row is ignored)
NATIVE_FREE = ("batch_size", "device", "replicas", "trust_remote_code", "vllm")
# settings that do not affect the sequences, or only through the problems
NOT_FINGERPRINTED = ("output", "workers", "formats", "fork", "skip_bad", "max_row_mb", "max_file_mb", *engine.KEYS)
ROWS_SHOWN = 20  # bad rows printed to the console
NOTES = "problem_notes.txt"  # file that lists all bad rows


@dataclass(frozen=True)
class BuildResult:
    """Result of a build.

    Args:
        sequences: number of sequences kept.
        funnel: "problems", then the number removed for each reason, then "sequences".
        seconds: wall-clock time of this call.
        path: the file of sequences.
        stopped: why some problems are unfinished (the budget is used up); empty if none are. A later run resumes them.
    """

    sequences: int
    funnel: dict[str, int]
    seconds: float
    path: Path
    stopped: str = ""


def build(config: BuildConfig, console: Console | None = None) -> BuildResult:
    """Make, filter and export the reflection sequences of a configuration; resumes an earlier run.

    It writes these files to `config.output`: `sequences.jsonl` and the other formats in `formats`, `instructions.jsonl`
    (only the last round of each sequence, for plain instruction tuning), `rejects.jsonl`, `contamination.jsonl`,
    `funnel.json`, the data card `README.md`, the ledger and the configuration.

    Args:
        config: configuration of the build.
        console: console for progress and results; standard output by default.

    Returns:
        the counts of the build.

    Raises:
        UserError: the input is invalid, the output directory is in use or was made with another configuration, or the
            disk is full. Finished problems are kept.
        IncompleteError: some problems have no result, as the server or the interpreter gave none. What is finished has
            been exported; a later run continues.

    Example:
        from reflectioncoder import BuildConfig, build

        made = build(BuildConfig(problems="mine.jsonl", count=100, output="runs/build"))
        print(made.sequences, made.funnel, made.path)
    """
    refuse_in_worker("a build")
    started = time.monotonic()
    console = console or Console()
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)  # paths stay whole, brackets too
    outputs.check_formats(config.formats)
    limits = ReadLimits(config.max_row_mb, config.max_file_mb)
    loaded = _problems(config, limits)
    problems, skipped = loaded.problems, loaded.skipped
    for lines in ([f"skipped {line}" for line in skipped], loaded.renamed):
        _say_in_part(say, lines, NOTES)
    references = list(
        load_references(
            config.decontaminate, config.decontaminate_fields, config.decontaminate_split, config.problems, limits
        )
    )
    if config.decontaminate:
        say(f"decontaminate: {counted(references)}")
    decided, ended = build_fingerprint(config, problems), Ended()
    old = fork.check_fork(config, decided)
    config = dataclasses.replace(config, output=config.fork or config.output, fork="")
    output = Path(config.output)
    names = [*_files(config), NOTES, "config.toml", "config.versions.json"]
    inputs = {
        "problems": (config.problems,),
        "decontaminate": config.decontaminate,
        "chat.replay": (config.chat.replay,),
    }
    refuse_inputs([output / name for name in names], inputs)
    if (output / "ledger.lock").exists():  # a build has been here
        check_not_lost(output / "ledger.sqlite")
    if not (output / "ledger.sqlite").exists():
        refuse_foreign(output, names, "build")
    with fork.open_ledger(output, decided) as ledger:
        funnel = ledger.note("funnel")
        if funnel is not None and all((output / name).is_file() for name in _files(config)):
            console.print(
                f"{output}: already finished with this configuration; nothing to do", highlight=False, soft_wrap=True
            )
        else:
            save(config, output)
            if skipped or loaded.renamed:
                write_lines(output / NOTES, [*skipped, *loaded.renamed])
            detector = cache(lambda: Detector(references, Thresholds(share=config.contamination_share)))
            found = _contaminated(config, problems, detector, ledger)
            banned = {item.id for item in found}
            fork.begin_fork(ledger, decided, config, problems, banned, old, console)
            finished = ledger.finished()
            pending = [problem for problem in problems if problem.id not in finished and problem.id not in banned]
            if finished:
                console.print(
                    f"{output}: resuming, {len(finished)} problems are finished", highlight=False, soft_wrap=True
                )
            ledger.note("total", len(problems))
            ledger.note("contaminated", len(banned))
            if pending:
                reflect = _reflect if config.sampler == "mutation" else reflect_by_chat
                with engine.engine_running(config):
                    ended = reflect(config, pending, ledger, console)
                _say_in_part(say, [f"no result for {id}: {why}" for id, why in ended.left])
                if ended.failed and not ledger.finished():
                    raise IncompleteError(f"{ended.failed}: rerun to continue")
            kept, funnel = export_build(problems, found, detector(), ledger, output, config.near_duplicates)
            if skipped:
                funnel = {"skipped_rows": len(skipped), **funnel}
            write_lines(output / "funnel.json", [json.dumps(funnel, indent=2)])
            outputs.export_formats(output, kept, config.formats)
            outputs.write_card(output, _card(config, problems, kept, funnel))
            if not (ended.stopped or ended.failed):
                ledger.note("funnel", funnel)
    path = output / "sequences.jsonl"
    result = BuildResult(funnel["sequences"], funnel, time.monotonic() - started, path, ended.stopped)
    console.print(funnel_table(funnel))
    say(f"{result.sequences} sequences in {result.seconds:.1f} s: {result.path}")
    if ended.stopped:
        say(
            f"stopped: {ended.stopped}; {funnel['unfinished']} problems are left; raise the limit and rerun to continue"
        )
    if ended.failed:
        raise IncompleteError(f"{ended.failed}: rerun to continue; what is finished is in {output}")
    return result


def _say_in_part(say: Callable[[str], None], lines: Sequence[str], file: str = "") -> None:
    for line in lines[:ROWS_SHOWN]:
        say(line)
    if len(lines) > ROWS_SHOWN:
        say(f"... and {len(lines) - ROWS_SHOWN} more{f', all in {file}' if file else ''}")


def _problems(config: BuildConfig, limits: ReadLimits) -> Loaded:
    if config.count < 1:
        raise UserError(f"count = {config.count}: give a number above 0")
    if config.problems == "handwritten":
        raise UserError("problems = 'handwritten': these are an evaluation set and are never trained on")
    check_sampler(config)

    def read() -> Loaded:
        if config.problems == "procedural":
            return Loaded(list(procedural.procedural_problems(config.count, config.seed, "train", config.levels)))
        skipped: list[str] = []
        renamed: list[str] = []
        fields, split, count = config.fields, config.split, config.count
        left_out = skipped if config.skip_bad else None
        return Loaded(load_problems(config.problems, fields, split, count, left_out, renamed, limits), skipped, renamed)

    reading = (config.count, config.seed, config.levels, config.fields, config.split, config.skip_bad)
    loaded = load_once(config.problems, reading, Path(config.output), read)
    if config.sampler != "native" or config.native.samples == 1:
        return loaded
    numbers = range(1, config.native.samples + 1)
    samples = [
        dataclasses.replace(problem, id=sample_id(problem.id, k)) for problem in loaded.problems for k in numbers
    ]
    return dataclasses.replace(loaded, problems=samples)


def _contaminated(
    config: BuildConfig, problems: Sequence[Problem], detector: Callable[[], Detector], ledger: Ledger
) -> list[Contamination]:
    """Find the contaminated problems; the result is stored in the ledger and reused if the references are unchanged.

    It is reused only if all references are files; the contents of folders are not compared.
    """
    paths = [Path(source) for source in config.decontaminate]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()]
    kept = ledger.note("contaminations")
    if isinstance(kept, dict) and kept.get("references") == digests and len(digests) == len(paths):
        with suppress(KeyError, TypeError):  # of a damaged ledger
            return [Contamination(**item) for item in kept["found"]]
    found = contaminated(problems, detector())
    ledger.note("contaminations", {"references": digests, "found": [vars(item) for item in found]})
    return found


def build_fingerprint(config: BuildConfig, problems: Sequence[Problem]) -> dict[str, Any]:
    """Return everything that affects the sequences: a digest of the problems, versions, and most settings.

    Settings that do not affect the sequences, such as output paths and worker counts, are left out.
    """
    settings = {key: value for key, value in dataclasses.asdict(config).items() if key not in NOT_FINGERPRINTED}
    native = settings.pop("native")
    del settings["chat"]
    if config.libraries == DEFAULT_LIBRARIES:
        del settings["libraries"]  # as in builds from before this setting
    for key in ("decontaminate_fields", "decontaminate_split"):
        if settings[key] == getattr(BuildConfig, key):
            del settings[key]
    if config.sampler == "mutation":
        del settings["sampler"]
        settings["wording_version"] = WORDING_VERSION
    elif config.sampler == "native":
        from reflectioncoder.models.load import weights_fingerprint as weights  # seconds of imports

        settings |= {f"native.{key}": native[key] for key in native if key not in NATIVE_FREE}
        settings["native.weights"] = weights(config.native.model)
        if config.native.backend == "completions":
            settings["chat.model"] = config.chat.model
            settings |= _chat_settings(config, ())
    else:
        settings |= _chat_settings(config, CHAT_SETTINGS)
    if config.sampler != "mutation":
        prompts = load_prompts(config.chat.prompts)
        settings |= {"prompt_version": prompts.version, "prompt_texts": prompts.digest}
    if config.sampler == "replay":
        settings["recorded_answers"] = replay.replay_fingerprint(config.chat.replay)
    # filters and bug kinds that the caller has registered
    added = {"filters": filters.FILTERS.added, "bug_kinds": BUG_KINDS.added if config.sampler == "mutation" else ()}
    settings |= {f"added_{kind}": list(names) for kind, names in added.items() if names}
    digest = hashlib.sha256()
    for problem in problems:
        given = (problem.given,) if problem.given else ()
        digest.update(repr((problem.id, problem.instruction, problem.solution, problem.tests, *given)).encode())
    # the sequences contain tracebacks, which differ between Python versions
    known = {key: value for key, value in versions().items() if key in ("reflectioncoder", "ipython")}
    python = ".".join(platform.python_version_tuple()[:2])
    stable: dict[str, Any] = json.loads(json.dumps({**settings, **known, "python": python}))
    return {**stable, "problem_texts": digest.hexdigest()}


def _chat_settings(config: BuildConfig, always: Sequence[str], prefix: str = "chat.") -> dict[str, Any]:
    given, default = dataclasses.asdict(config.chat), dataclasses.asdict(ChatConfig())
    free = [key for key in FREE_CHAT_SETTINGS if given[key] != default[key]]
    return {f"{prefix}{key}": given[key] for key in (*always, *free)}


def _reflect(config: BuildConfig, problems: list[Problem], ledger: Ledger, console: Console) -> Ended:
    """Run the workers until every problem is in the ledger, or the interpreter gave no result in two attempts."""
    with Meter("reflecting", len(problems)) as meter, engine.workers(Reflector, config, console) as pool:
        for attempt in (1, 2):
            again = []
            for index, entry in pool.run(problems):
                if entry.reason == INFRASTRUCTURE:
                    again.append(problems[index])
                else:
                    ledger.put(entry)
                    meter.advance()
            if not again:
                return Ended()
            problems = again
            console.print(f"attempt {attempt}: {len(again)} problems without a result from the interpreter")
    why = (
        f"the interpreter gave no result for {len(again)} problems, first {again[0].id} (use fewer workers if memory"
        " is short); the others are kept"
    )
    return Ended(failed=why, left=tuple((problem.id, "no result from the interpreter") for problem in again))


def _files(config: BuildConfig) -> list[str]:
    """Return the names of all files that a finished build has written."""
    return [*FILES, *(outputs.FORMATS[name] for name in config.formats)]


def _card(
    config: BuildConfig, problems: Sequence[Problem], kept: Sequence[Dialogue], funnel: Mapping[str, int]
) -> outputs.Card:
    how: dict[str, Any] = {"sampler": config.sampler}
    if config.sampler != "mutation":
        how |= _chat_settings(config, CHAT_SETTINGS, "")
        how["prompt_version"] = load_prompts(config.chat.prompts).version
    how |= {"problems": Path(config.problems).name, "split": config.split, "seed": config.seed}
    how |= {"max_rounds": config.max_rounds, "near_duplicates": config.near_duplicates}
    how["decontaminated of"] = ", ".join(Path(item).name for item in config.decontaminate) or "nothing"
    how |= {name: version for name, version in versions().items() if version}
    origins = [(problem.source, problem.licence) for problem in problems]
    return outputs.Card(funnel, kept, origins, how, config.formats)


def funnel_table(funnel: Mapping[str, int]) -> Table:
    """Return a table of how many problems each step removed and how many were left."""
    table = Table("step", title="Funnel")
    table.add_column("removed", justify="right")
    table.add_column("left", justify="right")
    for name, removed, left in funnel_steps(funnel):
        style = "bold" if name in ("problems", "sequences") else None
        cells = ["" if number is None else str(number) for number in (removed, left)]
        table.add_row(name.replace("_", " "), *cells, style=style)
    return table
