"""Imports point one way, and search spaces do not need torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import proxyless_ext

PACKAGE = Path(proxyless_ext.__file__).parent

LAYERS = [
    {"errors", "session"},
    {"_library", "_registrations", "compilers", "documents", "files", "processor", "progress"}
    | {"quantities", "ranks", "seeding"},
    {"environment", "export", "ops", "reference", "spaces"},
    {"gates"},
    {"nn", "data", "runs"},
    {"latency", "zoo"},
    {"bench", "config", "report"},
    {"runtime"},
    {"training"},
    {"search"},
    {"scaling"},
    {"cli"},
    {"__main__"},
]
"""Parts of the package; each may import those of the layers before its own."""

COMPILED = "_C"

RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}


def parts() -> list[str]:
    """Modules and packages right below the package."""
    modules = [path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"]
    packages = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    return sorted(modules + packages)


def imported_parts(part: str) -> Iterator[tuple[str, Path]]:
    """Every other part that `part` imports, with the file that does."""
    folder = PACKAGE / part
    files = folder.rglob("*.py") if folder.is_dir() else [PACKAGE / f"{part}.py"]
    for path in files:
        depth = len(path.relative_to(PACKAGE).parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or node.level != depth:
                continue
            names = [node.module.split(".")[0]] if node.module else [n.name for n in node.names]
            yield from ((name, path) for name in names if name not in (part, COMPILED))


def test_every_part_has_a_layer() -> None:
    assert set(parts()) == set(RANK)


@pytest.mark.parametrize("part", parts())
def test_parts_import_only_lower_layers(part: str) -> None:
    for other, path in imported_parts(part):
        assert RANK[other] < RANK[part], f"{path.relative_to(PACKAGE)} imports {other}"


def test_spaces_do_not_import_torch() -> None:
    code = (
        "import sys, types; package = types.ModuleType('proxyless_ext'); "
        f"package.__path__ = [{str(PACKAGE)!r}]; sys.modules['proxyless_ext'] = package; "
        "import proxyless_ext.spaces; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
