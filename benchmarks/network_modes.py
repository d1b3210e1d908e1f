"""Compare the two TCP transports, one with TLS and without, or MPI, over slow links on one machine.

    sudo python benchmarks/network_modes.py --model tiny.m --threads 1 --json samples.json
    sudo python benchmarks/network_modes.py --model tiny.m --nodes 2 --tls nonblocking
    sudo python benchmarks/network_modes.py --model tiny.m --nodes 2 --mpi "$(which mpirun)"

Every node gets its own network namespace. A bridge joins them, and --rate limits both directions of
every link. The machine's cores are divided among the nodes, so that each is like a machine of its
own. The two cases take turns, on an otherwise idle machine and with a busy loop on every core. A
link adds no latency beyond its rate, unless --delay does.

Needs root, and the programs ip and tc (iproute2). Nothing outside the namespaces is changed, and
they are removed at the end unless the script itself is killed (SIGKILL).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from support.mpi_hosts import Job, mpi_hosts
from support.networks import (
    MAX_NODES,
    Cable,
    NetworkError,
    Node,
    exit_on_signals,
    missing,
    network,
)

import dllama

MODES = ("blocking", "nonblocking")
WITH_TLS = ("plain", "TLS")
WITH_MPI = ("plain", "MPI")  # nonblocking, and what mpirun starts
MACHINES = ("idle", "loaded")
# Label, key of a sample, and the factor from its unit to the table's.
MEASURES = (
    ("decode, tokens/s", "tokens_per_s", 1.0),
    ("inference, ms/token", "avg_inference_ms", 1.0),
    ("transfer, ms/token", "avg_transfer_ms", 1.0),
    ("sent, kB/token", "avg_sent_bytes", 1e-3),
    ("received, kB/token", "avg_received_bytes", 1e-3),
    ("prompt, tokens/s", "prompt_tokens_per_s", 1.0),
)
WARM_UP = 4  # tokens
PORTS = {"plain": 9998, "TLS": 9999}
READY = "listening at "
STARTING = 60.0  # seconds that a worker may take to start
QUIET = 0.3  # number of cores that may be busy before a run on an idle machine
CALMING = 60.0  # seconds to wait for the machine to become idle
LEAVING = 5.0  # seconds that a process may take to terminate
BUSY = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(1_000_000):
        pass
"""

Sample = dict[str, Any]
Cores = set[int]


class BenchmarkError(Exception):
    """An error in one line."""


