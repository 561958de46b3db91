"""The pages that users read, and the code blocks in them."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
FENCE = re.compile(
    r"(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        page: its path below the root.
        line: of its fence.
        language: behind the fence.
        code: what it holds.
        mark: the comment right before it, which says why a block is not run.
    """

    page: str
    line: int
    language: str
    code: str
    mark: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_run(self) -> bool:
        """Whether a test runs it, at least where it can."""
        return not (self.mark or "").startswith("not run: ")

    @property
    def commands(self) -> list[list[str]]:
        """The words of every command of a shell script, without what goes on behind it."""
        lines = self.code.replace("\\\n", " ").splitlines()
        split = (shlex.split(line.removesuffix(" &"), comments=True) for line in lines)
        return [words for words in split if words]


def pages() -> dict[str, str]:
    """Every page by its path, and the docstrings of every module that has code blocks in them."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = {str(path.relative_to(ROOT)): path.read_text() for path in paths}
    for path in sorted((ROOT / "proxyless_ext").rglob("*.py")):
        if "```" in (text := path.read_text()):
            found[str(path.relative_to(ROOT))] = "\n".join(_docstrings(text))
    return found


def blocks(language: str | None = None, page: str | None = None) -> list[Block]:
    """The code blocks in a language, or in all, of a page, or of all."""
    return [
        block
        for name, text in pages().items()
        for block in _blocks(name, text)
        if language in (None, block.language) and page in (None, name)
    ]


def _blocks(page: str, text: str) -> Iterator[Block]:
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        yield Block(page, line, match["language"], match["code"], match["mark"])


def _docstrings(source: str) -> Iterator[str]:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and (docstring := ast.get_docstring(node)):
            yield docstring


def run_python(page: str) -> dict[str, Any]:
    """Run the Python blocks of a page in order: the variables that they leave."""
    variables: dict[str, Any] = {}
    torch.manual_seed(0)
    for block in blocks("python", page):
        exec(compile(block.code, str(block), "exec"), variables)
    return variables


def run_shell(page: str) -> str:
    """Run the shell blocks of a page in order, but for those that say why not: what they print."""
    printed = ""
    for block in blocks("sh", page):
        if block.is_run:
            bash = ["bash", "-euc", block.code]
            done = subprocess.run(bash, capture_output=True, text=True)
            assert done.returncode == 0, f"{block}: {done.stdout}{done.stderr}"
            printed += done.stdout
    return printed
