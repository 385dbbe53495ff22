"""Where computed things are kept between runs: converted weights, prepared compilers, what references return."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$REFLECTIONCODER_CACHE, or reflectioncoder in the user's cache."""
    given = os.environ.get("REFLECTIONCODER_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reflectioncoder"