def main() -> None:
    args = parse_arguments()
    if args.measure:
        print(json.dumps(measure(args)))
        return
    exit_on_signals()
    check_system(args)
    try:
        samples = run_all(args)
    except (BenchmarkError, NetworkError) as error:
        sys.exit(f"network_modes.py: {error}")
    print(table(samples, args))
    if any(sample.get("others", 0.0) > QUIET for sample in samples):
        print("\nThe idle machine was not idle: other programs ran.")
    if args.json:
        content = {"settings": settings(args), "samples": samples}
        Path(args.json).write_text(json.dumps(content, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line, including what the script passes to the root's process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, help="model folder or .m file (default: the demo model)")
    add("--nodes", type=between(2, MAX_NODES), default=4)
    add("--rate", type=positive, default=1000.0, metavar="MBIT", help="Mbit/s of every link")
    add("--burst", type=between(2048, 1 << 24), metavar="BYTES", help="sent at once by a link")
    add("--delay", type=float, default=0.0, metavar="MS", help="one way, more than the link has")
    add("--congestion-control", default="cubic", metavar="NAME", help="of TCP: cubic, bbr, ...")
    add("--threads", type=between(1, 1024), default=1, help="of every node")
    add("--repeats", type=between(1, 1000), default=5)
    add("--prompt-tokens", type=between(1, 1 << 20), default=64)
    add("--tokens", type=between(1, 1 << 20), default=64, help="decoded after the first one")
    add("--machines", nargs="+", choices=MACHINES, default=MACHINES)
    add("--tls", choices=MODES, help="compare this transport with TLS and without")
    add("--mpi", metavar="MPIRUN", help="compare nonblocking without TLS and MPI, by this launcher")
    add("--all-reduce", default="auto", help="auto, exchange or two-step")
    add("--buffer", help="q80, f32 or f16 (default: as the weights are)")
    add("--timeout", type=positive, default=600.0, metavar="S", help="seconds for one run")
    add("--json", metavar="FILE", help="save settings and all samples")
    add("--measure", help=argparse.SUPPRESS)
    return parser.parse_args()


def cases(args: argparse.Namespace) -> tuple[str, str]:
    """Return what is compared."""
    return WITH_TLS if args.tls else WITH_MPI if args.mpi else MODES


def ports(args: argparse.Namespace) -> dict[str, int]:
    """Return where workers listen, by what they speak."""
    spoken = WITH_TLS if args.tls else WITH_MPI[:1] if args.mpi else WITH_TLS[1:]
    return {case: PORTS[case] for case in spoken}


def between(least: int, most: int) -> Callable[[str], int]:
    """Return an argument type: integers in a range."""

    def number(text: str) -> int:
        if not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text}, expected {least} to {most}")
        return int(text)

    return number


def positive(text: str) -> float:
    if not 0 < float(text) < 1e9:
        raise argparse.ArgumentTypeError(f"{text}, expected a number above 0")
    return float(text)


def check_system(args: argparse.Namespace) -> None:
    """Exit with a message if this system cannot run the benchmark."""
    lack = missing(delay=args.delay > 0)
    if lack:
        sys.exit(f"network_modes.py: {lack}")


def run_all(args: argparse.Namespace) -> list[Sample]:
    """Take all samples; the cases alternate, and so does the first of each pair."""
    samples: list[Sample] = []
    with cluster(args) as root:
        for mode in cases(args):
            root.sample(mode)  # sends the weights, which the workers keep
        for repeat in range(args.repeats):
            order = cases(args) if repeat % 2 == 0 else cases(args)[::-1]
            for machine in args.machines:
                with busy_cores() if machine == "loaded" else contextlib.nullcontext():
                    for mode in order:
                        labels: Sample = {"machine": machine, "transport": mode, "repeat": repeat}
                        if machine == "idle":
                            labels["others"] = calm()
                        samples.append({**labels, **root.sample(mode)})
    return samples


def calm() -> float:
    """Wait some time for an idle machine; return how many cores other programs still use."""
    end = time.monotonic() + CALMING
    while True:
        before = idle_seconds()
        time.sleep(0.5)
        busy = max(0.0, (os.cpu_count() or 1) - (idle_seconds() - before) / 0.5)
        if busy <= QUIET or time.monotonic() > end:
            return busy


def idle_seconds() -> float:
    """Return the idle time of all cores together."""
    return float(Path("/proc/uptime").read_text().split()[1])


@contextlib.contextmanager
def cluster(args: argparse.Namespace) -> Iterator[Root]:
    """Create namespaces with a worker in each but the first, and remove them afterwards."""
    cores = divide_cores(args.nodes, args.threads)
    cable = Cable(
        args.rate, args.delay, burst=args.burst, congestion_control=args.congestion_control
    )
    with network(args.nodes, cable) as nodes, contextlib.ExitStack() as stack:
        workers = [
            (node.rank, stack.enter_context(worker(node, cores[node.rank], args, port, case)))
            for case, port in ports(args).items()
            for node in nodes[1:]
        ]
        for rank, process in workers:
            await_worker(process, rank)
        job = stack.enter_context(mpi_hosts(nodes, args.mpi)) if args.mpi else None
        yield Root(nodes[0], cores, args, job)


def divide_cores(nodes: int, threads: int) -> list[Cores]:
    """Return the cores of every node: its own if there are enough, else all of them."""
    cores = sorted(os.sched_getaffinity(0))
    if nodes * threads > len(cores):
        return [set(cores)] * nodes
    return [set(cores[rank * threads : (rank + 1) * threads]) for rank in range(nodes)]


def last_line(text: str) -> str:
    """Return the last line of an error message, which is the essential one of a traceback."""
    return (text.strip().splitlines() or ["failed"])[-1]


@contextlib.contextmanager
def worker(
    node: Node, cores: Cores, args: argparse.Namespace, port: int, case: str
) -> Iterator[subprocess.Popen[str]]:
    """Start a worker in a namespace; its warnings go to stderr."""
    process = node.popen(
        [
            sys.executable, "-m", "dllama", "worker", "--insecure", "--quiet",
            "--listen", f"{node.address()}:{port}", "--threads", args.threads,
            *(["--plain"] if case == "plain" else []),
        ],
        stdout=subprocess.PIPE, **on(cores),
    )  # fmt: skip
    with stopping(process):
        yield process


def on(cores: Cores) -> dict[str, Any]:
    """Return the options of a process with its own cores, out of reach of a terminal's Ctrl-C."""
    return {"preexec_fn": partial(os.sched_setaffinity, 0, cores), "start_new_session": True}


def await_worker(process: subprocess.Popen[str], rank: int) -> None:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], STARTING)
    if not ready or not process.stdout.readline().startswith(READY):
        raise BenchmarkError(f"worker {rank} did not start, or not within {STARTING:g} s")


@contextlib.contextmanager
def stopping(*processes: subprocess.Popen[str]) -> Iterator[None]:
    """Stop processes at the end, with force if necessary."""
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(LEAVING)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(LEAVING)


