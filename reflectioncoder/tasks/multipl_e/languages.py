"""The languages of MultiPL-E: how each is compiled and run, the tools it needs, and where its tests end.

There is one entry per language. Commands are those of MultiPL-E's own evaluators. Additions only make them start faster
(see `compilers.py`), or keep a virtual machine within the memory and process limits of a session.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

PROGRAMS_PATH = "/usr/local/bin:/usr/bin:/bin"  # folders that programs always see; others are made visible
_JVM = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx{heap}m")
_APT = "apt-get install --no-install-recommends"


@dataclass(frozen=True)
class Tool:
    """A program, or a file, that a language needs.

    Args:
        name: name of the command, or the path of the file, which starts with a slash.
        version: arguments that print its version; empty if there are none.
        install: how to install it on Debian.
    """

    name: str
    version: tuple[str, ...]
    install: str


@dataclass(frozen=True)
class Language:
    """A programming language.

    In commands, `{ready}` stands for the folder of prepared files (`compilers.py`) and `{heap}` for half of the memory
    limit in MiB, at least 64. If the first word is the name of a tool, its path replaces it.

    Args:
        name: name of the language in prompts.
        fence: language tag of a code fence.
        source: name of the source file.
        compile: command that compiles it; empty if nothing needs compiling.
        run: command that runs the program.
        last: statement that prints `{0}` directly followed by `{1}`; it is inserted after the last test.
        trial: an empty program, which shows whether the toolchain works on this machine and how fast it is.
        tools: the tools it needs.
        closing: regular expression for the braces after the last test; empty if there are none.
        environment: environment variables of the run.
        settings: glob patterns of settings folders outside /usr that its tools read.
        home: command that prints the folder programs must see if a tool is outside `PROGRAMS_PATH`.
        failure: text on standard error that means failure, whatever the exit status.
        guards: (regular expression, replacement) pairs for the tests, so that they use what a program cannot redefine.
            `NAME` stands for a random name.
        loaded: name and text of a file that the run loads before the program.
    """

    name: str
    fence: str
    source: str
    compile: tuple[str, ...]
    run: tuple[str, ...]
    last: str
    trial: str
    tools: tuple[Tool, ...]
    closing: str = ""
    environment: Mapping[str, str] | None = None
    settings: tuple[str, ...] = ()
    home: tuple[str, ...] = ()
    failure: str = ""
    guards: tuple[tuple[str, str], ...] = ()
    loaded: tuple[str, str] | None = None

    def ending(self, tests: str, first: str, second: str) -> str:
        """Insert a statement after the last test that prints `first` and `second` joined, and return the tests.

        Args:
            tests: source code of the tests.
            first: first half of the printed word.
            second: second half.

        Raises:
            ValueError: the tests do not end in the braces of the language's main function.
        """
        said = self.last.format(first, second)
        for pattern, replacement in self.guards:
            guarded = replacement.replace("NAME", self.guard_name(first)).replace("\\", r"\\")
            tests = re.sub(pattern, guarded, tests, flags=re.MULTILINE)
        if not self.closing:
            return f"{tests}\n{said}\n"
        found = re.search(self.closing, tests)
        if found is None:
            raise ValueError(f"tests in {self.name} must end in the braces of their main function")
        return f"{tests[: found.start()]}{said}\n{tests[found.start() :]}"

    def guard_name(self, first: str) -> str:
        """Name for a program's guards, from the first half of its word, which the name does not reveal."""
        return f"judge{hashlib.sha256(first.encode()).hexdigest()[:12]}"


_NODE = Tool("node", ("--version",), f"{_APT} nodejs npm")
_TUPLES = "/usr/share/java/javatuples.jar"
_JDK = f"{_APT} openjdk-17-jdk-headless"

