"""Where the repository and the data that tests read are."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("REFLECTIONCODER_DATA") or ROOT.parent / "shared" / "data")