@contextlib.contextmanager
def busy_cores() -> Iterator[None]:
    """Run a busy loop on every core; the loops also end with this process."""
    with contextlib.ExitStack() as stack:
        for core in os.sched_getaffinity(0):
            command = [sys.executable, "-S", "-c", BUSY, str(os.getpid())]
            stack.enter_context(stopping(subprocess.Popen(command, text=True, **on({core}))))
        yield


class Root:
    """Runs this script again in the root's namespace, as the root of a cluster."""

    def __init__(
        self, node: Node, cores: list[Cores], args: argparse.Namespace, job: Job | None
    ) -> None:
        self._node = node
        self._cores = cores
        self._args = args
        self._job = job

    def sample(self, mode: str) -> Sample:
        """Run once in a new process; BenchmarkError if it fails or takes too long."""
        command = [sys.executable, __file__, *options(self._args), "--measure", mode]
        try:
            if self._job is not None and mode == "MPI":
                done = self._run_ranks(self._job, command)
            else:
                done = self._node.run(command, self._args.timeout, **on(self._cores[0]))
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"{mode}: no result in {self._args.timeout:g} s") from None
        if done.returncode != 0:
            raise BenchmarkError(f"{mode}: {last_line(done.stderr)}")
        # Ranks that are workers say on the same stream where they listen.
        (result,) = (line for line in done.stdout.splitlines() if line.startswith("{"))
        sample: Sample = json.loads(result)
        return sample

    def _run_ranks(self, job: Job, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command as rank 0 of a job whose other ranks are workers."""
        threads = str(self._args.threads)
        worker = [sys.executable, "-m", "dllama", "worker", "--listen", "mpi://self"]
        words: list[str] = []
        for rank, cores in enumerate(self._cores):
            program = [*worker, "--threads", threads] if rank else command
            words += [":"] if rank else []
            words += ["-n", "1", "taskset", "-c", ",".join(map(str, sorted(cores))), *program]
        return subprocess.run(
            job.command(*words), capture_output=True, text=True, check=False,
            timeout=self._args.timeout, env=job.environment,
        )  # fmt: skip


def options(args: argparse.Namespace) -> list[str]:
    """Return the arguments that the root's process needs."""
    names = (
        "model",
        "tls",
        "mpi",
        "nodes",
        "threads",
        "prompt_tokens",
        "tokens",
        "all_reduce",
        "buffer",
    )
    given = {name: vars(args)[name] for name in names if vars(args)[name] is not None}
    return [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]


def measure(args: argparse.Namespace) -> Sample:
    """Run a prompt and decode, after a warm-up; this runs in the root's process."""
    port = PORTS["plain" if args.measure == "plain" else "TLS"]
    workers = [f"{Node('', rank, None).address()}:{port}" for rank in range(1, args.nodes)]
    transport = args.tls or ("nonblocking" if args.mpi else args.measure)
    if args.measure == "MPI":
        workers, transport = [], "mpi"
    with dllama.LLM(
        args.model, workers=workers, transport=transport, threads=args.threads,
        all_reduce=args.all_reduce, buffer=args.buffer, plain=args.measure == "plain",
    ) as llm:  # fmt: skip
        prompt = [1 + index % (llm.spec.vocab_size - 1) for index in range(args.prompt_tokens)]
        for tokens in (WARM_UP, args.tokens + 1):
            llm.reset()
            list(llm.generate(prompt, tokens, temperature=0.0, ignore_eos=True))
        return dict(llm.stats.summary())


def table(samples: list[Sample], args: argparse.Namespace) -> str:
    """Return a Markdown table: medians of both cases and of the ratios of paired runs."""
    first, second = cases(args)
    lines = [
        f"| machine | measure | {first} | {second} | {second}/{first} |",
        "|---|---|---|---|---|",
    ]
    for machine in args.machines:
        for label, key, unit in MEASURES:
            columns = (column(samples, machine, mode, key) for mode in (first, second))
            pairs = list(zip(*columns, strict=True))
            rates = [unit * statistics.median(values) for values in zip(*pairs, strict=True)]
            ratio = statistics.median(b / a if a else float("nan") for a, b in pairs)
            lines.append(f"| {machine} | {label} | {rates[0]:.2f} | {rates[1]:.2f} | {ratio:.2f} |")
    return "\n".join(lines)


def column(samples: list[Sample], machine: str, mode: str, key: str) -> list[float]:
    chosen = [s for s in samples if s["machine"] == machine and s["transport"] == mode]
    return [float(sample[key]) for sample in chosen]


def settings(args: argparse.Namespace) -> dict[str, object]:
    return {name: str(v) if isinstance(v, Path) else v for name, v in vars(args).items()}


if __name__ == "__main__":
    main()
