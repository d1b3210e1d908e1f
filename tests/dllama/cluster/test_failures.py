"""Nodes that die, hang, or are not what they seem: one clear error in time names the worker, and
those that are left serve the next root.

DLLAMA_KILLS: how many times nodes are killed at random moments.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import pytest

import dllama
from dllama import settings
from dllama.cluster import protocol
from dllama.errors import TransportTimeoutError

KILLS = int(os.environ.get("DLLAMA_KILLS", "5"))
TIMEOUT = 1.5
SOON = 2.5  # seconds that a busy machine may add to any time limit
CALM = 20.0  # a timeout for what is answered at once
AT_ONCE = 8.0  # seconds that a busy machine may take for it
STARTING = 30.0  # seconds that Python may take to start
TRANSPORTS = ("blocking", "nonblocking", "unix")
PROMPT = "ROMEO:\n"
IDS = [5, 9, 17, 300, 41, 2]
ROOT = """
import sys, dllama
print("begin", flush=True)
with dllama.LLM(sys.argv[1], workers=sys.argv[2:], threads=1, timeout=1.5) as llm:
    while True:
        llm.reset()
        for token in llm.generate("ROMEO:\\n", ignore_eos=True):
            print(token.id, flush=True)
"""

# Passes with more threads than cores, whose first transfer fails at once.
LOST_AT_ONCE = """
import sys
import numpy as np
from dllama import settings, transports
from dllama.errors import TransportError
from dllama.model.file import ModelFile
from dllama.runtime.node import Node, communicator_of, graph_of
from dllama.run_config import RunConfig
from dllama.graph.weights import load_weights

model = ModelFile.open(settings.DEMO / "model.m")
config = RunConfig((1, 1), seq_len=16, half=False, batch=4, logits=1, buffer="f32")
graph = graph_of(model.spec, config, 0)
weights = load_weights(model, graph, 1)
for round in range(50):
    with transports.get("unix").listen(f"unix:{sys.argv[1]}/{round}") as listener:
        link = transports.get("unix").connect(listener.address, 5.0)
        listener.accept(5.0).close()
    communicator = communicator_of(graph, config, [None, link], 0, {})
    node = Node(graph, weights, config, 8, communicator)
    try:
        node.run(np.zeros(1, np.int32), 0, 0)
        sys.exit("no error")
    except TransportError:
        link.close()
"""

pytestmark = pytest.mark.slow


class WorkerProcess:
    """`dllama worker` as a process of its own."""

    def __init__(self, folder: Path, number: int, transport: str, secret: str, options) -> None:
        listen = f"unix:{folder}/{number}.sock" if transport == "unix" else "127.0.0.1:0"
        self._log = folder / f"{number}.log"
        self._address = ""
        command = [sys.executable, "-m", "dllama", "worker", "--listen", listen]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*command, "--threads", "1", *options],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "DLLAMA_SECRET": secret},
            )

    @property
    def address(self) -> str:
        """Where it listens, once it does."""
        if not self._address:
            self._address = first_line(self._process).removeprefix("listening at ")
        return self._address

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def alive(self) -> bool:
        return self._process.poll() is None

    def complaints(self) -> list[str]:
        """All lines of the log that are not mere information."""
        lines = self._log.read_text().splitlines()
        return [line for line in lines if not line.startswith("dllama: INFO:")]

    def stop(self) -> None:
        with self._process as process:
            process.kill()


@pytest.fixture
def start(tmp_path_factory):
    """start(count, transport) gives new worker processes."""
    folder = tmp_path_factory.mktemp("w")
    started = []

    def new(count=1, transport="blocking", secret="", options=()):
        workers = [
            WorkerProcess(folder, len(started) + i, transport, secret, options)
            for i in range(count)
        ]
        started.extend(workers)
        assert all(worker.address for worker in workers)
        return workers

    yield new
    for worker in started:
        worker.stop()


@pytest.fixture(autouse=True)
def no_secret(monkeypatch):
    monkeypatch.delenv("DLLAMA_SECRET", raising=False)


@pytest.fixture(scope="module")
def expected():
    """Logits of one node."""
    with dllama.LLM(threads=1) as llm:
        return llm.eval(IDS)


@pytest.fixture
def model(tmp_path):
    """A copy of the demo model, which forget() makes another one for workers."""
    return Path(shutil.copytree(settings.DEMO, tmp_path / "model"))


def forget(model: Path) -> None:
    """Make the model one whose weights no worker has."""
    file = model / "model.m"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1_000_000_000))


def first_line(process: subprocess.Popen) -> str:
    ready, _, _ = select.select([process.stdout], [], [], STARTING)
    assert ready, "the process says nothing"
    return process.stdout.readline().strip()


def addresses(workers) -> list[str]:
    return [worker.address for worker in workers]


def name(rank: int, address: str) -> str:
    """How errors name a worker, as a pattern."""
    return re.escape(f"worker {rank} ({address})")


def wait_until(condition, seconds: float) -> bool:
    """Whether a condition comes true within some seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def check_service(workers, expected, seconds=TIMEOUT + AT_ONCE, **options) -> None:
    """Workers serve a root correctly, soon if they have not yet noticed the end of another."""
    options = {"threads": 1, "timeout": CALM, "buffer": "f32", **options}
    end = time.monotonic() + seconds
    while True:
        try:
            with dllama.LLM(workers=addresses(workers), **options) as llm:
                error = np.abs(llm.eval(IDS) - expected).max()
            break
        except dllama.ProtocolError as refusal:
            if "serves another root" not in str(refusal) or time.monotonic() > end:
                raise
            time.sleep(0.01)
    assert error < 0.05 * expected.std()


