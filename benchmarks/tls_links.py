"""What TLS costs a link between two processes: latency, rate, and processor time of both ends.

    python benchmarks/tls_links.py

Over loopback TCP without a limit, with TLS and without in turns. A round trip sends as much as a
decoded token does in one all-reduce, and as much as a prompt.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from multiprocessing.connection import Connection

from dllama import transports
from dllama._kernels.comm.link import Link
from dllama.transports import tls

SIZES = (64, 4352, 17 << 10, 136 << 10)  # bytes of a message
BULK = 1 << 20  # bytes of a message, to measure the rate
CALM = 30.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--transport", default="nonblocking")
    parser.add_argument("--round-trips", type=int, default=2000)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    runs: dict[bool, list[list[float]]] = {False: [], True: []}
    for _ in range(args.repeats):
        for encrypted in runs:
            runs[encrypted].append(measure(args, encrypted))
    labels = [f"one way, {size} bytes, us" for size in SIZES]
    labels += ["rate, MB/s", "processor time of both ends, ms per MB"]
    print("| measure | plain | TLS |\n|---|---|---|")
    for label, plain, secure in zip(labels, *(medians(runs[e]) for e in runs), strict=True):
        print(f"| {label} | {plain:.2f} | {secure:.2f} |")


def medians(runs: list[list[float]]) -> list[float]:
    return [statistics.median(values) for values in zip(*runs, strict=True)]


def measure(args: argparse.Namespace, encrypted: bool) -> list[float]:
    """Return the values of the table, in its order."""
    transport = transports.get(args.transport)
    near_end, far_end = multiprocessing.Pipe()
    process = multiprocessing.Process(target=answer, args=(far_end, args, encrypted))
    process.start()
    try:
        with transport.connect(near_end.recv(), CALM) as link:
            link.timeout = CALM
            if encrypted:
                tls.secure(link, caller=True)
            found = [latency(link, size, args.round_trips) for size in SIZES]
            begin, used = time.perf_counter(), time.process_time()
            for _ in range(args.megabytes):
                link.send(bytes(BULK))
            link.recv_into(bytearray(1))
            seconds = time.perf_counter() - begin
            used = time.process_time() - used + near_end.recv()
    finally:
        process.join(CALM)
    megabytes = args.megabytes * BULK / 1e6
    return [*found, megabytes / seconds, used * 1e3 / megabytes]


def latency(link: Link, size: int, rounds: int) -> float:
    """Return the microseconds of half a round trip."""
    data, back = os.urandom(size), bytearray(size)
    begin = time.perf_counter()
    for _ in range(rounds):
        link.send(data)
        link.recv_into(back)
    return (time.perf_counter() - begin) * 1e6 / 2 / rounds


def answer(pipe: Connection, args: argparse.Namespace, encrypted: bool) -> None:
    """Send everything back, then take the bulk."""
    with transports.get(args.transport).listen("127.0.0.1:0") as listener:
        pipe.send(listener.address)
        link = listener.accept(CALM)
    assert link is not None
    with link:
        link.timeout = CALM
        if encrypted:
            tls.secure(link, caller=False)
        for size in SIZES:
            data = bytearray(size)
            for _ in range(args.round_trips):
                link.recv_into(data)
                link.send(data)
        used, bulk = time.process_time(), bytearray(BULK)
        for _ in range(args.megabytes):
            link.recv_into(bulk)
        link.send(b"x")
        pipe.send(time.process_time() - used)


if __name__ == "__main__":
    main()
