"""Loads tokenizers as their makers meant them, and writes them in a form that older loaders read too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import cached_file

from reflectioncoder.errors import UserError, first_line
from reflectioncoder.files.json_value import parse_json

# Text in which tokenizers differ: runs of digits, blanks, line breaks, capitals, apostrophes, and other scripts.
PROBE = (
    "def f(x):\n\treturn  12345 + 007\n\n    y = [10, 20]  # it's 3.14, I'LL\r\n"
    "\u00fcber na\u00efve \u4f60\u597d \u0661\u0662\u0663 \U0001f600 e\u0301 \u00bd\u00a0\u2028x_1A2b "
    "1,000,000 ++==!= ''\n\n\n   "
)
# Special tokens by the name of the tokenizer's attribute.
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
TOLERATED = 3  # ids at the beginning that may differ: a setting says whether the first word gets a blank before it


def read_tokenizer(source: str, **options: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer, and make sure that it encodes text as its tokenizer.json does.

    transformers 5 builds tokenizers of some classes (GPT2Tokenizer, CodeGenTokenizer, GPTNeoXTokenizerFast) anew from
    vocabulary and merges, and drops the pre-tokenizer of tokenizer.json: then digits are split otherwise than in
    training. Such a tokenizer is loaded from its tokenizer.json instead.

    Args:
        source: a directory or a hub name.
        **options: arguments of `from_pretrained`.

    Raises:
        OSError, ValueError: it cannot be loaded.
        UserError: it encodes text otherwise than its tokenizer.json.
    """
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, **options)
    path = _tokenizer_file(source, options)
    if path is None or not loaded.is_fast:
        return loaded
    try:
        expected = Tokenizer.from_file(str(path)).encode(PROBE, add_special_tokens=False).ids
    except Exception as error:  # the library raises nothing more special
        raise UserError(f"file {path}: not a tokenizer ({first_line(error)})") from None
    if _same(loaded, expected):
        return loaded
    direct = PreTrainedTokenizerFast.from_pretrained(source, **options)
    if not _same(direct, expected):
        raise UserError(
            f"tokenizer {source}: encodes text otherwise than its tokenizer.json, with which the model was trained; "
            'set "tokenizer_class": "PreTrainedTokenizerFast" in tokenizer_config.json, and no other settings that '
            "change it"
        )
    vocabulary = direct.get_vocab()
    for name in NAMED_TOKENS:  # some classes name tokens that tokenizer_config.json does not
        token = getattr(loaded, name)
        if token is not None and getattr(direct, name) is None and str(token) in vocabulary:
            setattr(direct, name, token)
    return direct


def _tokenizer_file(source: str, options: dict[str, Any]) -> Path | None:
    if Path(source).is_dir():
        path = Path(source) / "tokenizer.json"
        return path if path.is_file() else None
    chosen = {name: options[name] for name in ("revision", "token", "cache_dir") if name in options}
    found = cached_file(
        source, "tokenizer.json", _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False, **chosen,
    )  # fmt: skip
    return Path(found) if found else None


def _same(tokenizer: PreTrainedTokenizerBase, expected: list[int]) -> bool:
    ids = tokenizer.encode(PROBE, add_special_tokens=False)
    return bool(ids == expected or (len(ids) > TOLERATED and ids[TOLERATED:] == expected[TOLERATED - len(ids) :]))


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a tokenizer so that transformers 4.57 and 5 read the same from it, and servers built on them.

    transformers 5 writes the class TokenizersBackend and a list of extra special tokens, which 4.57 does not know.
    """
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    if not (folder / "tokenizer.json").is_file() or not path.is_file():
        return
    settings = parse_json(path.read_text(encoding="utf-8"))
    # tokenizer.json holds the whole tokenizer. Classes with rules of their own would build it anew from parts of it.
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    extra = settings.pop("extra_special_tokens", None)
    if isinstance(extra, list):
        settings["additional_special_tokens"] = extra
    elif extra is not None:
        settings["extra_special_tokens"] = extra
    for name in ("backend", "is_local", "local_files_only"):  # about the loading, not the tokenizer
        settings.pop(name, None)
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