def talk(llm: dllama.LLM, seconds: float = 30.0) -> None:
    """Generate texts until an error comes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        llm.reset()
        for _ in llm.generate(PROMPT, ignore_eos=True):
            pass


class Later:
    """Does something some seconds later; at: when it did."""

    def __init__(self, seconds: float, action) -> None:
        self.at = float("inf")
        self._action = action
        self._timer = threading.Timer(seconds, self._do)

    def _do(self) -> None:
        self.at = time.monotonic()
        self._action()

    def __enter__(self):
        self._timer.start()
        return self

    def __exit__(self, *error):
        self._timer.cancel()
        self._timer.join()


@contextlib.contextmanager
def stranger(answer: bytes | None):
    """Address of a listener that answers every connection with some bytes; None: never."""
    taken = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                taken.append(server.accept()[0])
                taken[-1].sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        if answer is not None:
            thread.start()
        try:
            yield "{}:{}".format(*server.getsockname())
        finally:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            if answer is not None:
                thread.join(5)
            for connection in taken:
                connection.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("rank", [1, 2])
def test_killed_worker_is_named_at_once(start, expected, transport, rank):
    workers = start(2, transport)
    victim = workers[rank - 1]
    options = {"transport": transport, "threads": 1, "timeout": CALM}
    with dllama.LLM(workers=addresses(workers), **options) as llm:
        talk_a_little = llm.generate(PROMPT, ignore_eos=True)
        assert next(talk_a_little).id >= 0
        with (
            Later(0.1, lambda: victim.signal(signal.SIGKILL)) as kill,
            pytest.raises(dllama.TransportError, match=name(rank, victim.address)),
        ):
            talk(llm)
        assert time.monotonic() - kill.at < AT_ONCE
        with pytest.raises(dllama.DllamaError):
            llm.eval(IDS)
    survivors = [worker for worker in workers if worker is not victim]
    check_service(survivors, expected)
    for worker in survivors:  # none where the root noticed it first, and let the others go
        assert len(worker.complaints()) <= 1


@pytest.mark.parametrize("rank", [1, 2])
def test_killed_local_worker_is_named_and_nothing_is_left(rank, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with dllama.LLM(nodes=3, threads=1, timeout=CALM) as llm:
        pids = llm._root.worker_pids
        with (
            Later(0.1, lambda: os.kill(pids[rank - 1], signal.SIGKILL)) as kill,
            pytest.raises(dllama.TransportError, match=rf"worker {rank} \(unix:"),
        ):
            talk(llm)
        assert time.monotonic() - kill.at < AT_ONCE
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_dies_while_nothing_is_evaluated_is_found_by_a_ping():
    with dllama.LLM(nodes=3, threads=1) as llm:
        llm.ping()
        expected = llm.eval(IDS)
        llm.ping()
        llm.reset()
        assert (llm.eval(IDS) == expected).all()
        os.kill(llm._root.worker_pids[1], signal.SIGKILL)
        with pytest.raises(dllama.TransportError, match=r"worker 2 \(unix:"):
            llm.ping()
        with pytest.raises(dllama.ModelError, match="cannot go on"):
            llm.eval(IDS)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("rank", [1, 2])
def test_stopped_worker_is_named_within_the_timeout(start, expected, transport, rank):
    workers = start(2, transport)
    victim = workers[rank - 1]
    options = {"transport": transport, "threads": 1, "timeout": TIMEOUT}
    with (
        dllama.LLM(workers=addresses(workers), **options) as llm,
        Later(0.1, lambda: victim.signal(signal.SIGSTOP)) as stop,
    ):
        with pytest.raises(dllama.TransportError, match=name(rank, victim.address)):
            talk(llm)
        assert time.monotonic() - stop.at < TIMEOUT + SOON
    check_service([worker for worker in workers if worker is not victim], expected)
    victim.signal(signal.SIGCONT)
    check_service([victim], expected)
    for worker in workers:
        assert len(worker.complaints()) <= 1


@pytest.mark.parametrize("rank", [1, 2])
def test_worker_stopped_between_passes_is_named_within_the_timeout(start, rank):
    workers = start(2)
    with dllama.LLM(workers=addresses(workers), threads=1, timeout=TIMEOUT) as llm:
        llm._root.run(IDS, 0, len(IDS) - 1, protocol.Want.TOP)
        shards = llm._root.shards()
        workers[rank - 1].signal(signal.SIGSTOP)
        begin = time.monotonic()
        with pytest.raises(dllama.TransportError, match=name(rank, workers[rank - 1].address)):
            shards.best(5)
        assert time.monotonic() - begin < TIMEOUT + SOON


def test_nobody_waits_for_the_words_of_the_worker_that_all_blame(start):
    workers = start(2)
    with dllama.LLM(workers=addresses(workers), threads=1, timeout=TIMEOUT) as llm:
        llm.eval(IDS)
        for member in llm._root._cluster.members:
            member.control.timeout = 200.0  # of which a fifth is for last words
        workers[1].signal(signal.SIGSTOP)
        begin = time.monotonic()
        with pytest.raises(TransportTimeoutError, match=name(2, workers[1].address)):
            llm.eval(IDS)
        assert time.monotonic() - begin < 30.0


def test_worker_stopped_before_the_start_is_named(start, expected):
    workers = start(2)
    workers[1].signal(signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(TransportTimeoutError, match=name(2, workers[1].address)) as held:
        dllama.LLM(workers=addresses(workers), threads=1, timeout=TIMEOUT)
    assert time.monotonic() - begin < TIMEOUT + SOON
    check_service(workers[:1], expected, seconds=AT_ONCE)
    workers[1].signal(signal.SIGCONT)
    check_service(workers, expected)
    assert held.value is not None


def test_workers_outlive_a_root_killed_in_a_token(start, expected):
    workers = start(2)
    for count in (1, 2, 3):
        command = [sys.executable, "-c", ROOT, str(settings.DEMO), *addresses(workers)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as root:
            for _ in range(2 + 10 * count):
                assert first_line(root)
            root.kill()
        check_service(workers, expected)
        for worker in workers:
            assert len(worker.complaints()) == count


def test_local_workers_leave_when_their_root_is_killed(tmp_path):
    script = ROOT.replace("workers=sys.argv[2:]", "nodes=3")
    command = [sys.executable, "-c", script, str(settings.DEMO)]
    mark = uuid.uuid4().hex
    environment = {**os.environ, "TMPDIR": str(tmp_path), "DLLAMA_TEST_MARK": mark}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as root:
        for _ in range(10):
            assert first_line(root)
        assert len(marked(mark)) == 3
        root.kill()
    assert wait_until(lambda: not marked(mark), TIMEOUT + SOON)


def test_worker_that_cannot_be_reached_is_named(start, expected):
    (worker,) = start()
    with socket.socket() as bound:  # but not listening
        bound.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*bound.getsockname())
        begin = time.monotonic()
        with pytest.raises(dllama.TransportError, match=f"worker 2.*{address}.*refused") as held:
            dllama.LLM(workers=[worker.address, address], threads=1, timeout=CALM)
        assert time.monotonic() - begin < AT_ONCE
    check_service([worker], expected, seconds=AT_ONCE)
    assert held.value is not None


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (None, TransportTimeoutError, "no byte moved for 0.5 s"),
        (protocol.MAGIC[:5], TransportTimeoutError, "no byte moved for 0.5 s"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", dllama.ProtocolError, "does not speak dllama's"),
        (bytes(100), dllama.ProtocolError, "does not speak dllama's"),
        (
            protocol.HELLO.pack(protocol.MAGIC, protocol.VERSION + 1, 0, bytes(16)),
            dllama.ProtocolError,
            f"speaks version {protocol.VERSION + 1} of the protocol",
        ),
    ],
    ids=["silent", "half a hello", "http", "zeros", "version"],
)
def test_stranger_in_place_of_a_worker_is_named(start, expected, answer, error, words):
    (worker,) = start()
    with stranger(answer) as address:
        begin = time.monotonic()
        with pytest.raises(error, match=f"{name(2, address)}.*{words}") as held:
            dllama.LLM(workers=[worker.address, address], threads=1, timeout=0.5)
        assert time.monotonic() - begin < 0.5 + SOON
    check_service([worker], expected, seconds=AT_ONCE)
    assert held.value is not None


def test_root_of_another_version_is_refused_with_one_line(start, expected):
    (worker,) = start()
    host, port = worker.address.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(protocol.HELLO.pack(protocol.MAGIC, 99, 0, bytes(16)))
        while connection.recv(1 << 16):
            pass
    check_service([worker], expected)
    (line,) = worker.complaints()
    assert "speaks version 99" in line


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        ("right", "", "asks for a secret"),
        ("", "right", "has no secret"),
        ("right", "wrong", "has another secret"),
    ],
    ids=["missing here", "missing there", "another"],
)
@pytest.mark.parametrize("way", ["environment", "file"])
def test_secrets_that_do_not_match(
    start, expected, tmp_path, monkeypatch, theirs, ours, words, way
):
    file = tmp_path / "secret"
    file.write_text(f" {ours}\n")
    if way == "file" and theirs:
        (tmp_path / "theirs").write_text(theirs)
        (worker,) = start(options=["--secret-file", str(tmp_path / "theirs")])
    else:
        (worker,) = start(secret=theirs)
    options = {}
    if way == "file" and ours:
        options = {"secret_file": file}
    elif ours:
        monkeypatch.setenv("DLLAMA_SECRET", ours)
    begin = time.monotonic()
    with pytest.raises(dllama.AuthenticationError, match=f"{name(1, worker.address)} {words}"):
        dllama.LLM(workers=[worker.address], threads=1, timeout=CALM, **options)
    assert time.monotonic() - begin < AT_ONCE
    assert wait_until(lambda: len(worker.complaints()) == 1, AT_ONCE)
    file.write_text(f"{theirs}\n")
    monkeypatch.delenv("DLLAMA_SECRET", raising=False)
    check_service([worker], expected, secret_file=file if theirs else None)
    assert len(worker.complaints()) == 1


def test_busy_worker_says_so_and_goes_on(start):
    (worker,) = start()
    with dllama.LLM(workers=[worker.address], threads=1, timeout=CALM) as first:
        before = first.eval(IDS)
        begin = time.monotonic()
        with pytest.raises(dllama.ProtocolError, match=name(1, worker.address)) as refusal:
            dllama.LLM(workers=[worker.address], threads=1, timeout=CALM)
        assert "serves another root" in str(refusal.value)
        assert time.monotonic() - begin < AT_ONCE
        first.reset()
        np.testing.assert_array_equal(first.eval(IDS), before)
    assert len(worker.complaints()) == 1


def test_a_root_may_follow_another_at_once(start):
    workers = start(2)
    for _ in range(20):
        with dllama.LLM(workers=addresses(workers), threads=1, timeout=CALM) as llm:
            assert np.isfinite(llm.eval(IDS)).all()
    assert all(worker.complaints() == [] for worker in workers)


def test_ctrl_c_of_a_worker_is_no_error(start):
    (worker,) = start()
    worker.signal(signal.SIGINT)
    assert wait_until(lambda: not worker.alive(), AT_ONCE)
    assert worker.complaints() == []


def marked(mark: str) -> list[int]:
    """Processes whose environment has a mark."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
    return found


