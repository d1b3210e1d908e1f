"""Tries bad input for hours: `make soak`, or python tests/hostile/soak.py KIND... --seconds N.

Each trial has a number, from which all its random numbers follow. The trials of a kind run in a
child process with limits of time and memory. What a failed trial read is kept, and its number
repeats it: soak.py KIND --seed NUMBER --trials 1. Exits with 1 if any trial failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
HERE = Path(__file__).parent
if __name__ == "__main__":
    sys.path[1:1] = [str(HERE.parent / "support")]

import file_kinds
import http_kind
import kill_kind
import load_kind
import talk_kinds

KINDS = {**file_kinds.KINDS, **talk_kinds.KINDS, **http_kind.KINDS, **kill_kind.KINDS,
         **load_kind.KINDS}  # fmt: skip
STARTING = 180.0  # seconds until the first trial of a kind ends
MEMORY = 6 << 30  # bytes of addresses that a process may have
KEPT = "kept"  # folder in which a child leaves what failed trials read
LEAVING = 20.0  # seconds that a child has to end


@dataclass
class Counts:
    """What the trials of a kind ended with.

    Attributes:
        peak: the largest memory of a child, in bytes.
        faults: what each failed trial did, with its number.
    """

    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    peak: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def trials(self) -> int:
        return self.accepted + self.refused + len(self.faults)


def child(kind: str, seed: int, trials: int, folder: Path) -> None:
    """Do trials, and print a line of JSON after each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ.update(XDG_CACHE_HOME=str(folder / "cache"), DLLAMA_SECRET="")
    os.chdir(folder)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    shared = KINDS[kind](folder)
    try:
        for number in range(seed, seed + trials):
            ended = result(shared, number)
            if "fault" in ended and (folder / "case").is_dir():  # the next trial empties it
                shutil.copytree(folder / "case", folder / KEPT / str(number))
            say(number=number, **ended)
            if stopped:
                break
    finally:
        last = attempt(shared.close)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        say(peak=peak, **({"end": last} if last else {}))


def result(kind: Any, number: int) -> dict[str, Any]:
    """What a trial ended with."""
    good: list[bool] = []
    error = attempt(lambda: good.append(kind.trial(random.Random(number))))
    return {"fault": error} if error else {"accepted": good[0]}


def attempt(action: Any) -> str:
    """Do something and return its traceback if it fails, else nothing."""
    try:
        action()
    except KeyboardInterrupt:
        raise
    except BaseException:  # some libraries raise what is no Exception
        return traceback.format_exc()
    return ""


def say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


class Child:
    """A child process that does trials, and what it says."""

    def __init__(self, kind: str, seed: int, trials: int, folder: Path) -> None:
        self.seed, self.folder, self._limit = seed, folder, KINDS[kind].seconds
        folder.mkdir(parents=True, exist_ok=True)
        self._log = (folder / "log").open("w+")
        numbers = [str(seed), str(trials)]
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--child", kind, *numbers, str(folder)],
            stdout=subprocess.PIPE, stderr=self._log, text=True, start_new_session=True,
        )  # fmt: skip
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def lines(self, end: float) -> Iterator[dict[str, Any]]:
        """Yield what it says. After `end` it is asked to stop. A hang or a crash is a fault."""
        number, limit, asked = self.seed, STARTING, False
        while True:
            try:
                line = self._lines.get(timeout=limit)
            except queue.Empty:
                yield {"number": number, "fault": f"no end within {limit:g} s\n{self.tail()}"}
                return
            if not line:
                break
            said = json.loads(line)
            yield said
            number, limit = said.get("number", number) + 1, self._limit
            if time.monotonic() > end and not asked:
                self.process.send_signal(signal.SIGTERM)
                asked = True
        if status := self.process.wait(LEAVING):
            yield {"number": number, "fault": f"exit status {status}\n{self.tail()}"}

    def tail(self) -> str:
        self._log.flush()
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        """End it with all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        self._log.close()
        assert self.process.stdout is not None
        self.process.stdout.close()


def run(kind: str, seed: int, trials: int, seconds: float, keep: Path | None = None) -> Counts:
    """Do trials of a kind until there were enough or the time is over.

    Args:
        kind: in KINDS.
        seed: the number of the first one.
        trials: how many at most.
        seconds: after which no other one begins.
        keep: the folder for the input of those that fail.
    """
    counts, begin = Counts(), time.monotonic()
    following = seed
    while following < seed + trials and (not counts.trials or time.monotonic() < begin + seconds):
        with tempfile.TemporaryDirectory(prefix="dllama-soak-") as temporary:
            one = Child(kind, following, seed + trials - following, Path(temporary) / kind)
            try:
                for said in one.lines(begin + seconds):
                    following = said.get("number", following - 1) + 1
                    count(counts, kind, said, one.folder, keep)
            finally:
                one.stop()
        if len(counts.faults) >= 20 or (counts.faults and not counts.accepted + counts.refused):
            break
    counts.seconds = time.monotonic() - begin
    return counts


def count(counts: Counts, kind: str, said: dict[str, Any], folder: Path, keep: Path | None) -> None:
    """Count what a child says, and keep the input of a trial that failed."""
    counts.peak = max(counts.peak, said.get("peak", 0))
    if "accepted" in said:
        counts.accepted += said["accepted"]
        counts.refused += not said["accepted"]
    fault = said.get("fault") or said.get("end")
    if not fault:
        return
    number = said.get("number", "end")
    counts.faults.append(f"{kind} {number}: {fault}")
    if keep is not None:
        target = keep / f"{kind}-{number}"
        shutil.rmtree(target, ignore_errors=True)
        kept = folder / KEPT / str(number)
        case = kept if kept.is_dir() else folder / "case"  # of a crash or a hang
        if case.is_dir():
            shutil.copytree(case, target)
        target.mkdir(parents=True, exist_ok=True)
        (target / "fault.txt").write_text(fault)


def table(counts: dict[str, Counts]) -> Iterator[str]:
    """The lines of a table of counts, which are those of docs/reliability.md."""
    yield "| kind | trials | accepted | refused | faults | seconds | peak memory |"
    yield "|---|---|---|---|---|---|---|"
    for kind, one in counts.items():
        yield (
            f"| {kind} | {one.trials} | {one.accepted} | {one.refused} | {len(one.faults)} | "
            f"{one.seconds:.0f} | {one.peak >> 20} MiB |"
        )


def soak(args: argparse.Namespace) -> int:
    """Do trials of all kinds that are asked for."""
    keep, counts = Path(args.keep).absolute(), {}
    for kind in args.kinds or KINDS:
        share = args.seconds / len(args.kinds or KINDS)
        print(f"{kind}: up to {share:.0f} s, from trial {args.seed}", flush=True)
        counts[kind] = run(kind, args.seed, args.trials, share, keep)
        for fault in counts[kind].faults:
            print(fault, flush=True)
    print("\n".join(table(counts)))
    faults = sum(len(one.faults) for one in counts.values())
    if faults:
        print(f"{faults} faults; what they read is in {keep}")
    return min(faults, 1)


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        kind, seed, trials, folder = sys.argv[2:]
        child(kind, int(seed), int(trials), Path(folder))
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], metavar="KIND",
                        help=f"{', '.join(KINDS)} (default: all)")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=3600.0, help="in all (default: 3600)")
    parser.add_argument("--seed", type=int, default=1, help="number of the first trial")
    parser.add_argument("--trials", type=int, default=1 << 40, help="most of each kind")
    parser.add_argument("--keep", default="hostile-faults", help="folder for failed trials' input")
    return soak(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
