"""A build on a two-node Ray cluster gives the same result as the local engine, even if workers or nodes are killed."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from operator import attrgetter, methodcaller
from pathlib import Path
from typing import Any

import blocks
import psutil
import pytest
from actors import Answers
from chat_builds import KEY, config, model, place, recorded, write_problems
from chatserver import ChatServer
from places import ROOT
from processes import attended
from rich.console import Console

from reflectioncoder.config.build import BuildConfig
from reflectioncoder.config.toml import to_toml
from reflectioncoder.construct.build import build
from reflectioncoder.construct.ledger.ledger import progress
from reflectioncoder.dialogues.dialogue import read_jsonl
from reflectioncoder.errors import UserError
from reflectioncoder.interpreter.interpreter import Interpreter

ray = pytest.importorskip("ray", reason="Ray is not installed; run: make setup")

from ray.cluster_utils import Cluster  # noqa: E402

from reflectioncoder.construct.engines import on_ray as engine_ray  # noqa: E402
from reflectioncoder.construct.engines import ray_actors as crew  # noqa: E402

pytestmark = pytest.mark.ray

HEAD, OTHER = "127.0.0.2", "127.0.0.3"  # Ray takes them for two machines
FILES = ("sequences.jsonl", "instructions.jsonl", "rejects.jsonl", "funnel.json")
# Disables usage statistics, and the memory monitor, which would kill workers if other programs use much memory.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0"}
SMALL = {"num_cpus": 1, "object_store_memory": engine_ray.OBJECT_STORE}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A cluster with a head node of one CPU; tests add and remove the other node."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        patch.delenv("OPENAI_API_KEY", raising=False)
        paths = [str(ROOT / "tests" / "support"), str(ROOT), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        before = psutil.Process().children(recursive=True)
        cluster = Cluster(True, head_node_args={**SMALL, "node_ip_address": HEAD, "include_dashboard": False})
        ours = [child for child in psutil.Process().children(recursive=True) if child not in before]
        yield cluster
        cluster.shutdown()
        _, alive = psutil.wait_procs(ours, timeout=20)
        assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def other(nodes: Cluster) -> Iterator[Callable[[], None]]:
    """Add a second node of one CPU; the yielded function kills it."""
    node = nodes.add_node(**SMALL, node_ip_address=OTHER)

    def remove() -> None:
        nodes.remove_node(node, allow_graceful=False)

    yield remove
    if node in nodes.list_all_nodes():
        remove()


def kill_a_worker(nodes: Cluster, kind: str = "Actor") -> None:
    """Kill an actor on the head node with SIGKILL."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if f"ray::{kind}" in " ".join(process.cmdline()):
                    environment = process.environ()
                    if environment.get("RAY_RAYLET_PID") == str(raylet_of(nodes.head_node)):
                        process.kill()
                        return
        time.sleep(0.05)
    raise AssertionError("there is no actor on the head node")


def raylet_of(node: Any) -> int:
    pid: int = node.all_processes["raylet"][0].process.pid
    return pid


