"""The command line: one verb for each stage of the pipeline.

Every verb that does work takes `--config FILE.toml` and dotted flags (`--masking.strategy sequential`), prints its
resolved configuration with `--print-config`, and says what it would do with `--dry-run`. Heavy imports happen inside
the verbs, so that `--help` and mistakes answer at once.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reflectioncoder import __version__
from reflectioncoder.config.build import BuildConfig
from reflectioncoder.config.evaluate import DemoConfig, EvaluateConfig, GenerateConfig
from reflectioncoder.config.toml import load, to_toml
from reflectioncoder.config.train import TrainConfig
from reflectioncoder.errors import RankError, UserError

# First-touch memory dominates training on a processor when glibc gives pages back between steps (docs/method.md).
MALLOC_TUNABLES = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 36),
    "MALLOC_TOP_PAD_": str(1 << 26),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}

SECONDS_FOR_THE_FIRST_RANK = 10.0
# Settings that mean true where no value follows.
BARE = ("resume", "overwrite", "partial", "gradient_checkpointing", "selective_checkpointing")
PROGRESS_SECONDS = 3.0

USAGE = """\
usage: reflectioncoder VERB [--config FILE.toml] [--KEY VALUE ...] [--print-config] [--dry-run]

  demo       the whole pipeline with the embedded model, in minutes; writes runs/demo/summary.json and report.html
  build      reflection sequences from problems: by mutation (no language model), or --sampler chat; a spent budget
             ends it with status 0; reflectioncoder build status DIR says how far it is; --fork NEW_DIR builds there
             with changed settings what they touch, and takes over the rest
  inspect    show the sequences of a JSONL file: reflectioncoder inspect FILE [N]
  train      fine-tune a causal language model on them by masked self-distillation
  consolidate  a checkpoint as a plain model directory: reflectioncoder consolidate CHECKPOINT OUTPUT
  generate   completions of a task's problems
  evaluate   decode and score a task, or score a file of completions
  run        one program in the isolated interpreter: reflectioncoder run FILE [--cells] [--json]
  table      the paper's tables with evaluations beside them: reflectioncoder table DIR ...
  compare    paired comparison of two evaluations: reflectioncoder compare DIR_A DIR_B
  report     one HTML page from a run's files: reflectioncoder report DIR
  doctor     what this machine offers: isolation, devices, versions

