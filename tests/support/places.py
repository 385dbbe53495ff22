"""Paths of the repository and of the data sets for tests."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("REFLECTIONCODER_DATA") or ROOT.parent / "shared" / "data")
