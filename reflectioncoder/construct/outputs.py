"""Export formats of the kept sequences: Parquet, a `datasets` directory, and the data card.

Files are replaced atomically. Their contents depend only on the sequences and the configuration, not on time or speed.
`sequences.jsonl`, the original in the released schema, is written by `construct/export.py`.
"""

from __future__ import annotations

import itertools
import json
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflectioncoder.dialogues.dialogue import Dialogue
from reflectioncoder.errors import UserError
from reflectioncoder.files.funnel import funnel_steps
from reflectioncoder.files.jsonl import write_lines
from reflectioncoder.files.whole import NEW, replace_with

PARQUET, DATASET, CARD = "sequences.parquet", "dataset", "README.md"
FORMATS: Mapping[str, str] = {"jsonl": "sequences.jsonl", "parquet": PARQUET, "dataset": f"{DATASET}/state.json"}
OURS = "<!-- written by reflectioncoder build -->"
AT_ONCE = 1000  # rows in memory
KNOWN = ("id", "source", "licence", "level")
RAISED = re.compile(r"^([A-Za-z_][\w.]*) +Traceback \(most recent call last\)", re.MULTILINE)
NAMED = re.compile(r"^([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Iteration|Warning))\b", re.MULTILINE)
HUB_LICENCES = {"mit": "mit", "apache-2.0": "apache-2.0", "cc-by-4.0": "cc-by-4.0", "cc-by-sa-4.0": "cc-by-sa-4.0"}
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def check_formats(formats: Iterable[str]) -> None:
    """Raise UserError for the first unknown format."""
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"formats: '{name}' is not one of {', '.join(FORMATS)}")


def export_formats(directory: Path, dialogues: Sequence[Dialogue], formats: Iterable[str]) -> None:
    """Write the sequences in every requested format except JSONL.

    Raises:
        UserError: the disk is full, or permission is missing; existing files are left unchanged.
    """
    if "parquet" in formats:
        write_parquet(directory / PARQUET, dialogues)
    if "dataset" in formats:
        write_dataset(directory / DATASET, dialogues)


def _tables(dialogues: Sequence[Dialogue]) -> Iterator[Any]:
    """Yield tables of at most `AT_ONCE` rows, one row per sequence; one empty table if there are no sequences.

    A row has the messages and the type in the released schema, the problem's labels, and the remaining keys as JSON.
    """
    import pyarrow

    text = pyarrow.string()
    block = pyarrow.struct([("type", text), ("content", text)])
    message = pyarrow.struct([("role", text), ("content", pyarrow.list_(block))])
    fields = [("id", text), ("source", text), ("licence", text), ("level", pyarrow.int64())]
    schema = pyarrow.schema([*fields, ("messages", pyarrow.list_(message)), ("type", text), ("provenance", text)])
    rows: list[dict[str, Any]] = []
    for dialogue in dialogues:
        line = dialogue.to_dict()
        rest = {key: value for key, value in dialogue.extra.items() if key not in KNOWN}
        provenance = rest["provenance"] if rest.keys() == {"provenance"} else rest
        known = {key: line.get(key) for key in KNOWN} | {"id": str(line.get("id", ""))}
        text_of = json.dumps(provenance, ensure_ascii=False)
        rows.append({**known, "messages": line["messages"], "type": dialogue.type, "provenance": text_of})
        if len(rows) == AT_ONCE:
            yield pyarrow.Table.from_pylist(rows, schema)
            rows = []
    if rows or not len(dialogues):
        yield pyarrow.Table.from_pylist(rows, schema)


def write_parquet(path: Path, dialogues: Sequence[Dialogue]) -> None:
    """Write sequences as one Parquet file. Raises UserError if that fails."""
    import pyarrow.parquet

    def write(folder: Path) -> None:
        tables = _tables(dialogues)
        first = next(tables)
        with pyarrow.parquet.ParquetWriter(folder / NEW, first.schema) as file:
            for table in itertools.chain((first,), tables):
                file.write_table(table)

    replace_with(path, write)


def write_dataset(path: Path, dialogues: Sequence[Dialogue]) -> None:
    """Write sequences as a directory that `datasets.load_from_disk` reads. Raises UserError if that fails."""
    import datasets
    import pyarrow

    def write(folder: Path) -> None:
        tables = _tables(dialogues)
        first = next(tables)
        with (
            pyarrow.OSFile(str(folder / "rows.arrow"), "wb") as sink,
            pyarrow.ipc.new_stream(sink, first.schema) as out,
        ):
            for table in itertools.chain((first,), tables):
                out.write_table(table)
        rows = datasets.Dataset.from_file(str(folder / "rows.arrow"))
        # an empty data set without a shard could not be loaded
        rows.save_to_disk(str(folder / NEW), num_shards=None if len(dialogues) else 1)

    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        replace_with(path, write)
    finally:
        if not hidden:
            datasets.enable_progress_bars()


def error_of(execution: str) -> str | None:
    """Return the exception type in an execution block, "stopped" for an exceeded limit, or None if there is neither."""
    if found := RAISED.search(execution):
        return found.group(1)
    if "The interpreter was stopped (" in execution:
        return "stopped"
    names = NAMED.findall(execution)  # a syntax error has no traceback; its last line has the exception type
    return names[-1] if names else None


