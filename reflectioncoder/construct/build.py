"""Build reflection sequences for many problems, by mutation or with a model; filter and export them (appendix A).

Workers turn problems into sequences in any order. Only this process writes to the ledger, and at the end it exports
the sequences in the order of the problems. So the files depend neither on the number of workers nor on how often the
build was killed and restarted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from reflectioncoder.clients.address import shown_url
from reflectioncoder.config.build import BuildConfig
from reflectioncoder.config.toml import save, versions
from reflectioncoder.construct import fork, outputs
from reflectioncoder.construct.conversation.scheduler import Ended, reflect_by_chat
from reflectioncoder.construct.engines import engine
from reflectioncoder.construct.export import export_build
from reflectioncoder.construct.filters.contamination import Contamination, Detector, Thresholds, contaminated
from reflectioncoder.construct.filters.references import counted
from reflectioncoder.construct.inputs import (
    CHAT_SETTINGS,
    NOTES,
    chat_settings,
    check_place,
    output_files,
    read_inputs,
)
from reflectioncoder.construct.ledger.ledger import Ledger
from reflectioncoder.construct.prompts import load_prompts
from reflectioncoder.construct.reflect import WITHOUT_CONVERSATION
from reflectioncoder.dialogues.dialogue import Dialogue
from reflectioncoder.errors import IncompleteError
from reflectioncoder.files.funnel import funnel_steps
from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.files.owned import check_writable
from reflectioncoder.interpreter.interpreter import Interpreter, Limits
from reflectioncoder.problems.problem import Problem
from reflectioncoder.registry import refuse_in_worker

ROWS_SHOWN = 20  # bad rows printed to the console


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
    (only the last round of each sequence, for plain instruction tuning), `passed.jsonl` (the attempts that passed, with
    the sampler `attempts`), `rejects.jsonl`, `contamination.jsonl`,
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
    read = read_inputs(config)
    loaded, references, decided = read.loaded, read.references, read.decided
    problems, skipped, renamed = loaded.problems, loaded.skipped, loaded.renamed
    for lines in ([f"skipped {line}" for line in skipped], renamed):
        _say_in_part(say, lines, NOTES)
    if config.decontaminate:
        say(f"decontaminate: {counted(references)}")
    ended = Ended()
    old = fork.check_fork(config, decided)
    config = dataclasses.replace(config, output=config.fork or config.output, fork="")
    output = Path(config.output)
    check_place(config, output)
    with fork.open_ledger(output, decided) as ledger:
        funnel = ledger.note("funnel")
        if funnel is not None and all((output / name).is_file() for name in output_files(config)):
            console.print(
                f"{output}: already finished with this configuration; nothing to do", highlight=False, soft_wrap=True
            )
        else:
            save(config, output)
            if skipped or renamed:
                write_lines(output / NOTES, [*skipped, *renamed])
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
                reflect = WITHOUT_CONVERSATION.get(config.sampler, reflect_by_chat)
                with engine.engine_running(config):
                    ended = reflect(config, pending, ledger, console)
                _say_in_part(say, [f"no result for {id}: {why}" for id, why in ended.left])
                if ended.failed and not ledger.finished():
                    raise IncompleteError(f"{ended.failed}: rerun to continue")
            kept, funnel = export_build(
                problems, found, detector(), ledger, output, config.near_duplicates, config.sampler == "attempts"
            )
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


def describe_build(config: BuildConfig) -> str:
    """Say what `build` would do: reads and checks its inputs, but builds nothing, asks no server and writes nothing.

    Raises:
        UserError: where `build` would, as far as that is known before the first problem is begun.
    """
    engine.check_engine(config)
    read = read_inputs(config, keep=False)
    if (old := fork.check_fork(config, read.decided)) is not None:
        old.close()
    output = Path(config.fork or config.output)
    check_place(config, output)
    fork.check_ledger(output, read.decided)
    check_writable(output)
    with Interpreter(Limits(config.seconds, config.memory_mb), config.isolation, libraries=config.libraries):
        pass  # it starts
    attempting = config.chat.model if config.attempts.backend == "server" else config.attempts.model
    ways = {
        "mutation": "by mutation",
        "attempts": f"from attempts of {attempting}",
        "chat": f"with {config.chat.model} at {shown_url(config.chat.base_url)}",
        "replay": f"with the answers in {config.chat.replay}",
        "native": f"with blocks by {config.native.model}",
    }
    how = ways.get(config.sampler, f"with the sampler {config.sampler}")
    where = f"{config.fork}, with what {config.output} has" if config.fork else config.output
    lines = [f"would build from {len(read.loaded.problems)} problems ({config.problems}) {how} into {where}"]
    if skipped := read.loaded.skipped:
        lines.append(f"{len(skipped)} rows would be left out, the first is {skipped[0]}")
    if config.decontaminate:
        lines.append(f"decontaminate: {counted(read.references)}")
    return "\n".join(lines)


def _say_in_part(say: Callable[[str], None], lines: Sequence[str], file: str = "") -> None:
    for line in lines[:ROWS_SHOWN]:
        say(line)
    if len(lines) > ROWS_SHOWN:
        say(f"... and {len(lines) - ROWS_SHOWN} more{f', all in {file}' if file else ''}")


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


def _card(
    config: BuildConfig, problems: Sequence[Problem], kept: Sequence[Dialogue], funnel: Mapping[str, int]
) -> outputs.Card:
    how: dict[str, Any] = {"sampler": config.sampler}
    if config.sampler == "attempts":
        server = config.attempts.backend == "server"
        how["model"] = config.chat.model if server else config.attempts.model
        how |= {key: getattr(config.attempts, key) for key in ("backend", "samples", "temperature", "largest_repair")}
    elif config.sampler != "mutation":
        how |= chat_settings(config, CHAT_SETTINGS, "")
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