@pytest.fixture
def local_run(tmp_path):
    """local_run() starts `dllama run` with local workers; what it leaves is checked at the end."""
    mark = uuid.uuid4().hex

    def run() -> subprocess.Popen:
        command = [sys.executable, "-m", "dllama", "run", "--nodes", "3", "--threads", "1"]
        return subprocess.Popen(
            [*command, "--steps", "480", "--ignore-eos"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": str(tmp_path), "DLLAMA_TEST_MARK": mark},
        )

    yield run
    left, files = marked(mark), list(tmp_path.iterdir())
    for pid in left:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    assert (left, files) == ([], [])


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at /proc")
def test_ctrl_c_leaves_nothing(local_run):
    with local_run() as root:
        assert len(root.stdout.read(10)) == 10
        root.send_signal(signal.SIGINT)
        begin = time.monotonic()
        root.stdout.read()
        assert root.wait(10) == 130
    assert time.monotonic() - begin < AT_ONCE


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at /proc")
def test_no_thread_waits_for_one_that_saw_a_failure_early(tmp_path):
    """A thread that is late at a barrier sees that the step behind it has failed."""
    command = [sys.executable, "-c", LOST_AT_ONCE, str(tmp_path)]
    subprocess.run(command, check=True, timeout=STARTING + 30)


def test_ctrl_c_at_any_moment_leaves_nothing(local_run):
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    for _ in range(KILLS):
        delay = moments.uniform(0.1, 0.8)
        with local_run() as root, Later(delay, lambda root=root: root.send_signal(signal.SIGINT)):
            root.stdout.read()
            status = root.wait(STARTING)
        assert status in (0, 130, -signal.SIGINT), f"seed {seed}, delay {delay}"


def moment(moments: random.Random) -> float:
    """Seconds: often during the start of a root, else later."""
    return moments.uniform(0.0, 0.06 if moments.random() < 0.7 else 0.3)


def test_worker_killed_at_any_moment(start, expected, model):
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    workers = start(2)
    options = {"threads": 1, "timeout": TIMEOUT}
    for round in range(KILLS):
        rank, delay = moments.randint(1, 2), moment(moments)
        case = f"seed {seed}, round {round}: worker {rank} killed after {delay:.4f} s"
        victim, survivor = workers[rank - 1], workers[2 - rank]
        forget(model)
        with (
            pytest.raises((dllama.TransportError, dllama.ProtocolError)) as error,
            Later(delay, lambda victim=victim: victim.signal(signal.SIGKILL)) as kill,
            dllama.LLM(model, workers=addresses(workers), **options) as llm,
        ):
            talk(llm)
        assert f"worker {rank}" in str(error.value), f"{case}: {error.value}"
        assert time.monotonic() - kill.at < TIMEOUT + SOON, case
        try:
            check_service([survivor], expected)
        except Exception as error:
            pytest.fail(f"{case}: then {error!r}")
        workers[rank - 1] = start()[0]


def test_root_killed_at_any_moment(start, expected, model):
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    workers = start(2)
    for round in range(KILLS):
        delay = 2 * moment(moments)
        case = f"seed {seed}, round {round}: root killed after {delay:.4f} s"
        forget(model)
        command = [sys.executable, "-c", ROOT, str(model), *addresses(workers)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as root:
            assert first_line(root) == "begin"
            with Later(delay, root.kill):
                root.stdout.read()
        try:
            check_service(workers, expected)
        except Exception as error:
            pytest.fail(f"{case}: then {error!r}")
        complaints = [worker.complaints() for worker in workers]
        assert all(len(lines) <= round + 1 for lines in complaints), f"{case}: {complaints}"
