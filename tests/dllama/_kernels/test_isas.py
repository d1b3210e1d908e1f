"""Every kernel of every instruction set against the baseline, bit by bit, in a C program.

The Arm kernels run under qemu. AVX-512 and AVX-VNNI are emulated with functions if this processor
does not support them (isas/emulated*.h).
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dllama._kernels import cpu

HERE = Path(__file__).parent / "isas"
KERNELS = Path(__file__).parents[3] / "dllama" / "_kernels"
CROSS, QEMU = "aarch64-linux-gnu-gcc", "qemu-aarch64"
FLAGS = ["-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra", "-Werror"]
# Headers in isas/ that replace those of the kernels unless the processor has the feature.
EMULATED = {"begin_avxvnni.h": "avxvnni", "begin_avx512.h": "avx512vnni"}


def build(compiler: str, include: Path, output: Path, *flags: str) -> Path:
    """Compile the program with the headers in `include`."""
    source = str(HERE / "compare.c")
    command = [compiler, *FLAGS, *flags, "-I", str(include), source, "-o", str(output), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return output


def run(*command: str) -> list[str]:
    """Run the program; return the instruction sets that it supports, or that it has compared."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, compiled for 64-bit Arm."""
    for tool in (CROSS, QEMU):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")
    # Emulated, unoptimised code takes longer than the compiler needs to optimise it a little.
    return build(CROSS, KERNELS, tmp_path_factory.mktemp("arm") / "compare", "-static", "-Og")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processor", "isas"),
    [
        ("cortex-a72", ["neon"]),
        ("cortex-a76", ["neon", "dotprod"]),
        ("max", ["neon", "dotprod", "i8mm"]),
    ],
)
def test_arm(arm, processor, isas):
    """A processor supports the expected instruction sets; the last, which others do not have, gives
    the same bits."""
    program = (QEMU, "-cpu", processor, str(arm))
    assert run(*program) == isas
    assert run(*program, isas[-1]) == isas[-1:]


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="no x86")
@pytest.mark.skipif("avx2" not in cpu.features(), reason="no AVX2, which the emulation uses")
def test_x86(tmp_path):
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc")
    headers = tmp_path / "simd"
    shutil.copytree(KERNELS / "simd", headers)
    shutil.copy(KERNELS / "types.h", tmp_path)
    for name, feature in EMULATED.items():
        if feature not in cpu.features():
            shutil.copy(HERE / name, headers)
    for header in HERE.glob("emulated*.h"):
        shutil.copy(header, headers)
    program = build(compiler, tmp_path, tmp_path / "compare")
    isas = ["avx2", "avxvnni", "avx512"]
    assert run(str(program), *isas) == isas


def test_avx512_is_emulated():
    """The kernels use no instruction that other processors cannot emulate, wherever this runs."""
    kernels = "".join(header.read_text() for header in (KERNELS / "simd").glob("*.h"))
    emulation = (HERE / "emulated_avx512.h").read_text()
    used = set(re.findall(r"\b_mm512_\w+", kernels))
    assert used == set(re.findall(r"^#define (_mm512_\w+)", emulation, re.MULTILINE))
