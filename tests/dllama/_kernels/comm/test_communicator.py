"""All-reduce and broadcast against NumPy, over links between threads."""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import pytest
from oracle import wire as oracle

from dllama import transports
from dllama._kernels.comm.communicator import Communicator
from dllama._kernels.comm.link import Link
from dllama.errors import ConfigError, TransportError, TransportTimeoutError
from dllama.options import MAX_NODES

LIMIT = 20.0


@contextlib.contextmanager
def mesh(nodes, folder):
    """Links between all pairs of nodes: links[a][b] is rank a's link to rank b."""
    transport = transports.get("unix")
    links = [[None] * nodes for _ in range(nodes)]
    with contextlib.ExitStack() as stack:
        for a in range(nodes):
            for b in range(a):
                with transport.listen(f"unix:{folder}/{a}-{b}") as listener:
                    links[a][b] = stack.enter_context(transport.connect(listener.address, LIMIT))
                    links[b][a] = stack.enter_context(listener.accept(LIMIT))
        yield links


def everywhere(links, work, **options):
    """Run work(communicator, rank) on all nodes at once; return the results by rank."""
    results, errors = [None] * len(links), []

    def run(rank):
        try:
            communicator = Communicator(links[rank], rank, **({"timeout": LIMIT} | options))
            results[rank] = work(communicator, rank)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(links))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()
    if errors:
        raise errors[0]
    return results


@pytest.mark.parametrize("algorithm", ["exchange", "two-step"])
@pytest.mark.parametrize("nodes", [2, 3, 4, 5, 8])
@pytest.mark.parametrize(
    ("dim", "wire"), [(96, "f32"), (50, "f32"), (50, "f16"), (288, "q80"), (320, "q60")]
)
def test_all_reduce(algorithm, nodes, dim, wire, rng, tmp_path):
    for T in (1, 3, 20):
        rows = rng.standard_normal((nodes, T, dim)).astype(np.float32)
        before = rng.standard_normal((T, dim)).astype(np.float32)

        def work(communicator, rank, rows=rows, before=before):
            out = before.copy()
            communicator.all_reduce(rows[rank], out)
            return out

        with mesh(nodes, tmp_path) as links:
            results = everywhere(links, work, dim=dim, max_rows=T, wire=wire, algorithm=algorithm)
        total = oracle.all_reduce(rows, wire, algorithm == "two-step")
        for result in results:
            np.testing.assert_array_equal(result, before + total)


def test_a_large_number_takes_no_bits_from_its_neighbours(rng, tmp_path):
    x = rng.standard_normal((20, 64)).astype(np.float32)
    x[:, 5] = 100

    def work(communicator, rank):
        out = np.zeros_like(x)
        communicator.all_reduce(x if rank else np.zeros_like(x), out)
        return out

    with mesh(2, tmp_path) as links:
        out = everywhere(links, work, dim=64, max_rows=20, wire="q80")[0]
    plain = oracle.rounded(x, "q80")
    assert np.square(out - x).mean() < 0.2 * np.square(plain - x)[:, :32].mean()


@pytest.mark.parametrize("nodes", [2, 3, 5])
@pytest.mark.parametrize("wire", ["f16", "q80", "q60"])
def test_what_rounding_takes_is_carried(nodes, wire, rng, tmp_path):
    """After any number of all-reduces, dst lacks only what the last of them has left."""
    calls, T, dim = 20, 3, 96
    rows = rng.standard_normal((calls, nodes, T, dim)).astype(np.float32)

    def work(communicator, rank, carries):
        out = np.zeros((T, dim), np.float32)
        for call in range(calls):
            communicator.all_reduce(rows[call, rank].copy(), out, carries=carries, begins=call == 0)
        return out

    def error(algorithm, carries):
        with mesh(nodes, tmp_path) as links:
            results = everywhere(links, lambda c, rank: work(c, rank, carries), dim=dim,
                                 max_rows=T, wire=wire, algorithm=algorithm)  # fmt: skip
        for result in results:
            np.testing.assert_array_equal(result, results[0])
        return np.sqrt(np.mean((results[0] - rows.sum((0, 1), dtype=np.float64)) ** 2)), results[0]

    results = {}
    for algorithm in ("exchange", "two-step"):
        carried, results[algorithm] = error(algorithm, True)
        rounded, _ = error(algorithm, False)
        assert carried < 0.4 * rounded
    _, results["auto"] = error("auto", True)
    if nodes > 2:  # auto rounds as a two-step all-reduce does, whatever it takes
        np.testing.assert_array_equal(results["auto"], results["two-step"])


@pytest.mark.parametrize("algorithm", ["auto", "exchange", "two-step"])
@pytest.mark.parametrize(("dim", "wire"), [(96, "f32"), (20000, "f32"), (96, "q80"), (96, "q60")])
def test_nodes_with_several_sums_and_with_none(algorithm, dim, wire, rng, tmp_path):
    """Node 0 has sums a and b, node 1 has none, node 2 has c, d, e: (a + b) + (c + (d + e))."""
    adds, counts = ((0, 1), (), (0, 0, 3)), (2, 0, 3)
    for T in (1, 7):
        sums = rng.standard_normal((5, T, dim)).astype(np.float32)
        owned = np.split(sums, np.cumsum(counts)[:-1])
        before = rng.standard_normal((T, dim)).astype(np.float32)

        def work(communicator, rank, owned=owned, before=before):
            out = before.copy()
            src = owned[rank].reshape(-1, dim) if counts[rank] else np.zeros((0, dim), np.float32)
            communicator.all_reduce(src, out, adds)
            return out

        with mesh(3, tmp_path) as links:
            results = everywhere(
                links, work, dim=dim, max_rows=T, wire=wire, algorithm=algorithm, sums=counts
            )
        a, b, c, d, e = sums
        total = (a + b) + (c + (d + e))
        for result in results:
            np.testing.assert_array_equal(result, results[0])
        if wire == "f32":
            np.testing.assert_array_equal(results[0], before + total)
        else:
            error = {"q80": 0.1, "q60": 0.4}[wire]
            np.testing.assert_allclose(results[0], before + total, atol=error)