@dataclass(frozen=True)
class Card:
    """Contents of a data card.

    Args:
        funnel: "problems", then the number removed for each reason, then "sequences".
        dialogues: the kept sequences.
        origins: (source, licence) of each problem that was read.
        how: settings and versions by name, in the order shown.
        formats: formats of the sequence files.
    """

    funnel: Mapping[str, int]
    dialogues: Sequence[Dialogue]
    origins: Sequence[tuple[str, str]]
    how: Mapping[str, Any]
    formats: Sequence[str]


def write_card(directory: Path, card: Card) -> Path:
    """Write the card as `README.md`, or as `data_card.md` if the folder has a README that is not a data card."""
    path = directory / CARD
    if path.is_file() and OURS not in path.read_text(encoding="utf-8", errors="replace"):
        path = directory / "data_card.md"
    write_lines(path, [render_card(card)])
    return path


def render_card(card: Card) -> str:
    """Render the card as Markdown, with the YAML header that the Hugging Face hub reads."""
    sources = Counter(card.origins)
    used, rounds, errors = Counter[tuple[str, str]](), Counter[int](), Counter[str]()
    lengths: dict[str, list[int]] = {"whole dialogue": [], "reflection sequence": [], "final answer": []}
    for item in card.dialogues:
        used[str(item.extra.get("source", "")), str(item.extra.get("licence", ""))] += 1
        rounds[item.rounds] += 1
        executions = [block.content for block in item.first_round if block.type == "execution"]
        errors.update(found for text in executions if (found := error_of(text)) is not None)
        lengths["whole dialogue"].append(_length(item))
        lengths["reflection sequence"].append(sum(len(block.content) for block in item.first_round))
        lengths["final answer"].append(len(item.final_answer))
    parts = [
        _head(card, {licence for _, licence in used}),
        OURS,
        "# Reflection sequences",
        f"{len(card.dialogues)} dialogues in which code is written, run, analysed and repaired, then written afresh,"
        " made by `reflectioncoder build` after arXiv 2405.17057 (section 3.1, appendix A). Each has four messages:"
        " reflection instruction, reflection sequence (blocks of type `text`, `code`, `execution`), instruction, final"
        " code.",
        "## Funnel",
        _markdown(("step", "removed", "left"), _funnel_rows(card.funnel)),
        "## Sources and licences",
        _markdown(
            ("source", "licence", "problems", "sequences"),
            [(s or "not stated", x or "not stated", n, used[s, x]) for (s, x), n in sorted(sources.items())],
        ),
        "## Rounds",
        _markdown(("rounds", "sequences"), sorted(rounds.items())),
        "## Errors of the failing rounds",
        _markdown(("exception", "rounds"), sorted(errors.items(), key=lambda item: (-item[1], item[0]))),
        "## Lengths in characters",
        _markdown(
            ("part", "least", "median", "mean", "90 % under", "most"),
            [(name, *_spread(values)) for name, values in lengths.items() if values],
        ),
        "## How it was made",
        _markdown(("setting", "value"), [(key, _short(value)) for key, value in card.how.items()]),
        "The whole configuration is in `config.toml`; what was left out, and why, in `rejects.jsonl`; what was left out"
        " for being in an evaluation set in `contamination.jsonl`. Programs were run in an isolated interpreter; the"
        " final code of every sequence passed its asserts and its problem's tests where there are any.",
    ]
    return "\n\n".join(part for part in parts if part)


def _head(card: Card, licences: set[str]) -> str:
    count = len(card.dialogues)
    first = {licence.split(" ")[0].strip(",;").lower() for licence in licences}
    (known,) = first if len(first) == 1 else ("",)
    file = PARQUET if "parquet" in card.formats else FORMATS["jsonl"]
    lines = [
        "---",
        "pretty_name: Reflection sequences",
        "language:\n- en",
        f"license: {HUB_LICENCES.get(known, 'other')}",
        "task_categories:\n- text-generation",
        f"size_categories:\n- {next((name for most, name in SIZES if count < most), 'n>1M')}",
        "tags:\n- code\n- synthetic\n- reflection",
        f"configs:\n- config_name: default\n  data_files: {file}",
        "---",
    ]
    return "\n".join(lines)


def _funnel_rows(funnel: Mapping[str, int]) -> list[tuple[Any, ...]]:
    rows = []
    for name, removed, left in funnel_steps(funnel):
        cells = ["" if number is None else number for number in (removed, left)]
        rows.append((name.replace("_", " "), *cells))
    return rows


def _length(dialogue: Dialogue) -> int:
    return sum(len(block.content) for message in dialogue.messages for block in message.blocks)


def _spread(values: Sequence[int]) -> tuple[int, ...]:
    ordered = sorted(values)
    ninety = ordered[(9 * len(ordered) - 1) // 10]
    return ordered[0], round(statistics.median(ordered)), round(statistics.mean(ordered)), ninety, ordered[-1]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "..."


def _markdown(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (header, *rows)]
    lines.insert(1, ["---"] * len(header))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if len(lines) > 2 else "none"
