"""Finds the program in a model's answer.

Candidates are tried until one is code and defines the function that was asked for: fenced blocks, code between prose,
a block that only holds the function's body. Then the blocks are added whose names it uses (imports, helper functions).
A later block that defines the function again is a correction, unless the words before it call it something else.
Prose is never returned.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from reflectioncoder.syntax.answers import python_text
from reflectioncoder.syntax.answers.dialects import Dialect, dialect_of, kind_of
from reflectioncoder.syntax.answers.fences import TRAILING_TOKENS, Fenced, fenced_blocks
from reflectioncoder.syntax.answers.thoughts import without_thoughts

CORRECTED = re.compile(
    r"\b(?:correct(?:ed|ion|s)?|fix(?:ed|es|ing)?|wait|actually|oops|hmm|mistake|final(?:ly)?|improved?|updat\w*|revis\w*"
    r"|better|rewrit\w*|sorry|complete|together|whole|full)\b",
    re.IGNORECASE,
)
OTHER = re.compile(
    r"\b(?:alternativ\w*|another|original\w*|your|naive|brute|slower|incorrect|buggy|wrong|avoid|previous|old(?:er)?|before"
    r"|equivalent\w*|instead of|rather than|not|unlike)\b|^\W*or\b",
    re.IGNORECASE,
)
_TURN_END = re.compile(
    r"<\|(?:im_end|eot_id|endoftext|end_of_text|end_of_turn|eom_id|return)\|>|<end_of_turn>|</s>|<｜end▁of▁sentence｜>"
)
_DEFINITION = re.compile(r"^\s*(?:async\s+def|def|class)\b", re.MULTILINE)


@dataclass(frozen=True)
class Asked:
    """What an answer should hold.

    Args:
        language: the language, by any of its names.
        name: the function or class that the program must define; empty if unknown.
        head: code that a mere body continues, such as the prompt; it may hold imports and helper functions.
        opened: whether the answer begins inside a code block, because the prompt ends in an opening fence.
        marks: further marks of thoughts; see `without_thoughts`.
        trials: keep statements at the end of a program that try the function out.
    """

    language: str = "python"
    name: str = ""
    head: str = ""
    opened: bool = False
    marks: tuple[str, ...] = ()
    trials: bool = False


@dataclass(frozen=True)
class Program:
    """The program in an answer.

    Args:
        code: the code; empty if the answer holds none.
        named: whether it defines the function that was asked for.
        cut: whether the answer ends inside a thought, before any code.
        rivals: whether another block defines the same function differently, and nothing says which one counts.
        blocks: number of blocks that could be the program or a part of it.
        language: language of the block it is from; that of the first block if the answer holds no program.
    """

    code: str
    named: bool = False
    cut: bool = False
    rivals: bool = False
    blocks: int = 0
    language: str = ""


@dataclass(frozen=True)
class _Piece:
    """A part of the answer that may be code: a fenced block, or code between prose."""

    code: str
    place: int
    language: str = ""
    whole: bool = False
    named: bool = False
    words: str = field(default="", compare=False)


def read_program(text: str, asked: Asked) -> Program:
    """Find the program in an answer.

    Args:
        text: the answer as the model gave it.
        asked: what it should hold.
    """
    dialect = dialect_of(asked.language)
    answered = without_thoughts(text, asked.marks, dialect)
    said = answered.text
    if asked.opened and re.match(r"\s*(?:`{3,}|~{3,})", said):  # the answer repeats the opening fence
        asked = replace(asked, opened=False)
    if (end := _TURN_END.search(said)) and said[: end.start()].strip() and said[end.end() :].strip():
        turn = read_program(said[: end.start()], asked)  # what follows is another turn that the model made up
        if turn.code and dialect.whole(turn.code) and (turn.named or not asked.name):
            return turn
    blocks = fenced_blocks(said, dialect, asked.language if asked.opened else None)
    quoted = blocks[0].code if len(blocks) == 1 and blocks[0].language in ("markdown", "md", "mdx", "") else ""
    inner = fenced_blocks(quoted, dialect) if "```" in quoted and not dialect.whole(quoted) else []
    if any(kind_of(block.language) == dialect.kind for block in inner):  # the whole answer is quoted as Markdown
        return read_program(quoted, replace(asked, opened=False))
    lines = said.split("\n")
    pieces = [_piece(block, lines, asked, dialect) for block in blocks]
    usable = [piece for piece in pieces if piece.code.strip() and _may_be(piece, dialect)]
    first = next((block.language for block in blocks if block.code.strip()), "")
    found = _chosen(usable, said, lines, blocks, asked, dialect)
    if found is None:
        return Program("", cut=answered.cut, blocks=len(usable), language=first)
    code, main, rivals = found
    if asked.name and dialect.kind == "python" and not asked.trials:
        code = python_text.without_trial(code, asked.name)
    code = code.strip("\n").rstrip()
    return Program(f"{code}\n" if code else "", main.named, False, rivals, len(usable), main.language)


def _chosen(
    usable: Sequence[_Piece], said: str, lines: list[str], blocks: Sequence[Fenced], asked: Asked, dialect: Dialect
) -> tuple[str, _Piece, bool] | None:
    """Return the code of the program, the piece that it is from, and whether that is a choice between equals."""
    python = dialect.kind == "python"
    if python and blocks and dialect.provides(said) and (not asked.name or dialect.defines(said, asked.name)):
        main = _made(said, 0, "", asked, dialect)  # what looks like fences is inside literals
        return main.code, main, False
    if (
        asked.opened
        and usable
        and usable[0].place == -1
        and _good_opened(usable[0], asked, dialect, any(piece.named for piece in usable[1:]))
    ):
        return usable[0].code, usable[0], False
    named = [piece for piece in usable if piece.named and piece.whole]
    if named and python and len(re.findall(rf"\bdef +{asked.name}\b|^{asked.name} *=[^=]", said, re.M)) > len(named):
        named += [piece for piece in _bare(said, lines, blocks, asked, dialect) if piece.named and piece.whole]
        named.sort(key=lambda piece: piece.place)
    if named:
        main, rivals = _latest(named, asked.name)
        return _joined(main, usable, asked, dialect), main, rivals
    if asked.name and not python and (alone := _unfenced(said, blocks, asked, dialect)) and alone[1].named:
        return alone
    bare = _bare(said, lines, blocks, asked, dialect)
    if asked.name and (named := [piece for piece in bare if piece.named and piece.whole]):
        main, rivals = _latest(named, asked.name)
        return _joined(main, sorted([*usable, *bare], key=lambda p: p.place), asked, dialect), main, rivals
    if asked.name and python and (inline := _somewhere(said, blocks, asked, dialect)):
        return inline.code, inline, False
    if asked.name and (broken := next((p for p in usable if p.named), None)):
        inner = python_text.bare_codes(broken.code.split("\n")) if python else []
        made = [_made(code, broken.place + first, "", asked, dialect) for first, _, code in inner]
        if best := next((piece for piece in reversed(made) if piece.named), None):  # prose inside the block
            return _joined(best, made, asked, dialect), best, False
        return _without_end(broken, dialect), broken, False  # cut off, or with an error of its own
    if python and (body := next((p for p in usable if not p.whole and python_text.is_body(p.code, asked.head)), None)):
        return body.code, body, False
    for piece in usable if asked.name and python else ():
        if (code := python_text.as_body(piece.code)) is not None:
            return code, piece, False
    if not usable or (python and not any(p.whole or p.language for p in usable)):
        if python and python_text.is_body(said, asked.head) and not blocks:
            return said, _Piece(said, 0), False
        good = [piece for piece in bare if piece.whole]
        if good:
            main, rivals = _unnamed(good, dialect)
            return _joined(main, good, asked, dialect), main, rivals
    if usable:
        main, rivals = _unnamed(usable, dialect)
        if main.whole or main.language or asked.opened or python_text.looks_like_code(main.code) or not python:
            return _joined(main, usable, asked, dialect), main, rivals
        return None
    return _unfenced(said, blocks, asked, dialect)


def _piece(block: Fenced, lines: Sequence[str], asked: Asked, dialect: Dialect) -> _Piece:
    code = block.code
    if dialect.kind == "python" and block.language in ("diff", "patch"):
        code = python_text.new_side(code)
    if dialect.kind == "python":
        code = python_text.repaired(code)
    else:
        code = TRAILING_TOKENS.sub("", code)
        if block.first < 0 and asked.name and dialect.defines(code, asked.name):
            code = without_prose(code)
    before = next((line for line in reversed(lines[: max(0, block.first)]) if line.strip()), "")
    return _made(code, block.first, block.language, asked, dialect, f"{before} {block.words}")


def _made(code: str, place: int, language: str, asked: Asked, dialect: Dialect, words: str = "") -> _Piece:
    named = bool(asked.name) and dialect.defines(code, asked.name)
    return _Piece(code, place, language, dialect.whole(code), named, words)


def _may_be(piece: _Piece, dialect: Dialect) -> bool:
    kind = kind_of(piece.language)
    if dialect.kind == "python" and kind == "repl":
        return bool(dialect.provides(piece.code))
    return kind in ("", dialect.kind) or (not kind_of(dialect.kind) and piece.language == dialect.kind)


def _latest(named: Sequence[_Piece], name: str) -> tuple[_Piece, bool]:
    """Choose between several definitions of the function: the last, unless its words call it something else."""
    real = [piece for piece in named if not python_text.is_stub(piece.code, name)] or list(named)
    main, rivals = real[0], False
    for piece in real[1:]:
        if piece.code.strip() == main.code.strip():
            continue
        corrects, other = CORRECTED.search(piece.words), OTHER.search(piece.words)
        if corrects or not other:
            main = piece
        rivals = rivals or not corrects
    return main, rivals


def _unnamed(pieces: Sequence[_Piece], dialect: Dialect) -> tuple[_Piece, bool]:
    """Choose without knowing the name: the first piece in the language that is code, or a later draft of it.

    Returns:
        the piece, and whether another defines the same, while nothing says which one counts.
    """
    marked = [piece for piece in pieces if piece.language and kind_of(piece.language) == dialect.kind]
    some = [piece for piece in marked or pieces if piece.whole] or marked or list(pieces)
    if any(dialect.provides(piece.code) for piece in some):
        defining = [piece for piece in some if _functions(piece, dialect)]
        some = defining or [piece for piece in some if dialect.provides(piece.code)]
    main, rivals = some[0], False
    for piece in some[1:]:
        own, given = dialect.provides(main.code), dialect.provides(piece.code)
        if not own & given or piece.code.strip() == main.code.strip():
            continue
        corrects = CORRECTED.search(piece.words)
        if own <= given and (corrects or not OTHER.search(piece.words)):
            main = piece
        rivals = rivals or not corrects
    return main, rivals


def _functions(piece: _Piece, dialect: Dialect) -> bool:
    return dialect.kind != "python" or _DEFINITION.search(piece.code) is not None


def _joined(main: _Piece, pieces: Sequence[_Piece], asked: Asked, dialect: Dialect) -> str:
    """Put the pieces around a program that define names it uses, in the order of the answer."""
    chosen = {main.place: main}
    known = dialect.provides(asked.head) if asked.head else frozenset()
    own = set(dialect.provides(main.code))
    for _ in pieces:
        missing = {name for piece in chosen.values() for name in dialect.needs(piece.code)} - own - known
        more = [
            piece
            for piece in pieces
            if piece.place not in chosen
            and piece.whole
            and (given := dialect.provides(piece.code))
            and (given & missing or ("*" in given and piece.place < main.place))
            and not (asked.name and asked.name in given)
        ]
        if not more:
            break
        latest = more[-1] if not any("*" in dialect.provides(piece.code) for piece in more) else more[0]
        chosen[latest.place] = latest
        own |= dialect.provides(latest.code)
    parts = [chosen[place] for place in sorted(chosen)]
    if len(parts) == 1:
        return main.code
    futures = [piece for piece in parts if "__future__" in piece.code]
    parts.sort(key=lambda piece: piece not in futures)
    return "\n\n".join(piece.code.strip("\n") for piece in parts)


def _good_opened(piece: _Piece, asked: Asked, dialect: Dialect, others: bool) -> bool:
    """Whether the text behind the prompt's fence is the answer itself."""
    if dialect.kind != "python":
        return not asked.name or piece.named or piece.code[:1].isspace() or not others
    if asked.name and piece.named:
        return True
    return python_text.is_body(piece.code, asked.head) or (not asked.name and piece.whole)


