"""Builds the compiled core; everything declarative is in pyproject.toml."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS = Path("dllama/_kernels")
PROBE = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"


def openmp_flags(compiler) -> list[str]:
    """Flags that compile and link an OpenMP program here, or [] where none do."""
    if os.environ.get("DLLAMA_NO_OPENMP") == "1":
        return []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text(PROBE)
        try:
            objects = compiler.compile(
                [str(source)], output_dir=folder, extra_postargs=["-fopenmp"]
            )
            compiler.link_executable(
                objects, "probe", output_dir=folder, extra_postargs=["-fopenmp"]
            )
        except Exception as error:  # distutils raises several unrelated classes
            print(f"dllama: no OpenMP ({error}): kernels run on one thread", file=sys.stderr)
            return []
    return ["-fopenmp"]


class BuildExt(build_ext):
    """build_ext that adds the flags this compiler takes."""

    def build_extensions(self) -> None:
        """Add OpenMP and debug flags, then build."""
        openmp = openmp_flags(self.compiler)
        debug = os.environ.get("DLLAMA_DEBUG") == "1"
        sanitize = os.environ.get("DLLAMA_SANITIZE", "")
        extra = [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer"] if sanitize else []
        for extension in self.extensions:
            extension.extra_compile_args += openmp + extra + (["-O1", "-g"] if debug else ["-O3"])
            extension.extra_link_args += openmp + extra
            extension.cython_directives = directives(debug)
        super().build_extensions()


def directives(debug: bool) -> dict[str, object]:
    """Cython directives: bounds checks in the debug build only."""
    return {
        "language_level": 3,
        "boundscheck": debug,
        "wraparound": False,
        "initializedcheck": debug,
        "cdivision": True,
        "embedsignature": True,
        "freethreading_compatible": False,
    }


def extensions() -> list[Extension]:
    """One extension per .pyx in dllama/_kernels."""
    headers = [str(path) for path in sorted(KERNELS.glob("**/*.h"))]
    contracts = [str(path) for path in sorted(KERNELS.glob("*.pxd"))]
    return [
        Extension(
            f"dllama._kernels.{path.stem}",
            sources=[str(path)],
            depends=headers + contracts,
            include_dirs=[str(KERNELS), numpy.get_include()],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
            extra_compile_args=["-std=gnu11", "-ffp-contract=off", "-fno-math-errno"],
            extra_link_args=[],
        )
        for path in sorted(KERNELS.glob("*.pyx"))
    ]


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExt})
