"""Measures contamination of instruction sets by evaluation sets: how many rows, how fast, and how precisely.

    .venv/bin/python studies/contamination.py --against DIR,FILE... NAME=FILE=COLUMNS ... [--labels FILE.jsonl]

COLUMNS is a preset of `build --fields`, or the columns of the texts with the request first, such as
"instruction+input,response"; columns joined by "+" are one text. NAME=procedural=COUNT uses generated problems. The
report has the counts by part of the reference, and the speed. With `--labels` it also has the precision and recall on
the labelled rows; a line of that file has set, id and same: whether a person who read both decided that the row asks
for a reference's task. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reflectioncoder.construct.filters.contamination import Contamination, Detector, contaminated
from reflectioncoder.construct.filters.references import load_references
from reflectioncoder.files.fields import PRESETS
from reflectioncoder.files.rows import iter_rows
from reflectioncoder.problems.load import load_problems
from reflectioncoder.problems.problem import Problem
from reflectioncoder.problems.procedural import problems as procedural


def read(name: str, path: str, columns: str) -> list[Problem]:
    """Read the rows of a set as problems.

    A preset skips rows without a standalone Python program; named columns include them.

    Args:
        name: name of the set.
        path: file of the set, or `procedural`.
        columns: preset, columns, or the number of procedural problems.
    """
    if path == "procedural":
        return list(procedural.procedural_problems(int(columns), 0, "train", (1, 2, 3, 4)))
    if columns.split(",")[0] in PRESETS:
        return load_problems(path, columns, skipped=[])
    problems = []
    for number, (_, row) in enumerate(iter_rows(path)):
        request, *rest = ["\n".join(filter(None, map(row.get, part.split("+")))) for part in columns.split(",")]
        problems.append(Problem(str(number), request, "\n".join(rest), source=name))
    return problems


def judged(labels: Sequence[dict[str, Any]], found: dict[tuple[str, str], Contamination]) -> dict[str, Any]:
    """Compute precision and recall on labelled rows.

    Args:
        labels: the labelled rows.
        found: the contaminated rows by (set, id).
    """
    hit = [row for row in labels if (row["set"], row["id"]) in found]
    right, same = sum(row["same"] for row in hit), sum(row["same"] for row in labels)
    return {
        "labelled": len(labels), "same": same, "removed": len(hit), "right": right,
        "precision": round(right / max(1, len(hit)), 3), "recall": round(right / max(1, same), 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME=FILE=COLUMNS")
    parser.add_argument("--against", required=True, help="files and folders of evaluation sets, with commas")
    parser.add_argument("--labels")
    parser.add_argument("--list", action="store_true", help="list every contaminated row with its reference")
    options = parser.parse_args()
    references = list(load_references(options.against.split(",")))
    detector = Detector(references)
    rows, everything = [], {}
    print(f"{len(references)} references: {dict(Counter(item.benchmark for item in references))}")
    print(
        f"{'set':16} {'rows':>6} {'found':>6} {'share':>7} {'prompt':>7} {'solution':>9} {'request':>8} {'rows/s':>7}"
    )
    for entry in options.sets:
        name, path, columns = entry.split("=", 2)
        problems = read(name, path, columns)
        began = time.perf_counter()
        found = contaminated(problems, detector)
        seconds = time.perf_counter() - began
        everything |= {(name, item.id): item for item in found}
        parts = Counter(item.part for item in found)
        row = {
            "set": name,
            "rows": len(problems),
            "found": len(found),
            "share": round(len(found) / len(problems), 4),
            **{part: parts[part] for part in ("prompt", "solution", "request")},
            "seconds": round(seconds, 2),
            "per_second": round(len(problems) / seconds),
        }
        rows.append(row)
        print(
            f"{name:16} {row['rows']:6} {row['found']:6} {row['share']:7.2%} {row['prompt']:7} {row['solution']:9}"
            f" {row['request']:8} {row['per_second']:7}",
            flush=True,
        )
        if options.list:
            for item in found:
                print(f"  {item.id} ~ {item.reference}, {item.part} {item.share:.0%}: {item.example}")
    figures: dict[str, Any] = {"references": len(references), "sets": rows}
    if options.labels:
        lines = Path(options.labels).read_text(encoding="utf-8").splitlines()
        figures["labels"] = judged([json.loads(line) for line in lines], everything)
        print("labelled rows: {labelled}, the same task: {same}; removed {removed}, rightly {right}: precision"
              " {precision:.0%}, recall {recall:.0%}".format(**figures["labels"]))  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