def _bare(said: str, lines: list[str], blocks: Sequence[Fenced], asked: Asked, dialect: Dialect) -> list[_Piece]:
    """Find code between the prose outside fenced blocks, and in blocks that are no code."""
    if dialect.kind != "python":
        return []
    code = [block for block in blocks if kind_of(block.language) or dialect.whole(python_text.repaired(block.code))]
    taken = {number for block in code for number in range(block.first, block.end)}
    segments: list[tuple[int, list[str]]] = []
    for number, line in enumerate(lines):
        if number in taken or re.match(r"\s*(?:`{3,}|~{3,})", line):
            continue
        if segments and segments[-1][0] + len(segments[-1][1]) == number:
            segments[-1][1].append(line)
        else:
            segments.append((number, [line]))
    return [
        _made(code, start + first, "", asked, dialect, _before(segment, first))
        for start, segment in segments
        for first, _, code in python_text.bare_codes(segment)
    ]


def _before(lines: Sequence[str], place: int) -> str:
    return next((line for line in reversed(lines[:place]) if line.strip()), "")


def _somewhere(said: str, blocks: Sequence[Fenced], asked: Asked, dialect: Dialect) -> _Piece | None:
    """Look for the function where code seldom is: in blocks of another name, in JSON, in inline code."""
    texts = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", said)
    if "\\n" in said and "\n" not in said.strip():  # escaped as in a literal
        texts.append(said.strip().replace("\\n", "\n").replace('\\"', '"').replace("\\t", "\t"))
    for text in (said, *(block.code for block in blocks if block.language.startswith("json"))):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(TRAILING_TOKENS.sub("", text.strip()))
            some = value.values() if isinstance(value, dict) else [value]
            texts += [item for item in some if isinstance(item, str)]
    for block in blocks:
        code = python_text.new_side(block.code) if block.language in ("diff", "patch") else block.code
        texts.append(python_text.repaired(code))
    for text in reversed(texts):
        if (made := _made(text, 0, "", asked, dialect)).named and made.whole:
            return made
        if text != said and asked.name in text and "```" in text:
            inner = read_program(text, replace(asked, opened=False))
            if inner.named:
                return _made(inner.code, 0, "", asked, dialect)
    return None