@pytest.mark.parametrize("nodes", [2, 3, 5])
@pytest.mark.parametrize("encoding", [0, 1, 2])
def test_broadcast(nodes, encoding, rng, tmp_path):
    x = rng.standard_normal((7, 50)).astype(np.float32)
    if encoding == 1:
        x = x.astype(np.float16).astype(np.float32)
    if encoding == 2:
        x = (x.view(np.uint32) & 0xFFFF0000).view(np.float32)

    def work(communicator, rank):
        assert communicator.encoding_of(x) == encoding
        out = x.copy() if rank == 0 else np.zeros_like(x)
        communicator.broadcast(out, encoding)
        return out, communicator.traffic()

    with mesh(nodes, tmp_path) as links:
        results = everywhere(links, work, dim=50, max_rows=7, wire="f32")
    size = 7 * 50 * (2 if encoding else 4)
    for rank, (out, (sent, received)) in enumerate(results):
        np.testing.assert_array_equal(out, x)
        assert received == (size if rank else 0)
        assert rank or sent == size


@pytest.mark.parametrize("nodes", [2, 3, 4, 8])
@pytest.mark.parametrize(("wire", "block"), [("q80", 34), ("q60", 26)])
def test_bytes_sent(nodes, wire, block, tmp_path):
    dim, T, row = 1024, 5, 1024 // 32 * block
    expected = {"exchange": (nodes - 1) * row, "two-step": 2 * (nodes - 1) * row // nodes}
    for algorithm, size in expected.items():

        def work(communicator, rank):
            communicator.all_reduce(np.ones((T, dim), np.float32), np.ones((T, dim), np.float32))
            return communicator.traffic()

        with mesh(nodes, tmp_path) as links:
            options = {"dim": dim, "max_rows": T, "wire": wire, "algorithm": algorithm}
            for sent, received in everywhere(links, work, **options):
                assert sent == received
                assert abs(sent - T * size) <= 0.02 * T * size


def test_auto_takes_the_two_step_for_many_bytes(tmp_path):
    def work(communicator, rank):
        sizes = []
        for T in (1, 64):
            before = communicator.traffic()[0]
            communicator.all_reduce(np.ones((T, 256), np.float32), np.ones((T, 256), np.float32))
            sizes.append((communicator.traffic()[0] - before) // T)
        return sizes

    with mesh(4, tmp_path) as links:
        for few, many in everywhere(links, work, dim=256, max_rows=64, wire="f32"):
            assert (few, many) == (3 * 1024, 2 * 3 * 1024 // 4)


def test_a_silent_node_is_named(tmp_path):
    with mesh(3, tmp_path) as links:
        links[0][1].peer, links[0][2].peer = "worker 1", "worker 2"
        x = np.ones((1, 64), np.float32)

        def work(communicator, rank):
            if rank != 2:
                communicator.all_reduce(x, x.copy())

        with pytest.raises(TransportTimeoutError, match=r"worker 2|: no byte moved for 0.3 s"):
            everywhere(links, work, dim=64, max_rows=1, wire="f32", timeout=0.3)


def test_a_node_that_is_gone_is_named_and_stays_so(tmp_path):
    with mesh(2, tmp_path) as links:
        links[0][1].peer = "worker 1"
        links[1][0].close()
        communicator = Communicator(links[0], 0, dim=64, max_rows=1, wire="f32", timeout=LIMIT)
        for _ in range(2):
            with pytest.raises(TransportError, match="worker 1: the connection is closed"):
                communicator.all_reduce(np.ones((1, 64), np.float32), np.ones((1, 64), np.float32))
        assert (communicator.failed, communicator.failed_rank) == (True, 1)


def test_the_end_of_a_control_link_ends_a_exchange(tmp_path):
    (tmp_path / "control").mkdir()
    with mesh(2, tmp_path) as links, mesh(2, tmp_path / "control") as controls:
        watched = {1: controls[0][1]}
        communicator = Communicator(
            links[0], 0, dim=64, max_rows=1, wire="f32", timeout=LIMIT, watched=watched
        )
        controls[1][0].close()
        with pytest.raises(TransportError, match="given up, as another node failed"):
            communicator.all_reduce(np.ones((1, 64), np.float32), np.ones((1, 64), np.float32))
        assert communicator.failed_rank == 1


def test_what_is_no_group():
    with pytest.raises(ConfigError, match=f"a communicator has 2 to {MAX_NODES} nodes, found 1"):
        Communicator([None], 0, dim=64, max_rows=1, wire="f32")
    with pytest.raises(ConfigError, match="rows of 50 numbers"):
        Communicator([None, Link()], 0, dim=50, max_rows=1, wire="q80")
