"""Folders for work in progress: none is left, and none that is used is removed."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dllama import scratch
from dllama.scratch import Scratch, locked, put, sweep

PREFIX = ".model.dllama-"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def left_behind(folder: Path, name: str) -> Path:
    """A folder as a killed process leaves it."""
    path = folder / name
    path.mkdir()
    (path / "model.m").write_bytes(b"half")
    os.utime(path, (time.time() - 100,) * 2)
    return path


def test_only_what_nobody_uses_is_swept(tmp_path):
    left_behind(tmp_path, f"{PREFIX}abcd_123")
    others = ["old.dllama-abcd_123", f"{PREFIX}abcd_123.x", ".model2.dllama-abcd_123"]
    for name in others:
        left_behind(tmp_path, name)
    (tmp_path / f"{PREFIX}abcdefgh").write_text("a file")
    (tmp_path / f"{PREFIX}abcdefgi").symlink_to(tmp_path / others[0])
    with Scratch(tmp_path, PREFIX) as used:
        os.utime(used.path, (time.time() - 100,) * 2)
        sweep(tmp_path, PREFIX)
        kept = [*others, f"{PREFIX}abcdefgh", f"{PREFIX}abcdefgi"]
        assert names(tmp_path) == sorted([*kept, used.path.name])
        (used.path / "model.m").write_text("half")
    assert names(tmp_path) == sorted(kept)


def test_a_young_folder_is_not_swept(tmp_path):
    (tmp_path / f"{PREFIX}abcdefgh").mkdir()
    sweep(tmp_path, PREFIX)
    assert names(tmp_path) == [f"{PREFIX}abcdefgh"]


@pytest.mark.parametrize("at_once", [True, False], ids=["exchange", "two renames"])
def test_a_folder_takes_the_place_of_another(at_once, tmp_path, monkeypatch):
    if not at_once:
        monkeypatch.setattr(scratch.ctypes, "CDLL", lambda *_, **__: None)
    new, target = tmp_path / "new", tmp_path / "model"
    for folder, text in ((new, "new"), (target, "old")):
        folder.mkdir()
        (folder / "model.m").write_text(text)
    put(new, target)
    assert (target / "model.m").read_text() == "new"
    assert (new / "model.m").read_text() == "old"
    assert names(tmp_path) == ["model", "new"]


def test_the_old_folder_stays_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    new, target = tmp_path / "new", tmp_path / "model"
    for folder, text in ((new, "new"), (target, "old")):
        folder.mkdir()
        (folder / "model.m").write_text(text)
    monkeypatch.setattr(scratch.ctypes, "CDLL", lambda *_, **__: None)
    rename = Path.rename

    def refusing(path: Path, to: Path) -> Path:
        if path == new:
            raise PermissionError
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(PermissionError):
        put(new, target)
    assert (target / "model.m").read_text() == "old"


def test_a_lock_keeps_others_out(tmp_path):
    inside, waited = list[int](), list[int]()

    def enter(number: int) -> None:
        with locked(tmp_path / "lock", lambda: waited.append(number)):
            inside.append(number)
            assert len(inside) == 1
            time.sleep(0.01)
            inside.remove(number)

    with ThreadPoolExecutor(4) as threads, locked(tmp_path / "lock", lambda: None):
        done = [threads.submit(enter, number) for number in range(4)]
        while len(waited) < 4:
            time.sleep(0.01)
        (tmp_path / "lock").unlink()  # as one who has left it does
    for one in done:
        one.result()
    assert names(tmp_path) == []


def test_a_folder_that_is_new_or_empty(tmp_path):
    for name in ("model", "empty"):
        (tmp_path / "new").mkdir()
        (tmp_path / "empty").mkdir(exist_ok=True)
        put(tmp_path / "new", tmp_path / name)
    assert names(tmp_path) == ["empty", "model"]
