"""Which files of a folder or of a data set on the Hugging Face hub hold the rows of a split.

The rules follow the `datasets` library: configurations in the header of README.md first, then the words train,
validation and test in file names. Unlike there, no file with rows is left out silently: a file without such a word
belongs to the training split, and a folder that holds the same name in two formats, or only some shards, is an error.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reflectioncoder.errors import UserError, first_line
from reflectioncoder.files.json_value import parse_json

ROW_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
SUFFIXES = (*ROW_SUFFIXES, *(f"{name}.gz" for name in ROW_SUFFIXES if name != ".parquet"))
PACKED = (".zst", ".xz", ".bz2", ".zip", ".lz4")
SPLITS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
EVERY_SPLIT = "all"
CARD = "README.md"
ABOUT_FILES = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")  # files about a data set
BUILD_FILES = ("sequences.jsonl", "instructions.jsonl")
PASSED_FILE = "passed.jsonl"  # plain samples of a build from attempts; other builds have none
LEDGER = "ledger.sqlite"
SHARD = re.compile(r"-(\d{5})-of-(\d{5})")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


def files_of(source: str, split: str) -> list[Path]:
    """Return the files that hold the rows of a source, in order.

    Args:
        source: a file; a folder of data files, of a build, or saved by the `datasets` library; or a data set on the
            hub as "owner/name". A folder or a data set with several configurations takes ":configuration" behind it.
        split: name of the split, or "all"; ignored for a single file.

    Raises:
        UserError: there is no such source, split or configuration, or a file of it is missing.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    folder, _, configuration = source.rpartition(":") if ":" in source and not path.is_dir() else (source, "", "")
    if Path(folder).is_dir():
        return _of_folder(Path(folder), configuration, split)
    if not HUB_NAME.fullmatch(source) or source.endswith(SUFFIXES) or Path(source).parent.is_dir():
        raise UserError(f"{source}: no such file or folder")
    return _of_hub(folder, configuration, split)


def _of_folder(folder: Path, configuration: str, split: str) -> list[Path]:
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return _saved(folder, split)
    if (folder / LEDGER).is_file() or all((folder / name).is_file() for name in (*BUILD_FILES, "funnel.json")):
        missing = [name for name in BUILD_FILES if not (folder / name).is_file()]
        if missing:
            raise UserError(f"folder {folder}: is a build without {missing[0]}; finish it first")
        return [folder / name for name in (*BUILD_FILES, PASSED_FILE) if (folder / name).is_file()]
    names = [str(item.relative_to(folder)) for item in sorted(folder.rglob("*")) if item.is_file()]
    try:
        card = (folder / CARD).read_text(encoding="utf-8", errors="replace") if CARD in names else ""
        return [folder / name for name in choose_files(names, card, configuration, split)]
    except (UserError, OSError) as error:
        raise UserError(f"folder {folder}: {error}") from None


