"""Real OpenAI-compatible servers on loopback with a model directory, in child processes: `transformers serve`, vLLM."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from processes import attended


def free_port() -> int:
    """A currently unused port of loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Served:
    """`with Served(model, log) as server:` runs the server; `kill` ends it at once, and `start` starts it again.

    Args:
        model: directory of the model, which is also the model's name in requests.
        log: file to which the server's output is appended.
    """

    patience = 120.0  # seconds allowed for loading the model

    def __init__(self, model: str, log: Path) -> None:
        self.model, self._log = model, log
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._process: subprocess.Popen[bytes] | None = None

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "transformers.cli.transformers", "serve", self.model, "--device", "cpu"]
        return [*command, "--dtype", "float32", "--host", "127.0.0.1", "--port", str(self.port)]

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = self._command()
        known = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", "VLLM_CPU_KVCACHE_SPACE": "1"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=known, preexec_fn=attended)
        deadline = time.monotonic() + self.patience
        while not self._healthy():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.1)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """Kill the server, as in a crash."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Served:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class VllmServed(Served):
    """vLLM's server; the model's name in requests is `served`. It needs a minute to start, more on a busy machine."""

    patience = 600.0

    def _command(self) -> list[str]:
        # Not `vllm serve`: the command of vllm-cpu 0.32.0 asks for the version of a package `vllm` and ends.
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", self.model]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--served-model-name", "served"]
        return [*command, "--max-model-len", "512", "--dtype", "float32", "--enforce-eager"]

    def kill(self) -> None:
        """End the server, which ends its decoding process; kill it if that takes longer than a minute."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(60)
        super().kill()