# Defines the assertions of node under a random name and makes them constant, before the program can patch them.
_FROZEN_ASSERT = """\
const assert = require("node:assert");
Object.freeze(assert.strict);
Object.freeze(assert);
Object.defineProperty(globalThis, "NAME", { value: assert });
"""
# Removes macros that change what the tests mean, and makes a failed assertion end the program whatever it has defined.
_OWN_ASSERT = "".join(
    f"#undef {word}\n"
    for word in "NDEBUG assert main int auto candidate static_cast bool void true false if return const std".split()
) + (
    "#define assert(test) (static_cast<bool>(test) ? void(0) : "
    "(::__assert_fail(#test, __FILE__, __LINE__, __PRETTY_FUNCTION__), __builtin_trap()))\n"
)
# In POSIX mode the special builtins `unset`, `set` and `trap` come before functions of the same name.
_OWN_COMMANDS = (
    "POSIXLY_CORRECT=1\n\\unset -f unset set trap builtin command printf echo test '[' exit return unalias shopt\n"
    "\\trap - DEBUG ERR RETURN EXIT\n\\unalias -a\n\\unset POSIXLY_CORRECT\n\\shopt -u expand_aliases\n"
)

LANGUAGES: Mapping[str, Language] = {
    "java": Language(
        "Java",
        "java",
        "Problem.java",
        (
            "javac",
            *(f"-J{flag}" for flag in ("-XX:SharedArchiveFile={ready}/javac.jsa", *_JVM)),
            *("-proc:none", "-encoding", "UTF8", "-cp", _TUPLES, "-d", ".", "Problem.java"),
        ),
        ("java", *_JVM, "-ea", "-cp", f".:{_TUPLES}", "Problem"),
        'System.out.println("{0}" + "{1}");',
        "class Problem {\n    public static void main(String[] args) {\n    }\n}\n",
        (
            Tool("javac", ("-version",), _JDK),
            Tool("java", ("-version",), _JDK),
            Tool(_TUPLES, (), f"{_APT} libjavatuples-java"),
        ),
        closing=r"\}\s*\}\s*$",
        settings=("/etc/java-*-openjdk",),
    ),
    "js": Language(
        "JavaScript",
        "javascript",
        "main.js",
        (),
        ("node", "--require", "./judge.js", "main.js"),
        'console.log("{0}" + "{1}");',
        "",
        (_NODE,),
        guards=((r"require\('node:assert'\)", "NAME"),),
        loaded=("judge.js", _FROZEN_ASSERT),
    ),
    "ts": Language(
        "TypeScript",
        "typescript",
        "main.ts",
        ("node", "--snapshot-blob", "{ready}/compiler.blob", "main", "main.ts"),
        ("node", "--require", "./judge.js", "main.js"),
        'console.log("{0}" + "{1}");',
        "",
        (_NODE, Tool("tsc", ("--version",), "npm install --global typescript@5.9.3")),
        guards=((r"^const assert = require\('node:assert'\)", "declare var NAME: any;\nconst assert = NAME"),),
        loaded=("judge.js", _FROZEN_ASSERT),
    ),
    "cpp": Language(
        "C++",
        "cpp",
        "main.cpp",
        ("g++", "-std=c++17", "-include", "{ready}/first.h", "main.cpp", "-o", "main"),
        ("./main",),
        '::puts("{0}" "{1}");',
        "int main() {\n}\n",
        (Tool("g++", ("-dumpfullversion",), f"{_APT} g++"),),
        closing=r"\}\s*$",
        guards=((r"^int main\(\) \{", f"{_OWN_ASSERT}int main() {{"),),
    ),
    "php": Language(
        "PHP",
        "php",
        "main.php",
        (),
        ("php", "-d", "display_errors=stderr", "main.php"),
        'echo "{0}" . "{1}";',
        "<?php\n",
        (Tool("php", ("--version",), f"{_APT} php-cli"),),
        settings=("/etc/php",),
    ),
    "swift": Language(
        "Swift",
        "swift",
        "main.swift",
        ("swiftc", "main.swift", "-o", "main"),
        ("./main",),
        'print("{0}" + "{1}")',
        "",
        (
            Tool(
                "swiftc",
                ("--version",),
                "not in Debian 12 (Debian 13 has swiftlang); see https://www.swift.org/install",
            ),
        ),
    ),
    "rs": Language(
        "Rust",
        "rust",
        "main.rs",
        ("rustc", "-C", "codegen-units=1", "main.rs", "-o", "main"),
        ("./main",),
        '::std::println!("{{}}{{}}", "{0}", "{1}");',
        "fn main() {\n}\n",
        (Tool("rustc", ("--version",), f"{_APT} rustc-web"),),
        closing=r"\}\s*$",
        home=("rustc", "--print", "sysroot"),
        guards=((r"(?<![\w:])assert_eq!(?=\()", "::std::assert_eq!"), (r"(?<![\w:])vec!(?=\[)", "::std::vec!")),
    ),
    "cs": Language(
        "C#",
        "csharp",
        "main.cs",
        ("mcs", "-d:DEBUG", "-r:System.Numerics.dll", "main.cs"),
        ("mono", "main.exe"),
        'Console.WriteLine("{0}" + "{1}");',
        "using System;\nclass Problem {\n    public static void Main(string[] args) {\n    }\n}\n",
        (
            Tool("mcs", ("--version",), f"{_APT} mono-mcs"),
            Tool("mono", ("--version",), f"{_APT} mono-runtime libmono-system-numerics4.0-cil"),
        ),
        closing=r"\}\s*\}\s*$",
        environment={"MONO_TRACE_LISTENER": "Console.Error"},  # a failed Debug.Assert prints to it and continues
        settings=("/etc/mono",),
        failure="System.Diagnostics.DefaultTraceListener.Fail",
    ),
    "sh": Language(
        "Bash",
        "bash",
        "main.sh",
        (),
        ("bash", "main.sh"),
        "printf '%s%s\\n' {0} {1}",
        "",
        (Tool("bash", ("--version",), f"{_APT} bash"), Tool("bc", ("--version",), f"{_APT} bc")),
        guards=((r"^set -e$", f"{_OWN_COMMANDS}set -e"),),
    ),
}


