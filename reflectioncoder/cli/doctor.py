"""`reflectioncoder doctor`: reports what this machine has and what is missing; uses no network."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from reflectioncoder.cli.arguments import Switches, Verb
from reflectioncoder.errors import UserError


@dataclass(frozen=True)
class DoctorArguments:
    """Report what this machine has: versions, devices, isolation, compilers for MultiPL-E, environment of DS-1000."""


def run_doctor(_: DoctorArguments, switches: Switches) -> int:
    """Print the report as text or as one JSON object."""
    found = examine()
    print(json.dumps(found, ensure_ascii=False) if switches.json else "\n".join(describe_machine(found)))
    return 0


def examine() -> dict[str, Any]:
    """Examine this machine.

    Returns:
        `versions`, `devices`, `isolation`, `toolchains` by language, `ds1000` and `hub`.
    """
    import torch

    from reflectioncoder.config.toml import versions
    from reflectioncoder.interpreter.interpreter import describe_isolation
    from reflectioncoder.tasks.multipl_e.languages import LANGUAGES

    with ThreadPoolExecutor() as threads:  # most of the time is spent waiting for the compilers to print their versions
        toolchains = dict(zip(LANGUAGES, threads.map(_toolchain, LANGUAGES), strict=True))
    cuda = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "versions": versions(),
        "devices": [f"cpu ({os.cpu_count()} cores)", *cuda],
        "isolation": describe_isolation(),
        "toolchains": toolchains,
        "ds1000": _ds1000(),
        "hub": os.environ.get("HF_ENDPOINT", "https://huggingface.co"),
    }


def describe_machine(found: dict[str, Any]) -> list[str]:
    """Format the report as lines of text."""
    from reflectioncoder.tasks.multipl_e.languages import LANGUAGES

    lines = [f"{name:16} {version}" for name, version in found["versions"].items()]
    lines += [f"{'devices':16} {', '.join(found['devices'])}", *found["isolation"]]
    lines.append("toolchains of MultiPL-E (make toolchains installs what Debian and npm have):")
    for key, entry in found["toolchains"].items():
        name = f"{LANGUAGES[key].name} ({key})"
        lines.append(f"  {'yes' if entry['found'] else 'no '} {name:18} {entry['version'] or entry['install']}")
    entry = found["ds1000"]
    lines.append(f"environment of DS-1000: {entry['python'] or 'none: make ds1000'}{entry['problem']}")
    lines += [f"  {name:18} {version or 'not installed'}" for name, version in entry["versions"].items()]
    lines.append(f"hub: {found['hub']} (not contacted)")
    return lines


def _ds1000() -> dict[str, Any]:
    from reflectioncoder.tasks import ds1000

    python, problem, found = ds1000.environment(), "", {}
    if python:
        try:
            found = ds1000.installed_versions(python)
            if found != ds1000.VERSIONS:
                wanted = ", ".join(f"{name} {version}" for name, version in ds1000.VERSIONS.items())
                problem = f": other versions than the tests were written for ({wanted}); make ds1000"
        except UserError as error:
            problem = f": {error}"
    return {"python": python, "versions": found, "problem": problem}


def _toolchain(key: str) -> dict[str, Any]:
    from reflectioncoder.tasks.multipl_e.languages import find

    toolchain = find(key)
    there = not toolchain.missing
    return {"found": there, "version": toolchain.version if there else "", "install": toolchain.reason}


DOCTOR = Verb(
    "report what this machine has: isolation, devices, versions, compilers", DoctorArguments, run_doctor, json=True
)