def _without_end(piece: _Piece, dialect: Dialect) -> str:
    """Cut what is no code from the end of a piece, between statements; unchanged if the error is before that."""
    if dialect.kind != "python" or piece.whole:
        return piece.code
    return python_text.whole_statements(piece.code) or piece.code


def _unfenced(said: str, blocks: Sequence[Fenced], asked: Asked, dialect: Dialect) -> tuple[str, _Piece, bool] | None:
    """Return an answer without usable blocks: all of it, up to the first fence, if it is code and not prose."""
    lines = said.split("\n")
    end = next((number for number, line in enumerate(lines) if re.match(r"\s*(?:`{3,}|~{3,})", line)), len(lines))
    if blocks and any(kind_of(block.language) not in ("", dialect.kind) and block.code.strip() for block in blocks):
        return None
    text = TRAILING_TOKENS.sub("", "\n".join(lines[:end])).strip("\n")
    if not text.strip():
        return None
    if dialect.kind == "python":
        if not text[:1].isspace() and not python_text.looks_like_code(text):
            return None
        if not text[:1].isspace():
            lines = text.split("\n")
            start = next(k for k, line in enumerate(lines) if python_text.looks_like_code(line))
            text = "\n".join(lines[start:])
    else:
        text = without_prose(text)
        if not re.search(r"[;{}=()]|\b(?:return|fi|done|end)\b", text):
            return None
    made = _made(text, 0, "", asked, dialect)
    return _without_end(made, dialect) if made.named else text, made, False


_PROSE = re.compile(r"(?=.*[A-Za-z])[^\S\n]*(?:[A-Z*#\d-][^\n;{}=]*[.:!?*][^\S\n]*|#{2,}[^\n]*|\*\*[^\n]*)$")


def without_prose(text: str) -> str:
    """Remove lines of prose from the beginning and the end of code in another language than Python."""
    lines = text.split("\n")
    start, end = 0, len(lines)
    while start < end and (not lines[start].strip() or _PROSE.match(lines[start])):
        start += 1
    while end > start and (not lines[end - 1].strip() or _PROSE.match(lines[end - 1])):
        end -= 1
    return "\n".join(lines[start:end])
