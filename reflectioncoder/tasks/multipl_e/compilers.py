"""Files that make compilers start faster, prepared once, cached, and mounted read-only for programs.

They do not change verdicts: they hold the compiler's work on its own library, done ahead from trusted text only.

- C++: the precompiled standard headers, which every prompt includes.
- Java: the compiler's classes, loaded and linked.
- TypeScript: a process image of the compiler that has read its library. `tsc` reads and checks that library again for
  every file. A test compares the messages of both.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

from reflectioncoder.errors import UserError
from reflectioncoder.files.whole import make_once
from reflectioncoder.tasks.multipl_e.languages import Toolchain

_SECONDS = 300
_TYPESCRIPT_FRAME = Path(__file__).parent / "typescript_image.js"
_FIRST_HEADER = "#include <assert.h>\n#include <bits/stdc++.h>\n"
_JAVA_WARM_UP = """\
import java.util.*;
import java.util.stream.*;
import org.javatuples.*;
class Problem {
    record Point(int x, int y) {}
    static Optional<String> first(List<String> words) {
        return words.stream().filter(word -> !word.isEmpty()).sorted(Comparator.reverseOrder()).findFirst();
    }
    public static void main(String[] args) {
        Map<String, Pair<Integer, Long>> found = new HashMap<>();
        for (int i = 0; i < 3; i++) found.computeIfAbsent("k" + i, key -> Pair.with(key.length(), 1L));
        var squares = IntStream.range(0, 4).mapToObj(i -> i * i).collect(Collectors.toList());
        StringBuilder text = new StringBuilder();
        for (Integer square : squares) text.append(square).append(',');
        assert first(new ArrayList<>(Arrays.asList("a", "b"))).get().equals("b");
        switch (text.length()) { case 0 -> throw new IllegalStateException(); default -> new Point(1, 2).x(); }
    }
}
"""


@cache
def ready_folder(toolchain: Toolchain) -> str:
    """Path of a toolchain's prepared files, created if missing; empty if the language needs none.

    Args:
        toolchain: a toolchain without missing tools.

    Raises:
        UserError: the files cannot be prepared.
    """
    recipe = _RECIPES.get(toolchain.language.fence)
    if recipe is None:
        return ""
    compiler = Path(toolchain.paths[toolchain.language.tools[-1 if recipe is _typescript else 0].name]).resolve()
    made_by = "".join(path.read_text(encoding="utf-8") for path in (Path(__file__), _TYPESCRIPT_FRAME))
    text = f"{toolchain.version} {compiler} {compiler.stat().st_mtime_ns} {made_by}"
    name = f"{toolchain.language.fence}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def prepare(folder: Path) -> None:
        recipe(toolchain, folder)
        for path in [folder, *folder.iterdir()]:  # programs run under another user id
            path.chmod(0o755 if path.is_dir() else 0o644)

    return str(make_once(f"toolchains/{name}", prepare))


def _cpp(toolchain: Toolchain, folder: Path) -> None:
    (folder / "first.h").write_text(_FIRST_HEADER, encoding="utf-8")
    argv = [toolchain.paths["g++"], "-std=c++17", "-x", "c++-header", "first.h", "-o", "first.h.gch"]
    _run(argv, folder, "the standard headers of C++")


def _java(toolchain: Toolchain, folder: Path) -> None:
    (folder / "Problem.java").write_text(_JAVA_WARM_UP, encoding="utf-8")
    argv = toolchain.command(toolchain.language.compile, str(folder))
    argv[1] = f"-J-XX:ArchiveClassesAtExit={folder}/javac.jsa"
    _run(argv, folder, "the classes of the Java compiler")
    for path in folder.iterdir():
        if path.name != "javac.jsa":
            path.unlink()


def _typescript(toolchain: Toolchain, folder: Path) -> None:
    library = Path(toolchain.paths["tsc"]).resolve().parent.parent / "lib"
    frame = _TYPESCRIPT_FRAME.read_text(encoding="utf-8")
    try:
        compiler = (library / "typescript.js").read_text(encoding="utf-8")
    except OSError:
        raise UserError(
            f"TypeScript: {library}/typescript.js is missing; npm install --global typescript@5.9.3"
        ) from None
    text = frame.replace("LIBRARY_FOLDER", str(library)).replace("/* THE COMPILER */", compiler)
    (folder / "image.js").write_text(text, encoding="utf-8")
    (folder / "main.ts").write_text("const all: Map<string, number[]> = new Map();\nall.get('a');\n", encoding="utf-8")
    argv = [toolchain.paths["node"], "--snapshot-blob", "compiler.blob", "--build-snapshot", "image.js"]
    _run(argv, folder, "a process image of the TypeScript compiler")
    for path in folder.iterdir():
        if path.name != "compiler.blob":
            path.unlink()


_RECIPES: dict[str, Callable[[Toolchain, Path], None]] = {"cpp": _cpp, "java": _java, "typescript": _typescript}


def _run(argv: list[str], folder: Path, what: str) -> None:
    try:
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(f"preparing {what} took over {_SECONDS} s") from None
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise UserError(f"preparing {what} failed: {last[0]}")
