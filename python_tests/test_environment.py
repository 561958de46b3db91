import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from proxyless_ext import environment, processor


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_it_is_plain_data():
    described = environment.describe_environment()
    assert json.loads(json.dumps(described)) == described
    assert described["python"] == platform.python_version()
    assert described["command"] == [Path(sys.argv[0]).name, *sys.argv[1:]]


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="reads /proc/cpuinfo")
def test_the_processor_is_the_one_that_linux_names():
    name = processor.cpu_name()
    assert name
    assert name in Path("/proc/cpuinfo").read_text() or name == platform.machine()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_source_and_not_of_a_repository_around_a_copy(
    tmp_path, monkeypatch
):
    package = tmp_path / "package"
    package.mkdir()
    source = package / "environment.py"
    source.touch()
    monkeypatch.setattr(environment, "__file__", str(source))

    def commit():
        return environment.describe_environment()["commit"]

    assert commit() is None
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "first")
    assert commit() is None
    git(tmp_path, "add", str(source))
    git(tmp_path, "commit", "-m", "second")
    assert commit() == git(tmp_path, "rev-parse", "HEAD")
    source.write_text("changed")
    assert commit() == git(tmp_path, "rev-parse", "HEAD") + "-dirty"
