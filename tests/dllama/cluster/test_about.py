"""What a worker tells about itself, free and busy, and what a caller makes of nonsense."""

from __future__ import annotations

import json

import pytest
from hostile import GREETING, Between, frame, root_of

import dllama
from dllama import transports
from dllama._kernels import cpu
from dllama.cluster import about, names, protocol
from dllama.cluster.about import MAX_FILL, About
from dllama.cluster.protocol import HEADER, HELLO, Kind
from dllama.model.weight_types import WeightType
from dllama.runtime.kept_file import write_kept
from dllama.runtime.kept_speed import speed_file
from dllama.runtime.speed import KernelSpeed, NodeSpeed

SECRET = b"a secret of 19 bytes"


def told(address: str, fill: int = 0) -> About:
    with transports.get("blocking").connect(address, 5.0) as link:
        link.timeout = 5.0
        protocol.greet(link, None, caller=True)
        return about.ask(link, fill)


def test_a_worker_tells_what_it_has_and_whom_it_serves(served):
    served._worker.name = "pi-2"
    free = told(served.address)
    assert (free.name, free.busy, free.root, free.threads) == ("pi-2", False, "", 1)
    assert (free.cores, free.kernels) == (len(cpu.cores()), cpu.isa())
    assert free.version == dllama.__version__
    assert free.memory > free.available > 1 << 20
    with root_of(served.address):
        busy = told(served.address, MAX_FILL)
        assert (busy.busy, busy.root) == (True, names.host_name())
    assert served.complaints(0) == []


def test_a_worker_tells_the_speed_that_it_has_kept(served, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert told(served.address).bandwidth == 0
    assert not list(tmp_path.rglob("*.json"))
    kernels = {
        kind: KernelSpeed(bandwidth, 1e11)
        for kind, bandwidth in ((WeightType.Q40, 8e9), (WeightType.Q80, 9e9), (WeightType.F32, 7e9))
    }
    write_kept(speed_file(1), NodeSpeed(1, 1e-6, 1e-5, kernels).as_json())
    assert told(served.address).bandwidth == 9e9
    speed_file(1).write_text("{}")
    assert told(served.address).bandwidth == 0


def test_names_are_in_messages_of_both_sides(served, caplog):
    served._worker.name = "pi-2"
    llm = root_of(served.address)
    (member,) = llm._runner.root._coordinator.members
    assert member.name == member.control.peer == f"worker 1 (pi-2, {served.address})"
    protocol.send(member.control, Kind.RUN, b"")
    with pytest.raises(dllama.ProtocolError, match=r"^worker 1 \(pi-2, 127.0.0.1:\d+\): root \("):
        llm.ping()
    llm.close()
    (complaint,) = served.complaints()
    assert complaint.startswith(f"session ended: root ({names.host_name()}, 127.0.0.1:")
    assert complaint.count("127.0.0.1") == 1


@pytest.mark.parametrize("fill", [-1, MAX_FILL + 1, 10**30, "1", None, True, 1.0])
def test_a_worker_refuses_other_questions(served, fill):
    reply = served.hear(GREETING + frame(Kind.ABOUT, {"fill": fill}))[HELLO.size :]
    kind, length = HEADER.unpack(reply[: HEADER.size])
    assert kind == Kind.ERROR
    assert "fill is" in json.loads(reply[HEADER.size :])["message"]
    assert length < 400
    assert len(served.complaints()) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 7), ("cores", 0), ("cores", "4"), ("threads", 1 << 20), ("memory", -1),
        ("available", 1 << 70), ("busy", 1), ("root", None), ("kernels", []),
        ("bandwidth", -1.0), ("bandwidth", None), ("bandwidth", 1e19),
    ],
)  # fmt: skip
def test_a_caller_refuses_wrong_replies(served, field, value):
    def change(sender, kind, content):
        if kind != Kind.REPLY:
            return None
        return frame(kind, {**json.loads(content), field: value})

    with (
        Between(served.address, change) as between,
        pytest.raises(dllama.ProtocolError, match=field) as error,
    ):
        told(between.address)
    assert between.address in str(error.value)


def test_texts_of_a_reply_are_cleaned():
    here = About.here("pi", 1, None).as_json()
    dirty = {"name": "a\nb, (c)", "version": "1.2\x1b[0m", "kernels": "avx\u202e" * 99, "root": "("}
    found = About.from_json({**here, **dirty}, "x")
    assert (found.name, found.version, found.root) == ("ab c", "1.20m", "")
    assert len(found.kernels) == 63
