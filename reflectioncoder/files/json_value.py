"""Parses one JSON value of any content: every text that cannot be parsed raises the same exception."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes, strict: bool = True) -> Any:
    """Parse JSON; with `strict` false, control characters may stand in strings.

    Raises:
        json.JSONDecodeError: the text is not JSON, is nested too deeply, or has a number with too many digits.
    """
    try:
        return json.loads(text) if strict else json.loads(text, strict=False)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", "", 0) from None
    except (ValueError, TypeError) as error:  # no UTF-8, an integer of more digits than Python converts, no text
        raise json.JSONDecodeError(str(error).split(":")[0].split(";")[0], "", 0) from None
