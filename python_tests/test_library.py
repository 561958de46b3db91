import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

from proxyless_ext import _C, _library
from proxyless_ext.errors import UserError

ROOT = Path(__file__).parents[1]

# What the kernels of each instruction set use, as Linux calls it.
AVX2 = {"avx2", "fma", "f16c"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
CPU_FLAGS = {"avx2": AVX2, "avx512": AVX512, "avx512_bf16": AVX512 | {"avx512_bf16"}}


def run_python(code: str, **environment: str) -> str:
    """Run code in a fresh interpreter and return what it printed."""
    process = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def test_versions_agree():
    assert _C.__version__ == _library.build_info()["version"] == version("proxyless_ext")


def requirements(text: str, comparison: str) -> dict[str, Version]:
    found = re.findall(rf"([\w-]+){comparison}([\d.]+)", text)
    return {name.lower(): Version(number) for name, number in found}


def test_oldest_dependencies_are_those_that_are_tested():
    project = (ROOT / "pyproject.toml").read_text().split("\ndependencies = [")[1].split("\n]")[0]
    stated = requirements(project, ">=")
    tested = requirements((ROOT / "constraints-minimum.txt").read_text(), "==")
    newest = requirements((ROOT / "constraints.txt").read_text(), "==")
    assert tested == stated | {name: newest[name] for name in ("torch", "torchvision")}


def test_build_info_describes_this_build():
    info = _library.build_info()
    assert info["system"] == platform.system()
    assert info["architecture"] == platform.machine()
    assert info["cxx_standard"] == 17
    assert info["build_type"] == "Release"
    assert re.search(r"^\w+ \d+\.", info["compiler"])
    assert "-march=native" not in info["flags"]


def test_scalar_is_always_supported_and_comes_last():
    names = _library.supported_isas()
    assert names[-1] == "scalar"
    assert len(set(names)) == len(names)


@pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() != "x86_64", reason="reads /proc/cpuinfo"
)
def test_supported_isas_are_those_that_linux_reports():
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    present = set(flags.group(1).split())
    expected = [name for name in ("avx512_bf16", "avx512", "avx2") if CPU_FLAGS[name] <= present]
    assert _library.supported_isas() == [*expected, "sse2", "scalar"]


@pytest.mark.skipif(platform.machine() not in {"aarch64", "arm64"}, reason="needs AArch64")
def test_neon_is_always_there_on_aarch64():
    assert _library.supported_isas() == ["neon", "scalar"]


@pytest.mark.parametrize("value", [None, ""])
def test_best_isa_is_selected_by_default(monkeypatch, value):
    if value is None:
        monkeypatch.delenv("PROXYLESS_CPU_ISA", raising=False)
    else:
        monkeypatch.setenv("PROXYLESS_CPU_ISA", value)
    assert _library.selected_isa() == _library.supported_isas()[0]


@pytest.mark.parametrize("name", _C.supported_isas())
def test_environment_selects_the_isa(name):
    code = "from proxyless_ext import _C; print(_C.selected_isa())"
    assert run_python(code, PROXYLESS_CPU_ISA=name) == name


@pytest.mark.parametrize("name", ["mmx", "AVX2", "neon,avx2", "scalar "])
def test_unknown_isa_is_one_clear_sentence(monkeypatch, name):
    monkeypatch.setenv("PROXYLESS_CPU_ISA", name)
    choices = ", ".join(_library.supported_isas())
    message = f'PROXYLESS_CPU_ISA is "{name}", but this CPU can use only {choices}.'
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        _library.selected_isa()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        _C.selected_isa()


def test_package_works_without_the_compiled_module():
    code = """
import sys
sys.modules["proxyless_ext._C"] = None  # Makes importing it fail.
import proxyless_ext
from proxyless_ext import _library
from proxyless_ext.errors import UserError
for function in (_library.build_info, _library.supported_isas, _library.selected_isa):
    try:
        function()
    except UserError as error:
        print(error)
"""
    messages = run_python(code).splitlines()
    assert len(messages) == 3
    for message in messages:
        assert "`pip install --no-build-isolation .`" in message
        assert message.endswith(".")


def test_compiled_module_needs_no_torch(tmp_path):
    shutil.copy(_C.__file__, tmp_path)
    code = "import sys, _C; print(_C.selected_isa(), 'torch' in sys.modules)"
    assert run_python(code, PYTHONPATH=str(tmp_path), PROXYLESS_CPU_ISA="scalar") == "scalar False"


@pytest.mark.slow
def test_loaded_operators_are_known_behind_a_link(tmp_path, monkeypatch):
    link = tmp_path / "package"
    link.symlink_to(_library._OPS.parent)
    _library.load_ops()
    monkeypatch.setattr(_library, "CUDA_OPS", link / _library._OPS.name)
    assert _library.cuda_ops_loaded()
    monkeypatch.setattr(_library, "CUDA_OPS", link / "other.so")
    assert not _library.cuda_ops_loaded()


def test_wheel_holds_everything_that_is_needed(tmp_path):
    source = tmp_path / "source"  # A copy, since building in ROOT would reuse what is there.
    source.mkdir()
    for name in ("CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, source)
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "csrc", source / "csrc")
    for path in source.rglob("*.cpp"):
        path.write_text("")  # Only names are looked at, and what is empty is quick to compile.
    shutil.copytree(ROOT / "proxyless_ext", source / "proxyless_ext", ignore=ignore)

    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", tmp_path, source], check=True)

    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    module, operators = compiled = sorted(name for name in names if name.endswith((".so", ".pyd")))
    assert module.startswith("proxyless_ext/_C.")
    assert operators == "proxyless_ext/_ops.so"

    shipped = {".py", ".pyi", ".typed", ".json", ".yaml", ".html", ".css", ".j2"}
    expected = {
        path.relative_to(source).as_posix()
        for path in (source / "proxyless_ext").rglob("*")
        if path.suffix in shipped or path.name == "py.typed"
    }
    assert names - set(compiled) == expected
