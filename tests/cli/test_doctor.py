"""`doctor` reports what is installed and what is missing."""

import json
import shutil
import sys
from importlib import metadata

import pytest

from reflectioncoder.cli.doctor import describe_machine, examine
from reflectioncoder.cli.main import main
from reflectioncoder.tasks.multipl_e import languages


@pytest.fixture(scope="module")
def found():
    return examine()


def test_every_language_is_reported_with_a_version_or_what_installs_it(found):
    assert set(found["toolchains"]) == {"java", "js", "ts", "cpp", "php", "swift", "rs", "cs", "sh"}
    for key, entry in found["toolchains"].items():
        assert entry["found"] == (not languages.find(key).missing)
        assert bool(entry["version"]) == entry["found"] != bool(entry["install"]), key
    assert found["toolchains"]["sh"]["found"] == (shutil.which("bash") is not None)


def test_the_text_names_versions_isolation_devices_and_languages(found):
    text = "\n".join(describe_machine(found))
    for words in (
        "torch ",
        "transformers ",
        "python ",
        "interpreter isolation: ",
        "devices ",
        "C# (cs)",
        "Swift (swift)",
    ):
        assert words in text, words


def test_an_environment_of_other_versions_is_named(monkeypatch):
    monkeypatch.setenv("REFLECTIONCODER_DS1000_PYTHON", sys.executable)
    entry = examine()["ds1000"]
    assert entry["versions"]["numpy"] == metadata.version("numpy")
    assert "other versions than the tests were written for (numpy 1.26.4" in entry["problem"]
    monkeypatch.setenv("REFLECTIONCODER_DS1000_PYTHON", "/usr/bin/false")
    assert "cannot be run" in "\n".join(describe_machine(examine()))


def test_a_missing_tool_says_what_installs_it(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    languages.find.cache_clear()
    try:
        assert "apt-get install --no-install-recommends php-cli" in languages.find("php").reason
        assert "npm install --global typescript@5" in languages.find("ts").reason
        assert "swift.org" in languages.find("swift").reason
    finally:
        languages.find.cache_clear()


def test_a_tool_outside_the_systems_folders_is_shown_by_its_own(tmp_path, monkeypatch):
    tool = tmp_path / "bash-9" / "bin" / "bash"
    tool.parent.mkdir(parents=True)
    tool.write_text("#!/bin/sh\necho 'GNU bash, version 9.1.2'\n")
    tool.chmod(0o755)
    monkeypatch.setattr(languages, "PROGRAMS_PATH", "/nowhere")
    monkeypatch.setenv("PATH", str(tool.parent))
    languages.find.cache_clear()
    try:
        toolchain = languages.find("sh")
        assert toolchain.visible == (str(tmp_path / "bash-9"),)
        assert toolchain.command(("bash", "main.sh")) == [str(tool), "main.sh"]
        assert toolchain.version == "bash 9.1.2"
    finally:
        languages.find.cache_clear()


def test_the_verb(capsys):
    assert main(["doctor", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) >= {"versions", "devices", "isolation", "toolchains"}
    assert main(["doctor", "now"]) == 2
    assert "'now' is not a flag" in capsys.readouterr().err
