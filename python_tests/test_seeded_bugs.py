"""Seeded bugs are found in the sources however these are laid out, and a lost one is an error."""

import functools
import re
import shutil
import subprocess
import sysconfig

import pytest
from seeded_bugs import BUGS, DEVICE, Bug

# Comments and literals stay whole: all that remains for clang-format is whitespace.
KEPT = "ReflowComments: Never, BreakStringLiterals: false, SortIncludes: false"
LAYOUTS = [
    "BasedOnStyle: Google, ColumnLimit: 50",
    "BasedOnStyle: Google, ColumnLimit: 180, IndentWidth: 4",
    "BasedOnStyle: LLVM, ColumnLimit: 72, UseTab: Always",
    "BasedOnStyle: GNU",
]


@functools.cache
def laid_out(header: str, layout: str) -> str:
    clang_format = shutil.which("clang-format", path=sysconfig.get_path("scripts"))
    assert clang_format is not None
    command = [clang_format, f"--style={{{layout}, {KEPT}}}", DEVICE / header]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def without_layout(code: str) -> str:
    return re.sub(r"[\s\\]", "", code)  # Macros break lines with a backslash.


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_same_bug_is_seeded_in_any_layout(bug: Bug, layout: str) -> None:
    written, other = (DEVICE / bug.header).read_text(), laid_out(bug.header, layout)
    assert other != written
    assert without_layout(bug.seed(other)) == without_layout(bug.seed(written))
    assert without_layout(bug.seed(other)) != without_layout(written)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_that_is_not_there_exactly_once_is_an_error(bug: Bug) -> None:
    text = (DEVICE / bug.header).read_text()
    with pytest.raises(ValueError, match=rf"{bug.name}: {bug.header} has 0 places"):
        bug.seed(bug.seed(text).replace(bug.new, ""))
    with pytest.raises(ValueError, match=rf"{bug.name}: {bug.header} has 2 places"):
        bug.seed(text + text)


def test_parts_of_names_and_other_tokens_are_no_place() -> None:
    bug = Bug("", "plain", "header.cuh", old="f(x + 1);", new="", says="")
    for text in ["gf(x + 1);", "f(xx + 1);", "f(x + 10);", "f(x - 1);", "f(x + 1)"]:
        with pytest.raises(ValueError, match="0 places"):
            bug.seed(text)
    assert bug.seed("f (\n  x+1 ) ; g();") == " g();"
