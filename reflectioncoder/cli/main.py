"""The command line: one verb for each stage of the pipeline. Add a verb to `verbs`.

Every verb has `--help`. Verbs with settings take `--config FILE.toml` and dotted flags
(`--masking.strategy sequential`). They print their resolved settings with `--print-config`, and what they would do with
`--dry-run`. Heavy imports are inside the verbs, so that help and error messages appear immediately.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, TextIO

from reflectioncoder import __version__
from reflectioncoder.cli.arguments import Switches, Verb, completion, positional, print_line, read_arguments, show_help
from reflectioncoder.cli.process import allow_restart
from reflectioncoder.config.toml import to_toml
from reflectioncoder.errors import RankError, UserError, first_line, out_of_memory

SECONDS_FOR_THE_FIRST_RANK = 10.0
NO_READER = 128 + 13  # what a shell reports for a program that SIGPIPE has ended


@dataclass(frozen=True)
class CompletionArguments:
    """Print a completion script, for the shell's start-up file: `source <(reflectioncoder completion bash)`.

    Args:
        shell: `bash` or `zsh`.
    """

    shell: Literal["bash", "zsh"] = positional()


def run_completion(arguments: CompletionArguments, _: Switches) -> int:
    """Print the completion script."""
    print(completion(arguments.shell, verbs()))
    return 0


def verbs() -> dict[str, Verb]:
    """Return all verbs by name, in the order of the pipeline. Add yours here."""
    from reflectioncoder.cli.build import BUILD, STATUS
    from reflectioncoder.cli.demo import DEMO
    from reflectioncoder.cli.doctor import DOCTOR
    from reflectioncoder.cli.evaluate import COMPARE, EVALUATE, REPORT, TABLE
    from reflectioncoder.cli.generate import GENERATE
    from reflectioncoder.cli.improve import IMPROVE
    from reflectioncoder.cli.inspect import INSPECT
    from reflectioncoder.cli.pretrain import PRETRAIN
    from reflectioncoder.cli.run import RUN
    from reflectioncoder.cli.study import STUDY
    from reflectioncoder.cli.train import CONSOLIDATE, TRAIN

    return {
        "demo": DEMO,
        "build": BUILD,
        "build status": STATUS,
        "inspect": INSPECT,
        "pretrain": PRETRAIN,
        "train": TRAIN,
        "consolidate": CONSOLIDATE,
        "generate": GENERATE,
        "evaluate": EVALUATE,
        "compare": COMPARE,
        "table": TABLE,
        "report": REPORT,
        "study": STUDY,
        "improve": IMPROVE,
        "run": RUN,
        "doctor": DOCTOR,
        "completion": Verb("print a completion script for bash or zsh", CompletionArguments, run_completion),
    }


def overview() -> str:
    """Return the usage text with the list of verbs."""
    known = verbs()
    width = max(map(len, known))
    lines = [f"  {name:{width}}  {verb.summary}" for name, verb in known.items()]
    return "\n".join(
        [
            "usage: reflectioncoder VERB [--config FILE.toml] [--KEY VALUE ...] [--print-config] [--dry-run]",
            "",
            *lines,
            "",
            "reflectioncoder VERB --help explains each key, its choices and its default.",
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        arguments: the words after the program's name; by default those of `sys.argv`. Without it, `train` and local
            decoding may restart the program with other allocator settings, which is a little faster on CPUs.

    Returns:
        the exit status: 0 for success, 1 if the program of `run` failed, a build made no sequence, or problems are left
        without a result, 2 for bad input, 130 after Ctrl-C, 141 without a message if nobody reads the output any more.
    """
    was_null = _is_null()
    try:
        status = _main(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except SystemExit:
        if _is_null() and not was_null:  # rich ends the program so where standard output has no reader
            return NO_READER
        raise
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _unread():
            return NO_READER
        if error.filename is None and error.errno is None:
            raise
        print_line(f"reflectioncoder: {error.filename or 'output'}: {error.strerror or first_line(error)}")
        _discard(sys.stdout)  # Python would try to write the rest, and fail again
        return 2


def _unread() -> bool:
    """Whether the reader of standard output or error has gone; the stream is then discarded."""
    gone = False
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or no file at all
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            if any(event & select.POLLERR for _, event in poll.poll(0)):
                gone = True
                _discard(stream)
    return gone


def _discard(stream: TextIO) -> None:
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _is_null() -> bool:
    try:
        return os.path.samestat(os.fstat(sys.stdout.fileno()), os.stat(os.devnull))
    except (OSError, ValueError, AttributeError):
        return False


def _main(arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    allow_restart(arguments is None)
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview(), end="")
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"reflectioncoder {__version__}")
        return 0
    size = 2 if words[:2] == ["build", "status"] else 1
    name, rest = " ".join(words[:size]), words[size:]
    try:
        if not all(map(_is_text, words)):
            name = name if _is_text(name) else "command line"
            raise UserError("a word is not valid UTF-8")
        return _run(name, rest)
    except UserError as error:
        if os.environ.get("LOCAL_RANK", "0") != "0" and not isinstance(error, RankError):
            # All ranks of a machine get the same error. The first one prints it, and the launcher then ends the others.
            time.sleep(SECONDS_FOR_THE_FIRST_RANK)
        print_line(f"reflectioncoder {name}: {error}")
        return error.status
    except KeyboardInterrupt:
        print_line(f"reflectioncoder {name}: interrupted; finished work is kept, run it again to resume")
        return 130
    except BrokenPipeError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        print_line(f"reflectioncoder {name}: out of memory ({first_line(error)}); finished work is kept: take smaller "
                   "batches or a smaller model, or a machine with more memory, and run it again")  # fmt: skip
        return 2
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        print_line(f"reflectioncoder {name}: {error.filename or 'output'}: {error.strerror or first_line(error)}")
        return 2


def _is_text(word: str) -> bool:
    """Whether a word can be printed. In `sys.argv`, bytes that are not UTF-8 are lone surrogates."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _run(name: str, words: Sequence[str]) -> int:
    known = verbs()
    if name not in known:
        near = get_close_matches(name, known, 1)
        meant = f"; perhaps you meant '{near[0]}'" if near else f"; one of {', '.join(known)}"
        raise UserError(f"unknown verb '{name}'{meant}")
    verb = known[name]
    config, given = read_arguments(name, verb, words)
    if "help" in given:
        show_help(name, verb)
        return 0
    if "print_config" in given:
        print(to_toml(config), end="")
        return 0
    return verb.run(config, Switches("dry_run" in given, "json" in given))


if __name__ == "__main__":
    sys.exit(main())
