"""What was measured is kept in a file, and measured anew where the file does not fit."""

from __future__ import annotations

import json

import pytest

from dllama.model.weight_types import WeightType
from dllama.runtime import kept_speed, speed
from dllama.runtime.kept_speed import node_speed, speed_file
from dllama.runtime.speed import KernelSpeed, NodeSpeed


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """The types of each measurement, which is made up: every one is faster than the last."""
    asked = []

    def measure(types, threads, known):
        asked.append(list(types))
        speed = KernelSpeed(1e9 * len(asked), 2e9)
        return NodeSpeed(threads, 1e-6 * len(asked), 1e-5, dict.fromkeys(types, speed))

    monkeypatch.setattr(kept_speed, "measure", measure)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
    return asked


def test_measures_once(measured):
    first = node_speed([WeightType.Q40, WeightType.F32], 2)
    assert node_speed([WeightType.F32], 2).kernels == {WeightType.F32: KernelSpeed(1e9, 2e9)}
    assert node_speed([WeightType.Q40, WeightType.F32], 2) == first
    assert measured == [[WeightType.Q40, WeightType.F32]]
    assert [path.name for path in speed_file(2).parent.iterdir()] == [speed_file(2).name]


def test_measures_only_types_that_are_missing(measured):
    node_speed([WeightType.Q40], 2)
    found = node_speed([WeightType.Q40, WeightType.Q6K], 2)
    assert measured == [[WeightType.Q40], [WeightType.Q6K]]
    assert found.kernels[WeightType.Q40].bandwidth == 1e9
    assert found.kernels[WeightType.Q6K].bandwidth == 2e9


def test_stages_and_messages_are_measured_once(monkeypatch, tmp_path):
    taken = []

    def taking(what, result):
        return lambda *_: taken.append(what) or result

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(speed, "_kernel_speed", taking("kernel", KernelSpeed(1e9, 2e9)))
    monkeypatch.setattr(speed, "_stage_seconds", taking("stage", 1e-6))
    monkeypatch.setattr(speed, "message_seconds", taking("message", 1e-5))
    node_speed([WeightType.Q40], 2)
    found = node_speed([WeightType.Q40, WeightType.Q6K], 2)
    assert taken == ["kernel", "stage", "message", "kernel"]
    assert (found.stage, found.message, len(found.kernels)) == (1e-6, 1e-5, 2)


def test_threads_and_kernels_have_files_of_their_own(measured, monkeypatch):
    node_speed([WeightType.Q40], 1)
    node_speed([WeightType.Q40], 2)
    path = speed_file(2)
    monkeypatch.setattr(kept_speed.cpu, "isa", lambda: "another")
    assert speed_file(2) != path
    monkeypatch.undo()
    monkeypatch.setattr(kept_speed, "_limits", lambda: ["50000 100000"])
    assert speed_file(2).name != path.name
    assert len(measured) == 2


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"threads": 2}', b"[" * 60000, b"{}" * 99999]
)
def test_a_broken_file_is_measured_anew(measured, caplog, content):
    path = speed_file(2)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    node_speed([WeightType.Q40], 2)
    assert f"{path}: to be measured anew: " in caplog.text
    assert NodeSpeed.from_json(json.loads(path.read_text())).threads == 2
    node_speed([WeightType.Q40], 2)
    assert len(measured) == 1


def test_a_file_of_other_threads_is_measured_anew(measured):
    node_speed([WeightType.Q40], 1)
    speed_file(1).replace(speed_file(2))
    assert node_speed([WeightType.Q40], 2).threads == 2
    assert len(measured) == 2


def test_what_another_process_has_kept_meanwhile_counts(measured, monkeypatch):
    own = kept_speed.measure

    def slow(types, threads, known):
        with monkeypatch.context() as inner:
            inner.setattr(kept_speed, "measure", own)
            node_speed(types, threads)
        return own(types, threads, known)

    monkeypatch.setattr(kept_speed, "measure", slow)
    assert node_speed([WeightType.Q40], 2).kernels[WeightType.Q40].bandwidth == 1e9
    assert len(measured) == 2


def test_goes_on_where_nothing_can_be_kept(measured, monkeypatch, caplog, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert node_speed([WeightType.Q40], 2).threads == 2
    assert "not kept: Not a directory" in caplog.text
    assert len(measured) == 1


def test_limits_of_processor_time_are_read(monkeypatch, tmp_path):
    folder = tmp_path / "cpu" / "outer" / "inner"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("40000\n")
    (folder.parent / "cpu.cfs_quota_us").write_text("-1\n")
    own = kept_speed.Path("/proc/self/cgroup")
    read = kept_speed.Path.read_text
    lines = "3:memory:/x\n2:cpuacct,cpu:/outer/inner\n0::/outer\n"
    monkeypatch.setattr(
        kept_speed.Path, "read_text", lambda path: lines if path == own else read(path)
    )
    monkeypatch.setattr(kept_speed, "CGROUPS", tmp_path)
    assert kept_speed._limits() == ["40000", "-1"]
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "cpu.max").write_text("max 100000\n")
    assert kept_speed._limits() == ["40000", "-1", "max 100000"]
