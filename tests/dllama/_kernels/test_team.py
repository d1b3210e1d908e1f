"""A stage ends when its items are done: threads that are late at random, fork, and the end.

team/stress.c checks the order of items; with the thread sanitizer it also checks that what one item
has written is there for the next, on machines with a weaker order than x86 too.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import dllama
from dllama._kernels import cpu

HERE = Path(__file__).parent / "team"
KERNELS = Path(__file__).parents[3] / "dllama" / "_kernels"
TASKS = Path("/proc/self/task")


def build(tmp_path: Path, compiler: str, *flags: str) -> Path:
    """Compile the program."""
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    program = tmp_path / "stress"
    warnings = ["-std=gnu11", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    source = str(HERE / "stress.c")
    command = [compiler, *warnings, *flags, "-I", str(KERNELS), source, "-o", str(program)]
    done = subprocess.run([*command, "-pthread"], capture_output=True, text=True, timeout=100)
    if "tsan" in done.stderr and "cannot find" in done.stderr:
        pytest.skip("no thread sanitizer")
    assert done.returncode == 0, done.stderr
    return program


def play(*command: str) -> None:
    """Run the program, which says what went wrong."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    if "FATAL: ThreadSanitizer" in done.stderr:
        pytest.skip(done.stderr)  # it knows some layouts of memory only
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"{command[-1]} passes\n"


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_every_item_is_done_once_and_in_order(tmp_path, threads):
    play(str(build(tmp_path, "gcc", "-O2")), str(threads), "4000")


@pytest.mark.slow
@pytest.mark.parametrize("threads", [2, 8])
def test_no_item_reads_what_is_not_yet_there(tmp_path, threads):
    play(str(build(tmp_path, "gcc", "-O1", "-g", "-fsanitize=thread")), str(threads), "1500")


@pytest.mark.slow
def test_arm(tmp_path):
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("no qemu-aarch64")
    program = build(tmp_path, "aarch64-linux-gnu-gcc", "-O2", "-static")
    play("qemu-aarch64", str(program), "4", "500")


def logits(llm: dllama.LLM, count: int) -> np.ndarray:
    """Logits of `count` passes over one token each."""
    llm.reset()
    return np.concatenate([llm.eval([n * 37 % 200]) for n in range(count)])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_many_threads_on_one_core_give_the_same_bits():
    """Hundreds of short passes, in each of which most threads come too late."""
    with dllama.LLM(threads=1, max_seq_len=256) as llm:
        expected = logits(llm, 200)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        with dllama.LLM(threads=16, max_seq_len=256) as llm:
            for _ in range(3):
                np.testing.assert_array_equal(logits(llm, 200), expected)
    finally:
        os.sched_setaffinity(0, before)


def members() -> set[str]:
    """The threads of teams in this process."""
    names = {task.name: (task / "comm").read_text() for task in TASKS.iterdir()}
    return {number for number, name in names.items() if name == "dllama\n"}


def wait(condition: Callable[[], bool]) -> bool:
    """Whether a condition holds within 20 seconds."""
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


@pytest.mark.skipif(not TASKS.is_dir(), reason="needs Linux")
@pytest.mark.skipif(not cpu.openmp(), reason="one thread without OpenMP")
def test_threads_end_with_the_model():
    """They may begin after the first pass, which does not wait for them."""
    gc.collect()  # models of earlier tests
    before = members()
    llm = dllama.LLM(threads=7, max_seq_len=64)
    llm.eval([1])
    assert wait(lambda: len(members() - before) == 6)
    llm.close()
    assert wait(lambda: members() <= before)


FORK = """
import os, sys, threading
import numpy as np
import dllama

llm = dllama.LLM(threads=4, max_seq_len=64)
expected = llm.eval([1, 2, 3])
child = os.fork()
if child == 0:
    llm.reset()
    same = np.array_equal(llm.eval([1, 2, 3]), expected)
    del llm
    os._exit(0 if same else 1)
_, status = os.waitpid(child, 0)
llm.reset()
assert np.array_equal(llm.eval([1, 2, 3]), expected)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_computes_alone():
    command = [sys.executable, "-W", "ignore", "-c", FORK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