def run(settings: BuildConfig) -> str:
    """Build, and return what the console shows."""
    console = Console(file=io.StringIO(), width=200)
    build(settings, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class Later(threading.Thread):
    """A thread that calls each function once a count (finished problems or recorded answers) reaches its number."""

    def __init__(self, count: Callable[[], int], *things: tuple[int, Callable[[], None]]) -> None:
        super().__init__(daemon=True)
        self.count, self.things, self.done = count, things, 0
        self.start()

    def run(self) -> None:
        for number, thing in self.things:
            while self.count() < number:
                time.sleep(0.02)
            thing()
            self.done += 1


def finished(output: Path) -> int:
    try:
        return progress(output).done
    except UserError:  # the build has not begun
        return 0


def answers_in(output: Path) -> int:
    return sum(recorded(output).values())


def without_times(path: Path) -> str:
    return re.sub(r'"seconds": [0-9.e-]+', '"seconds": 0', path.read_text())


def test_planted_bugs_are_the_same_with_a_worker_and_a_node_killed(
    tmp_path: Path, nodes: Cluster, other: Callable[[], None]
) -> None:
    shared: dict[str, Any] = {"count": 40, "levels": (1, 2), "near_duplicates": 0.9}
    run(BuildConfig(output=str(tmp_path / "local"), **shared))
    output = tmp_path / "ray"
    settings = BuildConfig(output=str(output), engine="ray", ray_address=nodes.address, **shared)
    chaos = Later(partial(finished, output), (5, partial(kill_a_worker, nodes)), (14, other))
    said = run(settings)
    assert chaos.done == 2
    for node in (HEAD, OTHER):
        assert said.count(f"ray: lost a worker on {node}, or that node; its work is done again\n") == 1
    for name in FILES:
        assert (output / name).read_bytes() == (tmp_path / "local" / name).read_bytes(), name
    assert "already finished" in run(BuildConfig(output=str(output), **shared))  # the engine may change


def test_no_answer_is_paid_twice_when_the_last_node_goes_and_the_build_goes_on_elsewhere(
    tmp_path: Path, nodes: Cluster, other: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    problems, count, output = write_problems(tmp_path / "own.jsonl", 40), 40, tmp_path / "ray"
    with ChatServer(lambda _, request: model(request)) as server:
        run(config(tmp_path / "local", problems, server.url))
        del server.requests[:]
        there = {"engine": "ray", "ray_address": nodes.address, "workers": 0, "ray_wait": 8.0}
        settings = config(output, problems, server.url, {"in_flight": 8}, **there)

        def answers() -> int:
            return sum(recorded(output).values())

        with engine_ray.cluster(nodes.address):
            busy = ray.remote(crew.Actor).options(num_cpus=1, resources={f"node:{HEAD}": 0.1}).remote(dict)
            ray.get(busy.open.remote())  # occupies the head node's only CPU
            Later(answers, (20, other))
            with pytest.raises(UserError, match=r"no node has taken any work for 8 s .*problems are kept") as caught:
                run(settings)
            assert "\n" not in str(caught.value)
            assert 20 <= answers() < 3 * count
            ray.kill(busy)
            chaos = Later(answers, (70, partial(kill_a_worker, nodes)))
            said = run(settings)
    assert chaos.done == 1
    assert f"ray: lost a worker on {HEAD}" in said
    asked = Counter(place(request) for request in server.requests)
    assert asked == Counter((k, turn) for k in range(count) for turn in range(3))
    assert recorded(output) == Counter({f"p{k}": 3 for k in range(count)})
    for name in FILES:
        assert without_times(output / name) == without_times(tmp_path / "local" / name), name
    logs = Path(nodes.head_node.get_session_dir_path())
    files = [path for folder in (logs, output) for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_a_native_model_writes_the_same_in_actors_one_of_which_is_killed(
    tmp_path: Path, nodes: Cluster, model: str
) -> None:
    numbers = list(blocks.NUMBERS) * 6
    run(blocks.config(tmp_path, model, numbers, "local"))
    for attempt in range(3):  # on a busy machine the build may end before the kill
        settings = blocks.config(tmp_path, model, numbers, f"ray{attempt}", replicas=2, batch_size=2)
        settings = replace(settings, engine="ray", ray_address=nodes.address)
        output = Path(settings.output)
        killer = Later(partial(answers_in, output), (3, partial(kill_a_worker, nodes, "ConcurrentActor")))
        said = run(settings)
        if f"ray: lost a worker on {HEAD}" in said:
            break
        killer.join(60)
    assert f"ray: lost a worker on {HEAD}" in said
    for name in FILES:
        assert without_times(output / name) == without_times(output.with_name("local") / name), name
    assert len(read_jsonl(output / "sequences.jsonl")) == len(numbers)


PROBE = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
state = dict(line.split(":", 1) for line in open("/proc/self/status"))
print({name: state[name].strip() for name in ("SigBlk", "SigIgn", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")})
import resource
names = [name for name in dir(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_AS"]  # that is relative
print({name: resource.getrlimit(getattr(resource, name)) for name in names})
print(dict(os.environ), os.getcwd(), os.getpid(), os.getsid(0), os.listdir("/"))
"""


def test_programs_are_as_isolated_in_an_actor_as_here(nodes: Cluster) -> None:
    async def there() -> tuple[dict[str, bool], str]:
        members = crew.Crew(Interpreter, lambda: 1, 30, print)
        try:
            result = await members.use(methodcaller("run", PROBE))
            return await members.use(attrgetter("layers")), result.text
        finally:
            await members.close()

    with Interpreter() as interpreter, engine_ray.cluster(nodes.address):
        assert asyncio.run(there()) == (interpreter.layers, interpreter.run(PROBE).text)


def test_actors_work_on_many_calls_at_once_and_a_call_that_kills_them_all_is_given_up(nodes: Cluster) -> None:
    said: list[str] = []

    async def there() -> None:
        members = crew.Crew(Answers, lambda: 2, 30, said.append, room=4, cpus=0)
        try:
            await members.use(methodcaller("answer", 0))
            while len(members._members) < 2:
                await asyncio.sleep(0.05)
            found = await asyncio.gather(*(members.use(methodcaller("answer", n)) for n in range(16)))
            assert [number for number, _, _ in found] == list(range(16))
            assert max(most for _, most, _ in found) == 4
            assert set(Counter(pid for _, _, pid in found).values()) == {8}
            with pytest.raises(UserError, match=r"^a line$"):
                await members.use(methodcaller("answer", -1))
            with pytest.raises(Exception, match="5 worker processes died over the same call"):
                await members.use(methodcaller("die"))
            assert (await members.use(methodcaller("answer", 5)))[0] == 5
        finally:
            await members.close()

    with engine_ray.cluster(nodes.address):
        asyncio.run(there())
    assert said == [f"ray: lost a worker on {HEAD}, or that node; its work is done again"] * 5


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://localhost:10001", "give HOST:PORT of the head"),
        ("nonsense", "no Ray cluster there"),
        ("127.0.0.1:0", "no Ray cluster there"),
        (None, "no Ray cluster there .*Connection refused"),
    ],
)
def test_an_address_without_a_cluster_is_one_line(tmp_path: Path, address: str | None, message: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # no server listens on this port
        address = address or f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(UserError, match=message) as caught:
            run(BuildConfig(output=str(tmp_path), count=2, engine="ray", ray_address=address))
    assert f"ray_address = '{address}'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_ray_the_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "reflectioncoder.construct.engines.on_ray")
    monkeypatch.delitem(sys.modules, "reflectioncoder.construct.engines.ray_actors")
    with pytest.raises(UserError, match=r"engine = 'ray' needs Ray: pip install 'reflectioncoder\[ray\]'"):
        run(BuildConfig(output=str(tmp_path), count=2, engine="ray"))


def test_ctrl_c_leaves_the_ledger_and_no_process(tmp_path: Path) -> None:
    output, path = tmp_path / "out", tmp_path / "build.toml"
    path.write_text(to_toml(BuildConfig(output=str(output), count=300, workers=1, engine="ray")))
    environment = {
        **os.environ,
        **QUIET,
        "RAY_ADDRESS": "local",
        "OPENAI_API_KEY": KEY,
    }  # "local" starts a cluster of its own
    command = [sys.executable, "-m", "reflectioncoder", "build", "--config", str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=attended
    ) as process:
        deadline = time.monotonic() + 90
        while finished(output) < 3:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        environments = [b"\0".join(f"{k}={v}".encode() for k, v in child.environ().items()) for child in children]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert [line for line in errors.splitlines() if "interrupted" in line]
    assert len(children) > 4
    assert not [text for text in environments if KEY.encode() in text]
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert 3 <= finished(output) < 300
