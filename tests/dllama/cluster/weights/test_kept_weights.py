"""Workers that keep shards on disk: sent once, checked when read, never another root's weights."""

from __future__ import annotations

import contextlib
import hashlib
import struct
import time
import zlib

import numpy as np
import pytest
from hostile import CALM, IDS, ROOT, WORKER, Between, Served, frame, instead, root_of
from made_speeds import keep_speeds

import dllama
from dllama.cluster.protocol import Kind
from dllama.cluster.weights import kept_weights, sent_weights
from dllama.cluster.weights.shard_folder import ShardFolder


@pytest.fixture
def start(caplog, tmp_path, monkeypatch):
    """start() returns a new worker that keeps shards in a folder; those before it end."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "notes"))
    keep_speeds()
    monkeypatch.setattr(sent_weights, "_noted", {})
    with contextlib.ExitStack() as ends:

        def new() -> Served:
            ends.close()
            caplog.clear()
            one = Served(caplog, folder=ShardFolder(tmp_path / "shards", 1 << 30))
            ends.callback(one.stop)
            return one

        yield new


@pytest.fixture
def shards(tmp_path):
    """shards() returns the files in the folder, once they are written."""

    def found():
        end = time.monotonic() + CALM
        while not (files := list((tmp_path / "shards").glob("*.shard"))):
            assert time.monotonic() < end
            time.sleep(0.005)
        return files

    return found


def evaluate(served: Served, change=lambda *_: None):
    """Return the logits of a root, and the messages about weights."""
    seen = []

    def record(sender, kind, content):
        if kind in (Kind.TENSOR, Kind.WEIGHTS):
            seen.append((kind, content))
        return change(sender, kind, content)

    with Between(served.address, record) as between, root_of(between.address) as llm:
        return llm.eval(IDS), seen


def kinds(seen) -> set[int]:
    return {kind for kind, _ in seen}


def right(logits, expected) -> bool:
    return bool(np.abs(logits - expected).max() < 0.05 * expected.std())


def test_a_worker_that_starts_again_has_its_weights(start, shards, expected):
    first, seen = evaluate(start())
    assert kinds(seen) == {Kind.TENSOR}
    (path,) = shards()
    sent = b"".join(content[:-4] for _, content in seen)
    assert path.read_bytes() == sent
    assert path.stem == hashlib.sha256(sent).hexdigest()

    served = start()
    for _ in range(2):  # from disk, then from memory
        again, seen = evaluate(served)
        assert kinds(seen) == {Kind.WEIGHTS}
        assert np.array_equal(again, first)
    assert right(first, expected)
    assert served.complaints(0, 0) == []


@pytest.mark.parametrize("damage", ["changed", "cut"])
def test_a_damaged_shard_is_sent_again(start, shards, expected, damage):
    evaluate(start())
    (path,) = shards()
    whole = path.read_bytes()
    middle = len(whole) // 2
    changed = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    path.write_bytes(changed if damage == "changed" else whole[:middle])
    served = start()
    logits, seen = evaluate(served)
    assert Kind.TENSOR in kinds(seen)
    assert right(logits, expected)
    (line,) = served.complaints()
    assert f"{path} is damaged and removed" in line
    (path,) = shards()
    assert path.read_bytes() == whole


def test_a_root_cannot_give_a_worker_weights_for_another_root(start, shards, expected):
    """It sends other weights than those whose name it says."""
    evaluate(start())
    (path,) = shards()
    path.unlink()

    def poison(sender, kind, content):
        if (sender, kind) != (ROOT, Kind.TENSOR):
            return None
        rows = content[:-4].translate(bytes.maketrans(b"\x55", b"\x66"))
        return frame(kind, rows + struct.pack("<I", zlib.crc32(rows)))

    served = start()
    logits, _ = evaluate(served, poison)
    assert not right(logits, expected)
    assert [one.stem for one in shards()] != [path.stem]
    assert right(evaluate(served)[0], expected)
    logits, seen = evaluate(start())
    assert right(logits, expected)
    assert kinds(seen) == {Kind.WEIGHTS}


def test_a_root_without_notes_sends(start, shards, monkeypatch):
    served = start()
    evaluate(served)
    shards()
    sent_weights.notes_file().write_text("[")
    monkeypatch.setattr(sent_weights, "_noted", {})
    assert kinds(evaluate(served)[1]) == {Kind.TENSOR}
    assert kinds(evaluate(served)[1]) == {Kind.WEIGHTS}


def test_reading_may_take_longer_than_the_timeout(start, shards, monkeypatch):
    evaluate(start())
    shards()
    read = kept_weights.FileShard.read

    def slowly(self, piece, kind):
        time.sleep(0.05)
        yield from read(self, piece, kind)

    monkeypatch.setattr(kept_weights.FileShard, "read", slowly)
    served, begin = start(), time.monotonic()
    with root_of(served.address, timeout=0.4) as llm:
        assert time.monotonic() - begin > 0.8
        llm.eval(IDS)


@pytest.mark.parametrize("content", [{"loaded": 0}, {"loaded": 1 << 60}, {"have": 1}, {}])
def test_a_worker_that_reads_for_ever_is_given_up(start, shards, content):
    evaluate(start())
    shards()
    change = instead(WORKER, Kind.WEIGHTS, frame(Kind.WEIGHTS, content))
    with (
        Between(start().address, change) as between,
        pytest.raises(dllama.ProtocolError, match=r"worker 1 \(.*WEIGHTS is not as expected"),
    ):
        root_of(between.address)


@pytest.mark.parametrize("name", ["../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_only_a_digest_is_a_name(served, monkeypatch, name):
    monkeypatch.setattr(sent_weights.SentWeights, "digest", lambda *_: name)
    with pytest.raises(dllama.ProtocolError, match=r"weights: found .* expected 64 digits"):
        root_of(served.address)
