"""Lets setuptools build the C++ part by driving CMake.

The metadata is in pyproject.toml and every compiler flag in CMakeLists.txt. Arguments for CMake go
into the environment variable CMAKE_ARGS, and the compiler into CXX.
"""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def find_program(name: str) -> str:
    """Find a program of this Python environment, which need not be activated, or one on PATH."""
    scripts = sysconfig.get_path("scripts")
    program = shutil.which(name, path=os.pathsep.join([scripts, os.environ.get("PATH", "")]))
    if program is None:
        sys.exit(f"Building proxyless_ext needs {name}: run `pip install {name}` first.")
    return program


def find_pybind11() -> str:
    """Find the folder of pybind11's CMake files."""
    try:
        import pybind11
    except ImportError:
        sys.exit("Building proxyless_ext needs pybind11: run `pip install pybind11` first.")
    return pybind11.get_cmake_dir()


def find_torch() -> str:
    """Find the folder of torch, which has the headers and the library that the operators need."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        sys.exit(
            "Building proxyless_ext needs torch, the one it will run with: "
            "run `pip install torch` first, and then pip install with --no-build-isolation."
        )
    return spec.submodule_search_locations[0]


def remove_operators(folder: Path) -> None:
    """Remove what an earlier build left: operators for GPUs that this one may not have built."""
    for library in folder.glob("_ops*.so"):
        library.unlink()


class CMakeBuild(build_ext):
    """Builds everything compiled with CMake and ninja: the extension module and the operators."""

    def build_extension(self, ext: Extension) -> None:
        cmake = find_program("cmake")
        # Not self.build_temp: an editable install gets a new one each time and would always build
        # everything anew.
        build_folder = ROOT / "build" / f"cmake-{sysconfig.get_config_var('SOABI')}"
        package_folder = Path(self.get_ext_fullpath(ext.name)).parent.resolve()

        configure = [cmake, "-S", ROOT, "-B", build_folder, "-G", "Ninja"]
        configure += [
            f"-DCMAKE_MAKE_PROGRAM={find_program('ninja')}",
            f"-DPROXYLESS_VERSION={self.distribution.get_version()}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={find_pybind11()}",
            f"-DPROXYLESS_TORCH={find_torch()}",
        ]
        configure += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        subprocess.run(configure, check=True)
        subprocess.run([cmake, "--build", build_folder], check=True)
        remove_operators(package_folder)
        subprocess.run([cmake, "--install", build_folder, "--prefix", package_folder], check=True)
        if self.editable_mode:  # In which setuptools brings home the extension module only.
            remove_operators(ROOT / "proxyless_ext")
            for library in package_folder.glob("*.so"):
                shutil.copy(library, ROOT / "proxyless_ext")


setup(
    ext_modules=[Extension("proxyless_ext._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
