"""What a result depends on beside its configuration: the machine and the versions."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from .processor import cpu_name


def describe_environment() -> dict[str, str | int | list[str] | None]:
    """Versions, processor, threads, commit and command line, to be kept beside results."""
    packages = ("proxyless_ext", "torch", "torchvision", "onnxruntime")
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": _commit(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def describe_code() -> dict[str, str]:
    """What tells whether processes run the same code: versions, and a digest of this package's."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    versions = {package: version(package) for package in ("proxyless_ext", "torch")}
    return {**versions, "the code of proxyless_ext": digest.hexdigest()}


def _commit() -> str | None:
    """The commit of this package's source, marked if changed since; None for an installed copy."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        # A copy installed inside another project's repository is not part of that.
        subprocess.run([*git, "ls-files", "--error-unmatch", "."], capture_output=True, check=True)
        describe = [*git, "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
        return subprocess.run(describe, capture_output=True, check=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