reflectioncoder VERB --help lists the keys of a configured verb with their defaults.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit status is 0, 2 for bad input, or 130 after Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"reflectioncoder {__version__}")
        return 0
    verb, rest = words[0], words[1:]
    try:
        if verb in CONFIGURED:
            return _configured(verb, rest)
        if verb in PLAIN and rest in (["-h"], ["--help"]):
            print(next(line.strip() for line in USAGE.splitlines() if line.strip().startswith(f"{verb} ")))
            return 0
        if verb in PLAIN:
            return PLAIN[verb](rest)
        raise UserError(f"unknown verb '{verb}'; one of {', '.join(sorted([*CONFIGURED, *PLAIN]))}")
    except UserError as error:
        if os.environ.get("LOCAL_RANK", "0") != "0" and not isinstance(error, RankError):
            # All ranks of a machine find the same mistake. The first one says it, and its end ends the others here.
            time.sleep(SECONDS_FOR_THE_FIRST_RANK)
        print(f"reflectioncoder {verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"reflectioncoder {verb}: interrupted; what is finished is kept, run it again to go on", file=sys.stderr)
        return 130
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        print(f"reflectioncoder {verb}: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        return 2


def parse_flags(words: Sequence[str]) -> tuple[dict[str, str], set[str]]:
    """Split `--key value`, `--key=value` and bare switches.

    Returns:
        keys with their text, and the switches among print-config, dry-run, help and json that were given.

    Raises:
        UserError: a word that is no flag, or a flag without its value.
    """
    switches = {"print-config", "dry-run", "help", "json"}
    flags: dict[str, str] = {}
    given: set[str] = set()
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if word == "-h":
            given.add("help")
            continue
        if not word.startswith("--"):
            raise UserError(f"'{word}' is not a flag; write --key value (see --help)")
        key, equals, value = word[2:].partition("=")
        if key in switches and not equals:
            given.add(key)
        elif equals:
            flags[key] = value
        elif position < len(words) and not words[position].startswith("--"):
            flags[key] = words[position]
            position += 1
        elif key.replace("-", "_") in BARE:
            flags[key] = "true"
        else:
            raise UserError(f"flag --{key} needs a value")
    return flags, given


def _configured(verb: str, words: Sequence[str]) -> int:
    if verb == "build" and words and words[0] == "status":
        from reflectioncoder.cli.build_status import status_verb

        return status_verb(words[1:])
    cls, run = CONFIGURED[verb]
    if verb == "evaluate" and words and not words[0].startswith("-"):
        words = ["--generate.task", *words]  # reflectioncoder evaluate TASK
    if verb == "evaluate":  # --data DIR
        words = [word.replace("--data", "--generate.data", 1) if _is_data(word) else word for word in words]
    flags, given = parse_flags(words)
    if "help" in given:
        print(f"reflectioncoder {verb}: {_first_line(cls)}\n\nKeys and defaults (TOML):\n\n{to_toml(cls())}", end="")
        print("\nWhat each key means is in the docstring: python -c 'import reflectioncoder.config as c; help(c)'")
        return 0
    config: Any = load(cls, flags.pop("config", None), flags)
    if "print-config" in given:
        print(to_toml(config), end="")
        return 0
    return run(config, "dry-run" in given, "json" in given)


def _is_data(word: str) -> bool:
    return word == "--data" or word.startswith("--data=")


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]


def _build(config: BuildConfig, dry_run: bool, _: bool) -> int:
    from reflectioncoder.construct.build import build

    if dry_run:
        how = f"with {config.chat.model} at {config.chat.base_url}" if config.sampler == "chat" else "by mutation"
        how = f"with the answers in {config.chat.replay}" if config.sampler == "replay" else how
        how = f"with blocks by {config.native.model}" if config.sampler == "native" else how
        where = f"{config.fork}, with what {config.output} has" if config.fork else config.output
        print(f"would build from {config.count} problems ({config.problems}) {how} into {where}")
        return 0
    build(config)
    return 0


def _train(config: TrainConfig, dry_run: bool, _: bool) -> int:
    _keep_memory()
    from reflectioncoder.train.train import describe_plan, train

    if dry_run:
        print(describe_plan(config))
        return 0
    train(config)
    return 0


def _generate(config: GenerateConfig, dry_run: bool, _: bool) -> int:
    if config.backend == "transformers":
        _keep_memory()
    from reflectioncoder.generate.generate import generate, output_of
    from reflectioncoder.tasks.registry import get_task, task_options

    if dry_run:
        task = get_task(config.task, task_options(config))
        print(f"would write {len(task.prompts())} x {config.samples} completions to {output_of(config)}")
        return 0
    made = generate(config, _decoding_progress())
    speed = f", {made.tokens_per_second:.1f} tokens a second" if made.new else ""
    print(f"{len(made.completions)} completions, {made.new} of them new{speed}: {made.path}", file=sys.stderr)
    _say_truncated(sum(completion.truncated for completion in made.completions), len(made.completions))
    without = [completion for completion in made.completions if completion.error]
    if without:
        first = f"the first is '{without[0].task_id}' ({without[0].error})"
        print(f"{len(without)} completions are empty, as the server gave no answer; {first}", file=sys.stderr)
    return 0


def _evaluate(config: EvaluateConfig, dry_run: bool, as_json: bool) -> int:
    if not config.completions and config.generate.backend == "transformers":
        _keep_memory()
    from reflectioncoder.evaluate.evaluate import evaluate

    if dry_run:
        how = config.generate
        model = f"{how.chat.model} at {how.chat.base_url}" if how.backend == "server" else how.model
        print(f"would score {config.completions or model} on {config.generate.task} in {config.output}")
        return 0
    if not config.completions:
        print(f"decoding and scoring {config.generate.task} (--completions FILE scores what is there)", file=sys.stderr)
    score = evaluate(config, _decoding_progress(), _show_progress if sys.stderr.isatty() else None)
    _say_truncated(score.truncated)
    if score.missing:
        print(f"{score.missing} problems have no completion and count as failed", file=sys.stderr)
    print(f"verdicts are in {score.folder}", file=sys.stderr)
    if as_json:
        keys = ("task", "pass_at_1", "n", "low", "high", "not_run", "seconds")
        print(json.dumps({key: getattr(score, key) for key in keys}))
    elif score.pass_at_1 is None:
        print(f"{score.task}: not run on this machine ({score.not_run} problems)")
    else:
        rest = f", {score.not_run} not run" if score.not_run else ""
        at_k = "".join(f", pass@{k} {share:.1%}" for k, share in score.k.items() if k != 1)
        one = f"pass@1 {score.pass_at_1:.1%} [{score.low:.1%}, {score.high:.1%}]"
        print(f"{score.task}: {one}{at_k}, n = {score.n}{rest}")
    return 0


def _show_progress(done: int, of: int) -> None:
    print(f"\r{done}/{of} checked", end="\n" if done == of else "", file=sys.stderr, flush=True)


def _decoding_progress() -> Callable[[int, int, float], None] | None:
    """What shows every few seconds how far decoding is; nothing where nobody looks."""
    if not sys.stderr.isatty():
        return None
    shown = time.monotonic()

    def show(done: int, of: int, speed: float) -> None:
        nonlocal shown
        if done == of or time.monotonic() >= shown + PROGRESS_SECONDS:
            shown = time.monotonic()
            print(f"{done}/{of} completed, {speed:.1f} tokens a second", file=sys.stderr, flush=True)

    return show


def _say_truncated(count: int, of: int = 0) -> None:
    if count:
        what = f"{count} of {of} answers" if of else f"{count} answers"
        print(f"{what} ran out of tokens before their code ended; raise max_new_tokens", file=sys.stderr)


def _demo(config: DemoConfig, dry_run: bool, _: bool) -> int:
    _keep_memory()
    from reflectioncoder.demo import describe, run_demo

    if dry_run:
        print(describe(config))
        return 0
    run_demo(config)
    return 0


def _keep_memory() -> None:
    """Start again with allocator settings that keep freed pages; they are read only when a process starts."""
    if sys.platform != "linux" or "MALLOC_TRIM_THRESHOLD_" in os.environ or "pytest" in sys.modules:
        return
    os.environ.update(MALLOC_TUNABLES)
    os.execv(sys.executable, [sys.executable, "-m", "reflectioncoder", *sys.argv[1:]])


def _inspect(words: Sequence[str]) -> int:
    from reflectioncoder.dialogues.dialogue import read_jsonl

    if not words or len(words) > 2 or (len(words) == 2 and not words[1].isdigit()):
        raise UserError("usage: reflectioncoder inspect FILE.jsonl [HOW MANY]")
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    colours = {"text": "green", "code": "cyan", "execution": "yellow"}
    console = Console()
    dialogues = read_jsonl(words[0])
    for dialogue in dialogues[: int(words[1]) if len(words) == 2 else 1]:
        for message in dialogue.messages:
            for block in message.blocks:
                title, colour = f"{message.role} · {block.type}", colours[block.type]
                console.print(Panel(Text(block.content), title=title, border_style=colour, title_align="left"))
    reflection = sum(dialogue.is_reflection for dialogue in dialogues)
    console.print(f"{len(dialogues)} dialogues in {words[0]}, {reflection} of them reflection sequences")
    return 0


def _run(words: Sequence[str]) -> int:
    from reflectioncoder.cli.run import run_verb

    return run_verb(words)


def _compare(words: Sequence[str]) -> int:
    from reflectioncoder.evaluate.compare import compare

    if len(words) != 2:
        raise UserError("usage: reflectioncoder compare DIRECTORY_A DIRECTORY_B")
    print(json.dumps(dataclasses.asdict(compare(words[0], words[1]))))
    return 0


def _consolidate(words: Sequence[str]) -> int:
    from reflectioncoder.train.consolidate import consolidate_verb

    return consolidate_verb(words)


def _table(words: Sequence[str]) -> int:
    from reflectioncoder.report.paper_tables import paper_tables

    print(paper_tables(words))
    return 0


def _report(words: Sequence[str]) -> int:
    from reflectioncoder.report.page import write_report

    if len(words) != 1:
        raise UserError("usage: reflectioncoder report DIRECTORY")
    print(write_report(Path(words[0])))
    return 0


def _doctor(words: Sequence[str]) -> int:
    from reflectioncoder.cli.doctor import doctor_verb

    return doctor_verb(words)


CONFIGURED: dict[str, tuple[type, Callable[[Any, bool, bool], int]]] = {
    "build": (BuildConfig, _build),
    "train": (TrainConfig, _train),
    "generate": (GenerateConfig, _generate),
    "evaluate": (EvaluateConfig, _evaluate),
    "demo": (DemoConfig, _demo),
}
PLAIN: dict[str, Callable[[Sequence[str]], int]] = {
    "inspect": _inspect,
    "run": _run,
    "compare": _compare,
    "consolidate": _consolidate,
    "table": _table,
    "report": _report,
    "doctor": _doctor,
}

if __name__ == "__main__":
    sys.exit(main())
