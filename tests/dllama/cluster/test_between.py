"""Whoever sits between the nodes of a cluster: with TLS he reads and alters nothing unseen."""

from __future__ import annotations

import contextlib
import logging
import time

import numpy as np
import pytest
from between import Tap, own_host
from hostile import IDS, OPTIONS, SOON, Served

import dllama
from dllama.cluster import session

SECRET = b"a secret of 19 bytes"
TIMEOUT = 2.0


@pytest.fixture
def cluster(caplog, monkeypatch, tmp_path):
    """cluster(alter, plain) yields a proxy before a worker, and a function that makes its root."""
    caplog.set_level(logging.WARNING, "dllama.worker")
    monkeypatch.setattr(session, "TICK", 0.02)
    file = tmp_path / "secret"
    file.write_bytes(SECRET)

    @contextlib.contextmanager
    def made(alter=lambda caller, before, data: data, plain=False):
        worker = Served(caplog, own_host(), secret=SECRET, plain=plain)
        try:
            with Tap(worker.address, alter) as tap:
                options = {**OPTIONS, "timeout": TIMEOUT, "secret_file": file, "plain": plain}
                yield tap, lambda **more: dllama.LLM(workers=[tap.address], **options, **more)
        finally:
            worker.stop()

    return made


@pytest.mark.parametrize("transport", ["blocking", "nonblocking"])
def test_tls_changes_no_bit_and_shows_none(cluster, transport, expected):
    """A transport that is not the worker's own takes over the encryption."""
    found, seen = [], []
    for plain in (True, False):
        with cluster(plain=plain) as (tap, root_of), root_of(transport=transport) as llm:
            rows = llm._runner.root._embeddings
            found.append(llm.eval((IDS * 11)[:64]).copy())  # so many that halves take turns
            seen.append(bytes(tap.seen))
    np.testing.assert_array_equal(*found)
    row = next(iter(rows.values())).lookup(np.array(IDS[:1], np.int32))[0]
    forms = [
        row.tobytes(),
        row.astype("<f2").tobytes(),
        (row.view("<u4") >> 16).astype("<u2").tobytes(),
    ]
    assert any(form in seen[0] for form in forms)  # the first token of the prompt
    assert not any(form in seen[1] for form in forms)
    assert b'"addresses"' in seen[0]
    assert b'"addresses"' not in seen[1]
    assert SECRET not in seen[0] + seen[1]


class Flip:
    """Flips a bit of what goes one way, once, when it is armed."""

    def __init__(self, from_root: bool) -> None:
        self._from_root, self.armed, self.flipped = from_root, False, False

    def __call__(self, caller, before, data):
        if self.armed and not self.flipped and caller == self._from_root and len(data) > 200:
            self.flipped = True
            data = data[:150] + bytes([data[150] ^ 8]) + data[151:]
        return data


@pytest.mark.parametrize("from_root", [True, False], ids=["root's", "worker's"])
def test_altered_bytes_end_the_run_on_both_sides(cluster, from_root, caplog):
    flip = Flip(from_root)
    with cluster(flip) as (tap, root_of), root_of() as llm:
        llm.eval(IDS)
        flip.armed, begin = True, time.monotonic()
        with pytest.raises(dllama.DllamaError) as error:
            llm.eval(IDS)
        assert time.monotonic() - begin < TIMEOUT + SOON
        assert flip.flipped
        assert f"worker 1 ({tap.address})" in str(error.value)
        assert wait_for(caplog, "the root: the bytes were altered on their way")
    assert "altered" in str(error.value)


def wait_for(caplog, words: str) -> bool:
    end = time.monotonic() + TIMEOUT + SOON
    while not any(words in record.getMessage() for record in caplog.records):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_with_plain_altered_bytes_pass_unseen(cluster):
    """Why --plain says what it gives up."""
    flip = Flip(from_root=False)
    with cluster(flip, plain=True) as (_, root_of), root_of() as llm:
        right = llm.eval(IDS).copy()
        llm.reset()
        flip.armed = True
        wrong = llm.eval(IDS)
    assert flip.flipped
    assert (wrong != right).any()