@dataclass(frozen=True, eq=False)
class Toolchain:
    """The tools of a language on this machine.

    Args:
        language: the language.
        paths: path of each tool that was found, by name.
        missing: tools that were not found; empty if the toolchain is complete.
        visible: folders that programs must be able to read, besides the system's.
    """

    language: Language
    paths: Mapping[str, str]
    missing: tuple[Tool, ...]
    visible: tuple[str, ...]

    @cached_property
    def version(self) -> str:
        """Versions of its commands, as they report them."""
        said = (_version(path, tool.version) for tool in self.language.tools if (path := self.paths.get(tool.name)))
        return ", ".join(dict.fromkeys(filter(None, said)))

    @property
    def reason(self) -> str:
        """The missing tools and how to install them; empty if nothing is missing."""
        return "; ".join(f"{Path(tool.name).name} is not installed: {tool.install}" for tool in self.missing)

    def command(self, words: tuple[str, ...], ready: str = "", memory_mb: int = 1024) -> list[str]:
        """Fill in a command of the language.

        Args:
            words: the command, with placeholders as in `Language`.
            ready: folder of the prepared files.
            memory_mb: memory limit in MiB.
        """
        filled = [word.replace("{ready}", ready).replace("{heap}", str(max(64, memory_mb // 2))) for word in words]
        return [self.paths.get(filled[0], filled[0]), *filled[1:]]


@cache
def find(key: str) -> Toolchain:
    """Find the toolchain of a language, given its key in `LANGUAGES`: in `PROGRAMS_PATH` first, then in PATH."""
    language = LANGUAGES[key]
    paths: dict[str, str] = {}
    for tool in language.tools:
        if tool.name.startswith("/"):
            found = tool.name if Path(tool.name).exists() else None
        else:
            found = shutil.which(tool.name, path=PROGRAMS_PATH) or shutil.which(tool.name)
        if found:
            paths[tool.name] = found
    visible = {str(path) for pattern in language.settings for path in Path("/").glob(pattern.lstrip("/"))}
    for name, path in paths.items():
        if not path.startswith(("/usr/", "/bin/")):
            home = _home(path, language.home if language.home[:1] == (name,) else ())
            visible.add(home)
            paths[name] = f"{home}/bin/{name}"
    missing = tuple(tool for tool in language.tools if tool.name not in paths)
    return Toolchain(language, paths, missing, tuple(sorted(visible)))


def _home(path: str, asks: tuple[str, ...]) -> str:
    """Folder above `bin` of a tool outside the system's folders; `asks` is a command that prints it, if any."""
    if asks:
        done = subprocess.run([path, *asks[1:]], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
    return str(Path(path).resolve().parent.parent)


def _version(path: str, arguments: tuple[str, ...]) -> str:
    """Name of a tool and the first dotted number that it prints as its version; empty if there is none."""
    if not arguments:
        return ""
    try:
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"\d+(?:\.\d+)+", done.stdout + done.stderr)
    return f"{Path(path).name} {found[0]}" if found else ""
