"""Words of a command line to settings, and the help and shell completion of every verb.

Help and completion are tyro's, made from the same frozen dataclasses and their docstrings. Parsing is ours, because
settings also come from TOML files with the same rules, lists are written with commas, and every mistake is one line
that names the key that was probably meant.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from reflectioncoder.config.toml import choices, known_keys, load, read_value, type_hints
from reflectioncoder.errors import UserError

A = TypeVar("A")
MESSAGE_CHARACTERS = 2000  # characters of a message
SWITCHES = {
    "config": "TOML file of settings; flags override it.",
    "print_config": "Print the resolved settings as TOML and stop.",
    "dry_run": "Say what would be done and stop.",
    "json": "Print the result as one JSON object.",
    "help": "Show this help and stop.",
}


@dataclass(frozen=True)
class Switches:
    """What may be asked of a verb beside its settings."""

    dry_run: bool = False
    json: bool = False


@dataclass(frozen=True)
class Verb:
    """One word of the command line.

    Args:
        summary: what it does, for the list of verbs.
        arguments: frozen dataclass of its settings or words; the docstring says what each field means.
        run: does the work and returns the exit status.
        configured: whether it takes `--config`, `--print-config` and `--dry-run`.
        json: whether it takes `--json`.
        aliases: flags that stand for another key, such as `data` for `generate.data`.
    """

    summary: str
    arguments: type
    run: Callable[[Any, Switches], int]
    configured: bool = False
    json: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)

    def switches(self) -> list[str]:
        """Names of the switches it takes."""
        names = ["config", "print_config", "dry_run"] if self.configured else []
        return [*names, *(["json"] if self.json else []), "help"]


def positional(default: Any = dataclasses.MISSING, many: bool = False, option_too: str = "") -> Any:
    """A field that is given by its place, such as FILE.

    Args:
        default: its value where it is left out; it must be given if there is none.
        many: it takes all words that are left; the field is a tuple of texts.
        option_too: dotted key that the word stands for, such as the task of `evaluate`.
    """
    return field(default=default, metadata={"positional": True, "many": many, "option": option_too})


def split_words(verb: Verb, words: Sequence[str]) -> tuple[dict[str, str], list[str], set[str]]:
    """Split words into flags (`--key value`, `--key=value`, bare booleans), words without a flag, and switches.

    Raises:
        UserError: an unknown flag, or a flag without its value.
    """
    keys = known_keys(verb.arguments)
    switches = verb.switches()
    flags: dict[str, str] = {}
    plain: list[str] = []
    given: set[str] = set()
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if word == "-h":
            given.add("help")
            continue
        if not word.startswith("--") or word == "--":
            if word.startswith("-") and word != "-" and not _is_number(word):
                raise UserError(f"'{word}' is not a flag; flags begin with --{_meant(word.lstrip('-'), verb, keys)}")
            plain.append(word)
            continue
        text, equals, value = word[2:].partition("=")
        key = text.replace("-", "_")
        key = verb.aliases.get(key, key)
        if key in switches and key != "config":
            if equals:
                raise UserError(f"flag --{text} takes no value")
            given.add(key)
            continue
        if key != "config" and key not in keys:
            if any(name.startswith(f"{key}.") for name in keys):
                inner = ", ".join(name for name in keys if name.startswith(f"{key}."))
                raise UserError(f"flag --{text}: is a table; set one of its keys ({inner})")
            last = key.rsplit(".", 1)[-1]
            raise UserError(f"flag --{text}: unknown key '{last}'{_meant(key, verb, keys)}")
        if equals:
            flags[key] = value
        elif position < len(words) and not words[position].startswith("--"):
            flags[key] = words[position]
            position += 1
        elif keys.get(key) is bool:
            flags[key] = "true"
        else:
            raise UserError(f"flag --{text} needs a value")
    return flags, plain, given


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _meant(key: str, verb: Verb, keys: Mapping[str, Any]) -> str:
    """`; perhaps you meant --x`, by the whole dotted key or its last part."""
    names = [*keys, *(name for name in verb.switches() if name != "help")]
    near = get_close_matches(key, names, 1, 0.7)
    if not near:
        last = {name.rsplit(".", 1)[-1]: name for name in reversed(names)}
        near = [last[name] for name in get_close_matches(key.rsplit(".", 1)[-1], last, 1, 0.7)]
    return f"; perhaps you meant --{near[0]}" if near else "; --help lists the keys"


def read_arguments(name: str, verb: Verb, words: Sequence[str]) -> tuple[Any, set[str]]:
    """The settings that words give, and the switches among them.

    Args:
        name: of the verb, for messages.
        verb: see `Verb`.
        words: all that follows the verb.

    Returns:
        settings and switches; settings are None where help was asked for.

    Raises:
        UserError: anything that cannot be read, in one line.
    """
    if any(word in ("-h", "--help") for word in words):
        return None, {"help"}
    flags, plain, given = split_words(verb, words)
    places = [entry for entry in dataclasses.fields(verb.arguments) if entry.metadata.get("positional")]
    values: dict[str, Any] = {}
    for place in places:
        if place.metadata["many"]:
            values[place.name], plain = tuple(plain), []
        elif plain:
            hint = type_hints(verb.arguments)[place.name]
            values[place.name] = read_value(hint, plain.pop(0), place.name.upper())
        elif place.default is dataclasses.MISSING:
            raise UserError(f"{place.name.upper()} is missing; {usage(name, verb)}")
    if plain and not values and verb.aliases.get(""):
        flags.setdefault(verb.aliases[""], plain.pop(0))  # reflectioncoder evaluate TASK
    if plain and not places:
        near = _meant(plain[0].lstrip("-"), verb, known_keys(verb.arguments))
        raise UserError(f"'{plain[0]}' is not a flag; write --key value{near}")
    if plain:
        raise UserError(f"'{plain[0]}' is one word too many; {usage(name, verb)}")
    settings: Any = load(verb.arguments, flags.pop("config", None), flags, values)
    return settings, given


def usage(name: str, verb: Verb) -> str:
    """`usage: reflectioncoder NAME FILE [--key VALUE ...]`."""
    words = []
    for entry in dataclasses.fields(verb.arguments):
        if entry.metadata.get("positional"):
            word = entry.name.upper() + (" ..." if entry.metadata["many"] else "")
            words.append(word if entry.default is dataclasses.MISSING else f"[{word}]")
    options = any(not entry.metadata.get("positional") for entry in dataclasses.fields(verb.arguments))
    return " ".join(["usage: reflectioncoder", name, *words, *(["[--KEY VALUE ...]"] if options else [])])


def show_help(name: str, verb: Verb) -> None:
    """Print what each key of a verb means, its choices and its default."""
    import tyro

    text = (verb.arguments.__doc__ or "").split("\n\n    Args:")[0]
    about = "\n".join(line.strip() for line in text.strip().split("\n"))
    with suppress(SystemExit):
        tyro.cli(
            _for_tyro(verb),
            prog=f"reflectioncoder {name}",
            description=about,
            args=["--help"],
            use_underscores=True,
            config=(tyro.conf.HelptextFromCommentsOff,),
        )


def completion(shell: str, verbs: Mapping[str, Verb]) -> str:
    """The completion script of all verbs for `bash` or `zsh`."""
    import argparse

    import shtab

    parser = argparse.ArgumentParser(prog="reflectioncoder")
    below = parser.add_subparsers()
    for name, verb in verbs.items():
        one = below.add_parser(name, help=verb.summary)
        for key, hint in known_keys(verb.arguments).items():
            one.add_argument(f"--{key}", choices=choices(hint) or None)
        for switch in verb.switches():
            if switch != "help":
                one.add_argument(f"--{switch.replace('_', '-')}", action="store_true", help=SWITCHES[switch])
    return str(shtab.complete(parser, shell))


def _for_tyro(verb: Verb) -> Any:
    """The verb's dataclass as tyro shows it: words by place, lists with commas, and the switches as a group."""
    import tyro

    registry: dict[type, type] = {}

    def shown(cls: Any) -> Any:
        if cls in registry:
            return registry[cls]
        hints = type_hints(cls)
        entries = []
        for entry in dataclasses.fields(cls):
            hint: Any = hints[entry.name]
            default: Any = entry.default
            if dataclasses.is_dataclass(hint):
                default = dataclasses.field(default_factory=shown(hint))
            if dataclasses.is_dataclass(hint):
                hint = shown(hint)
            elif get_origin(hint) is Mapping:
                hint, default = Annotated[str, tyro.conf.arg(metavar="JSON")], ""
            elif hint is bool:
                hint = tyro.conf.FlagConversionOff[Annotated[bool, _with_value("[true|false]")]]
            elif get_origin(hint) is tuple and not entry.metadata.get("many"):
                # as text: for a tuple tyro would import typeguard, which takes 80 ms
                hint, default = Annotated[str, tyro.conf.arg(metavar=_with_commas(hint))], ",".join(map(str, default))
            elif get_origin(hint) is Annotated:  # the names in a registry
                hint = Literal[choices(hint)]
            if entry.metadata.get("positional"):
                word = entry.name.upper() if entry.default is dataclasses.MISSING else f"[{entry.name.upper()}]"
                hint = Annotated[hint, tyro.conf.Positional, tyro.conf.arg(metavar=word)]
            entries.append((entry.name, hint) if default is dataclasses.MISSING else (entry.name, hint, default))
        registry[cls] = dataclasses.make_dataclass(cls.__name__, entries, frozen=True)
        registry[cls].__doc__ = cls.__doc__
        return registry[cls]

    main = shown(verb.arguments)
    names = [name for name in verb.switches() if name != "help"]
    if not names:
        return main
    flag: Any = tyro.conf.FlagCreatePairsOff[bool]
    of_command = dataclasses.make_dataclass(
        "Command", [(name, str, "") if name == "config" else (name, flag, False) for name in names]
    )
    lines = "\n".join(f"    {name}: {SWITCHES[name]}" for name in names)
    of_command.__doc__ = f"Of the command itself.\n\nArgs:\n{lines}\n"
    without_prefix: Any = tyro.conf.OmitArgPrefixes
    command = without_prefix[of_command]
    both = dataclasses.make_dataclass(
        "Arguments",
        [("command", command, dataclasses.field(default_factory=of_command))],
        bases=(main,),
        kw_only=True,
        frozen=True,
    )
    both.__doc__ = main.__doc__
    return both


def _with_value(text: str) -> Any:
    """A boolean that may stand alone or with a value."""
    import tyro

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=text,
        instance_from_str=lambda words: read_value(bool, words[0], "value"),
        is_instance=lambda value: isinstance(value, bool),
        str_from_instance=lambda value: [str(value).lower()],
    )


def _with_commas(hint: Any) -> str:
    """How the value of a tuple is written, such as `INT,...`."""
    inner = get_args(hint)[0]
    one = "|".join(choices(inner)) or inner.__name__.upper()
    return f"{one},..."


def print_line(text: str) -> None:
    """Print one line on standard error; one of more than `MESSAGE_CHARACTERS` is shortened in its middle."""
    line = " ".join(text.splitlines()).encode("utf-8", "backslashreplace").decode()
    if len(line) > MESSAGE_CHARACTERS:
        line = f"{line[: MESSAGE_CHARACTERS // 2]} ... {line[5 - MESSAGE_CHARACTERS // 2 :]}"
    print(line, file=sys.stderr)