def _saved(folder: Path, split: str) -> list[Path]:
    """The Arrow files of a data set that `datasets` saved with `save_to_disk`."""
    try:
        if (folder / "dataset_dict.json").is_file():
            splits = parse_json((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
            wanted = splits if split == EVERY_SPLIT else [split]
            if split not in (*splits, EVERY_SPLIT):
                raise UserError(f"folder {folder}: no split '{split}'; there are {', '.join(splits)}")
            return [file for name in wanted for file in _saved(folder / name, EVERY_SPLIT)]
        state = parse_json((folder / "state.json").read_text(encoding="utf-8"))
        if state.get("_indices_files") or state.get("_indices_data_files"):
            raise UserError(f"folder {folder}: its rows were reordered by an old version of datasets; save it again")
        return [folder / item["filename"] for item in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"folder {folder}: not a data set saved by datasets ({first_line(error)})") from None


def choose_files(names: Sequence[str], card: str, configuration: str, split: str) -> list[str]:
    """Choose the files of a split.

    Args:
        names: paths of all files, relative to the folder.
        card: text of README.md, whose header may define configurations and their files.
        configuration: name of a configuration; "" if there is at most one.
        split: name of the split, or "all".

    Raises:
        UserError: no such configuration or split, no file with rows, or files that do not fit together.
    """
    shown = [name for name in names if not any(part.startswith((".", "__")) for part in name.split("/"))]
    configurations = _configurations(card)
    if configuration and configuration not in configurations:
        there = f"; there are {', '.join(configurations)}" if configurations else ""
        raise UserError(f"no configuration '{configuration}'{there}")
    if len(configurations) > 1 and not configuration:
        raise UserError(f"has the configurations {', '.join(configurations)}; write one behind the name, after a colon")
    by_split: Mapping[str, Sequence[str]]
    if configurations:
        patterns = configurations[configuration or next(iter(configurations))]
        by_split = {key: _matching(shown, wanted) for key, wanted in patterns.items()}
    else:
        by_split = _by_words([name for name in shown if Path(name).name not in ABOUT_FILES])
    if split != EVERY_SPLIT and split not in by_split and by_split:
        raise UserError(f"no split '{split}'; there are {', '.join(by_split)}, {EVERY_SPLIT}")
    chosen = [name for key, files in by_split.items() if split in (key, EVERY_SPLIT) for name in files]
    packed = [name for name in chosen if name.endswith(PACKED)]
    if packed:
        raise UserError(f"{packed[0]} is compressed in a format that is not read; unpack it, or use gzip")
    chosen = [name for name in chosen if name.endswith(SUFFIXES)]
    if not chosen:
        kinds = sorted({Path(name).suffix for name in shown if Path(name).suffix})
        found = f"; it holds {', '.join(kinds[:8])}" if kinds else ""
        raise UserError(f"no data file ({', '.join(SUFFIXES)}){found}")
    _check_together(chosen)
    return chosen


def _by_words(names: Iterable[str]) -> dict[str, list[str]]:
    """Files with rows by split, from the words in the name of the file, or else of its folders."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if name.endswith(SUFFIXES) or (_base(name) != name and name.endswith(PACKED)):
            *folders, file = name.lower().split("/")
            words = [SPLITS.get(word) for part in (file, *reversed(folders)) for word in re.split(r"[^a-z0-9]+", part)]
            found[next(filter(None, words), "train")].append(name)
    return dict(found)


def _base(name: str) -> str:
    """The name without the suffixes of its format and its compression; the whole name if it has none."""
    for packed in (*PACKED, ".gz", ""):
        bare = name.removesuffix(packed)
        for suffix in ROW_SUFFIXES:
            if bare.endswith(suffix):
                return bare.removesuffix(suffix)
    return name


def _check_together(names: Sequence[str]) -> None:
    """Raise UserError for two formats of the same rows, and for missing shards."""
    by_base: dict[str, str] = {}
    shards: dict[str, set[str]] = defaultdict(set)
    for name in names:
        other = by_base.setdefault(_base(name), name)
        if other != name:
            raise UserError(f"holds {other} and {name}, the same rows twice as it seems; name one of them")
        if found := SHARD.search(name):
            shards[f"{name[: found.start()]}-*-of-{found.group(2)}"].add(found.group(1))
    for pattern, there in shards.items():
        total = int(pattern[-5:])
        if len(there) != total:
            raise UserError(f"holds {len(there)} of the {total} files {pattern}{Path(names[0]).suffix}")


def _configurations(card: str) -> dict[str, dict[str, list[str]]]:
    """The patterns of files by split and configuration, from the YAML header of a data card."""
    import yaml

    header = re.match(r"---\r?\n(.*?)\r?\n---", card, re.DOTALL)
    try:
        given = (yaml.safe_load(header.group(1)) or {}).get("configs") if header else None
    except (yaml.YAMLError, AttributeError) as error:
        raise UserError(f"{CARD}: its header is not YAML ({first_line(error)})") from None
    found: dict[str, dict[str, list[str]]] = {}
    for item in given if isinstance(given, list) else ():
        files = item.get("data_files") if isinstance(item, Mapping) else None
        if files:
            base = str(item.get("data_dir") or "")
            found[str(item.get("config_name", "default"))] = dict(_patterns(files, base))
    return found


def _patterns(files: Any, base: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the patterns of each split from `data_files`: one pattern, a list of them, or one entry per split."""
    items = files if isinstance(files, list) else [files]
    if all(isinstance(item, str) for item in items):
        items = [{"split": "train", "path": items}]
    for item in items:
        path = item.get("path", []) if isinstance(item, Mapping) else []
        paths = [path] if isinstance(path, str) else path
        yield str(item.get("split", "train")), [f"{base}/{one}" if base else str(one) for one in paths]


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    # as in glob, one star does not match a slash, two do
    rules = {r"\*\*/": "(?:.*/)?", r"\*\*": ".*", r"\*": "[^/]*", r"\?": "[^/]"}
    found: list[str] = []
    for pattern in patterns:
        regex = re.sub(r"\\\*\\\*/|\\\*\\\*|\\\*|\\\?", lambda part: rules[part.group()], re.escape(pattern))
        found += [name for name in names if re.fullmatch(regex, name)]
    if not found:
        raise UserError(f"{CARD} names {', '.join(patterns)}, which is not there")
    return list(dict.fromkeys(found))


def _of_hub(name: str, configuration: str, split: str) -> list[Path]:
    """Download the files of a split to the hub's cache; offline, take those that are in the cache."""
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download

    try:
        if constants.HF_HUB_OFFLINE:
            return _of_folder(
                Path(snapshot_download(name, repo_type="dataset", local_files_only=True)), configuration, split
            )
        known = HfApi().dataset_info(name)
        names = sorted(item.rfilename for item in known.siblings or ())

        def fetched(file: str) -> Path:
            return Path(hf_hub_download(name, file, repo_type="dataset", revision=known.sha))

        card = fetched(CARD).read_text(encoding="utf-8", errors="replace") if CARD in names else ""
        return [fetched(file) for file in choose_files(names, card, configuration, split)]
    except UserError as error:
        raise UserError(f"data set {name}: {error}") from None
    except Exception as error:  # the library passes on the errors of many others: network, file systems, servers
        raise UserError(f"data set {name}, split {split}: cannot load it ({first_line(error)})") from None
