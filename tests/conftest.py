"""What several test files share: a tiny tokenizer, and the folder of real data where it is there."""

from __future__ import annotations

from pathlib import Path

import blocks
import pytest
import tiny
from places import DATA
from transformers import PreTrainedTokenizerFast

from reflectioncoder.dialogues.dialogue import Dialogue


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny.build_tokenizer()


@pytest.fixture(scope="session")
def learnt() -> list[Dialogue]:
    """Dialogues that `model` knows by heart."""
    return blocks.lessons()


@pytest.fixture(scope="session")
def model(learnt: list[Dialogue], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a tiny model that writes the dialogues of `learnt`."""
    return tiny.memorised(learnt, tmp_path_factory.mktemp("learnt"))


@pytest.fixture(scope="session")
def data() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"the folder of real data sets, {DATA}, is not there; set REFLECTIONCODER_DATA")
    return DATA
