"""Shards on disk: whole or not there, the last ones used, and never more than allowed."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dllama.cluster.weights import shard_folder
from dllama.cluster.weights.shard_folder import ShardFolder

SIZE = 100_000
KILLED = """
import os, pathlib, signal, sys, time
from dllama.cluster.weights.shard_folder import ShardFolder
new = ShardFolder(pathlib.Path(sys.argv[1]), 1 << 20).new(200_000)
new.add(memoryview(bytes(100_000)))
time.sleep(0.1)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def warnings_only(caplog):
    caplog.set_level(logging.WARNING, "dllama.worker")


def shard(seed: int, size: int = SIZE) -> tuple[str, bytes]:
    content = np.random.default_rng(seed).bytes(size)
    return hashlib.sha256(content).hexdigest(), content


def put(folder: ShardFolder, seed: int, size: int = SIZE) -> str:
    digest, content = shard(seed, size)
    new = folder.new(size)
    for begin in range(0, size, 30_000):
        new.add(memoryview(content)[begin : begin + 30_000])
    new.finish(digest)
    new.wait(10)
    return digest


def names(path: Path) -> list[str]:
    return sorted(one.name for one in path.iterdir())


def held(path: Path) -> int:
    sizes = 0
    for folder, _, files in os.walk(path):  # folders may go meanwhile
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                sizes += Path(folder, name).stat().st_size
    return sizes


def test_a_shard_is_read_as_it_was_written(tmp_path, caplog):
    folder = ShardFolder(tmp_path / "a" / "b", 3 * SIZE)
    digest, content = shard(1)
    assert folder.open(digest, SIZE) is None
    assert put(folder, 1) == digest
    assert names(folder.path) == [f"{digest}.shard"]
    with folder.open(digest, SIZE) as file:
        assert file.read() == content
    assert folder.path.stat().st_mode & 0o077 == 0
    assert not caplog.messages


def test_only_its_user_reads_a_shard(tmp_path):
    """From the first byte on, in a folder that others may read, and without help of a umask."""
    tmp_path.chmod(0o755)
    before = os.umask(0)
    try:
        folder = ShardFolder(tmp_path, 2 * SIZE)
        new = folder.new(SIZE)
        (scratch,) = tmp_path.glob(f"{shard_folder.PREFIX}*")
        modes = {stat.S_IMODE(one.stat().st_mode) for one in (scratch, *scratch.iterdir())}
        new.abandon()
        new.wait(10)
        digest = put(folder, 1)
    finally:
        os.umask(before)
    assert modes == {0o700, 0o600}
    assert stat.S_IMODE((tmp_path / f"{digest}.shard").stat().st_mode) == 0o600


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    folder = ShardFolder(tmp_path, 3 * SIZE)
    digests = [put(folder, seed) for seed in range(3)]
    for age, digest in enumerate(digests):
        os.utime(tmp_path / f"{digest}.shard", (time.time() - 100 + age,) * 2)
    folder.open(digests[0], SIZE).close()
    last = put(folder, 3)
    assert names(tmp_path) == sorted(f"{one}.shard" for one in (digests[0], digests[2], last))
    ShardFolder(tmp_path, SIZE)  # allows less from now on
    assert names(tmp_path) == [f"{last}.shard"]


def test_too_large_a_shard_is_not_kept(tmp_path, caplog):
    folder = ShardFolder(tmp_path, 2 * SIZE)
    kept = put(folder, 1)
    assert folder.new(2 * SIZE + 1) is None
    assert names(tmp_path) == [f"{kept}.shard"]
    (line,) = caplog.messages
    assert str(tmp_path) in line
    assert "0.00 GB are more than" in line


def test_a_shard_of_another_size_is_removed(tmp_path, caplog):
    folder = ShardFolder(tmp_path, 2 * SIZE)
    digest = put(folder, 1)
    os.truncate(tmp_path / f"{digest}.shard", SIZE - 1)
    assert folder.open(digest, SIZE) is None
    assert names(tmp_path) == []
    assert caplog.messages == [
        f"{tmp_path}/{digest}.shard is damaged and removed: {SIZE - 1} bytes, expected {SIZE}"
    ]


def test_links_and_pipes_are_not_opened(tmp_path):
    folder = ShardFolder(tmp_path / "cache", 2 * SIZE)
    (tmp_path / "secret").write_bytes(bytes(SIZE))
    (folder.path / f"{'a' * 64}.shard").symlink_to(tmp_path / "secret")
    os.mkfifo(folder.path / f"{'b' * 64}.shard")
    assert folder.open("a" * 64, SIZE) is None
    assert folder.open("b" * 64, SIZE) is None


def test_nothing_is_left_of_an_abandoned_shard(tmp_path):
    folder = ShardFolder(tmp_path, 2 * SIZE)
    new = folder.new(SIZE)
    new.add(memoryview(bytes(SIZE)))
    new.abandon()
    new.wait(10)
    assert names(tmp_path) == []


def test_what_a_killed_worker_wrote_is_removed(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    (left,) = names(tmp_path)
    assert left.startswith(shard_folder.PREFIX)
    ShardFolder(tmp_path, 2 * SIZE)
    assert names(tmp_path) == []


def test_a_full_disk_costs_a_line(tmp_path, caplog):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("cannot mount a small disk (needs root)")
    try:
        folder = ShardFolder(tmp_path, 1 << 30)
        assert folder.new(2 << 20) is None
        new = folder.new(1 << 19)
        (tmp_path / "other").write_bytes(bytes(800_000))
        for _ in range(8):
            new.add(memoryview(bytes(1 << 16)))
        new.finish("a" * 64)
        new.wait(10)
        assert names(tmp_path) == ["other"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    early, late = caplog.messages
    assert "too little space" in early
    assert "No space left on device" in late


def test_a_disk_that_hangs_is_not_waited_for(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(shard_folder, "PATIENCE", 0.05)
    folder = ShardFolder(tmp_path, 1 << 30)
    goes_on = threading.Event()
    monkeypatch.setattr(shard_folder.NewShard, "_write", lambda self: goes_on.wait(10))
    new = folder.new(SIZE)
    for _ in range(100):
        new.add(memoryview(bytes(10)))
    new.finish("a" * 64)
    goes_on.set()
    new.wait(10)
    assert caplog.messages == [f"the weights are not kept in {tmp_path}: the disk is too slow"]


def test_workers_that_share_a_folder(tmp_path):
    """Their shards are whole, and together no more than allowed at any time."""
    most, sizes = 5 * SIZE, []

    def work(number: int) -> None:
        folder = ShardFolder(tmp_path, most)
        for seed in range(number, 24, 2):
            put(folder, seed % 7)
            sizes.append(held(tmp_path))
            if file := folder.open(shard((seed + 3) % 7)[0], SIZE):
                with file:
                    assert hashlib.sha256(file.read()).hexdigest() + ".shard" in file.name

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(sizes) == 24
    assert SIZE < max(sizes) <= most
    for name in names(tmp_path):
        content = (tmp_path / name).read_bytes()
        assert name == hashlib.sha256(content).hexdigest() + ".shard"
