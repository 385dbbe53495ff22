"""Where the micro models of `reflectioncoder pretrain` are kept: folders of the cache, named after their settings."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from reflectioncoder.config.pretrain import PretrainConfig
from reflectioncoder.files.cache import cache_folder

PRETRAINING = 1  # increase when the same settings make another model


def micro_fingerprint(config: PretrainConfig) -> str:
    """Return a fingerprint of all settings that decide a micro model, and of the way it is made."""
    settings = dataclasses.asdict(dataclasses.replace(config, output=""))
    return hashlib.sha256(json.dumps([PRETRAINING, settings]).encode()).hexdigest()[:12]


def micro_folder(config: PretrainConfig) -> Path:
    """Return the directory of a micro model: `config.output`, or a folder of the cache; it need not exist."""
    return Path(config.output) if config.output else cache_folder() / f"micro-{micro_fingerprint(config)}"
