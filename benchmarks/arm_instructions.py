"""Count the instructions of the quantised tiles on 64-bit Arm; llvm-mca estimates their time.

    python benchmarks/arm_instructions.py
    python benchmarks/arm_instructions.py --mca llvm-mca-19 --cpu cortex-a72 neoverse-n1 neoverse-n2

The script compiles the kernels with aarch64-linux-gnu-gcc and finds the loop over blocks (16 rows,
32 columns, n tokens: 512 n multiply-adds) in the assembly. llvm-mca knows latencies and ports and
assumes that every load hits the first cache. Its closest model to Cortex-A76 is neoverse-n1; for
cortex-a76 itself it uses the Cortex-A57, as it does for cortex-a72.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

KERNELS = Path(__file__).parents[1] / "dllama" / "_kernels"
TILES = (("neon", 1), ("neon", 8), ("dotprod", 1), ("dotprod", 2), ("dotprod", 8))
PAIRED = (("i8mm", 2), ("i8mm", 8))
TYPES = ("q40", "q80")
# Multiply-adds per instruction.
MACS = {"smull": 8, "smull2": 8, "smlal": 8, "smlal2": 8, "sdot": 16, "smmla": 32}
MEMORY = {"ldr", "ldp", "ld1", "ld1r", "str", "stp"}
BRANCH = re.compile(r"(?:b\.?\w*|cbn?z|tbn?z)\s(?:.*\s)?(\.L\w+)$")


def source() -> str:
    """Return C code with one function per tile, named type_isa_tokens."""
    lines = ['#include "simd/matmul.h"', '#pragma GCC target("arch=armv8.2-a+dotprod+i8mm")']
    for isa, n in TILES + PAIRED:
        for kind in TYPES:
            call = f"dl_tile_{kind}_n_{isa}(t, {n})"
            lines.append(f"void {kind}_{isa}_{n}(const dl_tile *t) {{ {call}; }}")
    return "\n".join(lines)


def assembly() -> dict[str, list[str]]:
    """Return the instructions and labels of each function."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "tiles.c").write_text(source())
        flags = ["-std=gnu11", "-O3", "-ffp-contract=off", "-fno-math-errno"]
        command = ["aarch64-linux-gnu-gcc", *flags, "-I", str(KERNELS), "-S", "tiles.c"]
        subprocess.run(command, cwd=folder, check=True)
        text = Path(folder, "tiles.s").read_text()
    bodies = re.findall(r"^(q\w+):\n(.*?)\n\t\.size\t\1", text, re.S | re.M)
    return {
        name: [clean for line in body.splitlines() if (clean := kept(line))]
        for name, body in bodies
    }


def kept(line: str) -> str:
    """Return the label or instruction in a line, if any."""
    line = line.split("//")[0].strip()
    return "" if line.startswith("#") or re.match(r"\.(?!L)", line) else line


def macs(lines: list[str]) -> int:
    """Count the multiply-adds of some instructions."""
    return sum(MACS.get(line.split()[0], 0) for line in lines)


def block(lines: list[str], expected: int) -> list[str]:
    """Return the instructions of one block, with the loop over quads (if any) unrolled."""
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    loops = []
    for i, line in enumerate(lines):
        jump = BRANCH.match(line)
        first = labels.get(jump.group(1), i) if jump else i
        if first < i and macs(lines[first:i]):
            loops.append((first, i + 1))
    loops.sort(key=lambda loop: loop[1] - loop[0])
    first, last = loops[0]
    times = expected // macs(lines[first:last])
    code = lines[first:last] * times
    if times > 1:
        code = lines[loops[1][0] : first] + code + lines[last : loops[1][1]]
    return [line for line in code if not line.endswith(":")]


def vector(line: str) -> bool:
    """Whether an instruction goes to the vector units."""
    return bool(re.search(r"\bv\d+\.", line)) and line.split()[0] not in MEMORY - {"ld1r"}


def cycles(code: list[str], mca: str, cpu: str) -> float:
    """Return llvm-mca's cycles of a block without its branches, which are never taken here."""
    text = "\n".join(line for line in code if not BRANCH.match(line))
    command = [mca, "-mtriple=aarch64", f"-mcpu={cpu}", "-mattr=+dotprod,+i8mm", "-iterations=100"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return int(re.search(r"Total Cycles:\s+(\d+)", done.stdout).group(1)) / 100


def main() -> None:
    """Print a line for each tile."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mca", help="llvm-mca, version 16 or newer")
    parser.add_argument("--cpu", nargs="+", default=["cortex-a72", "neoverse-n1", "neoverse-n2"])
    args = parser.parse_args()
    print("per 256 multiply-adds: instructions, on vectors, multiplying, loads and stores")
    for name, lines in assembly().items():
        expected = 512 * int(name.split("_")[-1])
        code = block(lines, expected)
        names = [line.split()[0] for line in code]
        multiplying, memory = (sum(x in kind for x in names) for kind in (MACS, MEMORY))
        counts = (len(code), sum(map(vector, code)), multiplying, memory)
        row = "".join(f"{count * 256 / expected:7.1f}" for count in counts)
        timed = [f"{cpu} {cycles(code, args.mca, cpu):.0f} cycles" for cpu in args.cpu if args.mca]
        print(f"{name:14}{row}  {', '.join(timed)}")


if __name__ == "__main__":
    main()
