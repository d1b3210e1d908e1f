"""Builds the compiled core. Everything declarative is in pyproject.toml.

Environment variables:
  DLLAMA_NO_OPENMP=1                 builds without OpenMP
  DLLAMA_DEBUG=1                     with bounds checks and debug symbols
  DLLAMA_SANITIZE=address,undefined  with the compiler's sanitizers

Each combination has its own folder of intermediate files, so that no build uses C code that was
generated for another.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import Cython
import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS = Path("dllama/_kernels")
TRANSPORTS = Path("transports")
PROBE = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"
DEBUG = os.environ.get("DLLAMA_DEBUG") == "1"
OPENMP = os.environ.get("DLLAMA_NO_OPENMP") != "1"
SANITIZE = os.environ.get("DLLAMA_SANITIZE", "")
SHARED = "dllama._kernels._cyutility"
LONGEST = ["dllama._kernels.ops.matmul", "dllama._kernels.ops.kv_cache"]  # to compile: first


def openmp_flags(compiler) -> list[str]:
    """Flags that compile and link with OpenMP, or [] if the compiler cannot."""
    if not OPENMP:
        return []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text(PROBE)
        options = {"output_dir": folder, "extra_postargs": ["-fopenmp"]}
        try:
            objects = compiler.compile([str(source)], **options)
            compiler.link_executable(objects, "probe", **options)
        except Exception as error:  # distutils raises several unrelated classes
            print(f"dllama: no OpenMP ({error}): kernels run on one thread", file=sys.stderr)
            return []
    return ["-fopenmp"]


def sanitizer_flags() -> list[str]:
    """Flags for the sanitizers in DLLAMA_SANITIZE. Undefined behaviour ends the process."""
    if not SANITIZE:
        return []
    return [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]


def directives() -> dict[str, object]:
    """Cython directives. Only the debug build has bounds checks."""
    return {
        "language_level": 3,
        "boundscheck": DEBUG,
        "wraparound": False,
        "initializedcheck": DEBUG,
        "cdivision": True,
        "embedsignature": True,
        "freethreading_compatible": False,
    }


def shared_code(folder: str) -> str:
    """Path of Cython's code for memoryviews, which all extensions share.

    If each extension had its own copy, it would take 5 seconds longer to compile. The code depends
    on the version of Cython.
    """
    source = Path(folder, f"cython-{Cython.__version__}", "_cyutility.c")
    if not source.is_file():
        source.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "cython", "-3", f"--generate-shared={source}"]
        subprocess.run(command, check=True)
    return str(source)


class BuildExt(build_ext):
    """build_ext with flags that the compiler supports, and generated C code outside the tree."""

    def finalize_options(self) -> None:
        """Give this configuration its own intermediate folder, and compile in parallel."""
        super().finalize_options()
        variant = f"{'debug' if DEBUG else 'release'}-{SANITIZE.replace(',', '-') or 'plain'}"
        variant = variant if OPENMP else variant + "-serial"
        stamp = Path(self.build_temp, "variant")
        if not stamp.is_file() or stamp.read_text() != variant:
            self.force = True  # build_lib may have files of another configuration
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(variant)
        self.build_temp = str(stamp.parent / variant)
        self.parallel = self.parallel or os.cpu_count() or 1

    def build_extensions(self) -> None:
        """Translate all .pyx, then compile them."""
        shared = openmp_flags(self.compiler) + sanitizer_flags()
        for extension in self.extensions:
            extension.extra_compile_args += shared + (["-Og", "-g"] if DEBUG else ["-O3", "-g0"])
            extension.extra_link_args += shared
        # Before compiling starts: Cython is not safe in the threads that compile.
        translated = cythonize(
            [extension for extension in self.extensions if extension.name != SHARED],
            build_dir=self.build_temp,
            compiler_directives=directives(),
            force=self.force,
            nthreads=self.parallel,
            shared_utility_qualified_name=SHARED,
            quiet=True,
        )
        self.extensions.sort(key=lambda extension: extension.name not in LONGEST)
        sources = {extension.name: extension.sources for extension in translated}
        sources[SHARED] = [shared_code(self.build_temp)]
        for extension in self.extensions:
            extension.sources = sources[extension.name]
        super().build_extensions()


def extensions() -> list[Extension]:
    """An extension for each .pyx in dllama/_kernels and transports, and one for shared code."""
    headers = [str(path) for path in sorted(KERNELS.glob("**/*.h"))]
    contracts = [str(path) for path in sorted(KERNELS.glob("**/*.pxd"))]
    packages = {KERNELS: "dllama._kernels", TRANSPORTS: "dllama.transports"}
    flags = ["-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-pthread"]
    found = [
        Extension(
            ".".join([package, *path.relative_to(folder).with_suffix("").parts]),
            sources=[str(path)],
            depends=headers + contracts,
            include_dirs=[str(KERNELS), numpy.get_include()],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
            extra_compile_args=list(flags),
            extra_link_args=["-pthread"],
        )
        for folder, package in packages.items()
        for path in sorted(folder.glob("**/*.pyx"))
    ]
    return [*found, Extension(SHARED, sources=[], extra_compile_args=list(flags))]


if __name__ == "__main__":  # not in the processes that translate .pyx files
    setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExt})
