"""Models in several GGUF files."""

from __future__ import annotations

import numpy as np
import pytest

import dllama
from dllama.cli import main
from dllama.converter import convert
from dllama.converter.gguf_model import GgufModel
from dllama.errors import FormatError, ModelError

pytest.importorskip("gguf")
ggufmodel = pytest.importorskip("ggufmodel")
ggufrandom = pytest.importorskip("ggufrandom")


def name(number, count=3):
    return f"big-{number:05d}-of-{count:05d}.gguf"


def write_parts(folder, tensors, metadata, count=3, **changes):
    """Write parts as gguf-split does; `changes` are other values for keys of the second one."""
    names = list(tensors)
    for number in range(count):
        keys = {"split.no": number, "split.count": count, "split.tensors.count": len(names)}
        keys |= metadata if number == 0 else {}
        keys |= changes if number == 1 else {}
        some = {one: tensors[one] for one in names[number::count]}
        ggufmodel.write(folder / name(number + 1, count), "llama", some, keys)


@pytest.fixture
def tensors(rng):
    return ggufrandom.random_tensors(rng, "llama", "Q4_0")


@pytest.fixture
def parts(tmp_path, tensors):
    write_parts(tmp_path, tensors, ggufrandom.keys())
    return tmp_path


def test_any_part_names_all(parts, tensors, tmp_path):
    whole = tmp_path / "whole.gguf"
    ggufmodel.write(whole, "llama", tensors, ggufrandom.keys())
    with dllama.LLM(whole, threads=1) as llm:
        expected = llm.eval([1, 5, 9])
    for number in (1, 2, 3):
        with dllama.LLM(parts / name(number), threads=1) as llm:
            np.testing.assert_array_equal(llm.eval([1, 5, 9]), expected)
            assert llm.name == "big"
            assert llm.model_path == parts / name(1)
    convert(parts / name(2), tmp_path / "out", progress=False)
    convert(whole, tmp_path / "other", progress=False)
    assert (tmp_path / "out/model.m").read_bytes() == (tmp_path / "other/model.m").read_bytes()


def test_info_names_all_files(parts, capsys):
    assert main(["info", str(parts / name(3))]) == 0
    text = capsys.readouterr().out
    assert all(str(parts / name(number)) in text for number in (1, 2, 3))
    size = sum((parts / name(number)).stat().st_size for number in (1, 2, 3))
    assert f"{size / 1e6:.2f} MB" in text


@pytest.mark.parametrize("gone", [1, 2, 3])
def test_a_missing_part_is_named(parts, gone):
    (parts / name(gone)).unlink()
    other = parts / name(gone % 3 + 1)
    message = f"{other.name}: is one of 3 files, missing is {name(gone)}"
    with pytest.raises(ModelError, match=message):
        GgufModel(other)


def test_other_names_are_refused(parts):
    path = (parts / name(1)).rename(parts / "a.gguf")
    with pytest.raises(ModelError, match=r"a\.gguf: is one of 3 files, .*-00001-of-00003"):
        GgufModel(path)
    path = path.rename(parts / name(1, 4))
    with pytest.raises(ModelError, match="is one of 3 files, expected a name"):
        GgufModel(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split.no": 2}, "split.no is 2, expected 1"),
        ({"split.no": "1"}, "split.no is a str"),
        ({"split.count": 2}, "split.count is 2, expected 3"),
        ({"llama.block_count": 3}, "block_count is not that of the first file"),
        ({"general.name": "other"}, "general.name is not that of the first file"),
    ],
)
def test_parts_that_do_not_belong_together(tmp_path, tensors, changes, message):
    write_parts(tmp_path, tensors, ggufrandom.keys(), **changes)
    with pytest.raises(FormatError, match=f"{name(2)}: .*{message}"):
        GgufModel(tmp_path / name(1))


def test_tensors_are_in_one_part_each(parts, tensors):
    keys = {"split.no": 1, "split.count": 3}
    some = {one: tensors[one] for one in [*tensors][1::3]}
    first = next(iter(tensors))
    ggufmodel.write(parts / name(2), "llama", {**some, first: tensors[first]}, keys)
    with pytest.raises(FormatError, match=f"tensor {first} is also in"):
        GgufModel(parts / name(3))
    some.popitem()
    ggufmodel.write(parts / name(2), "llama", some, keys)
    message = rf"{name(1)}: split\.tensors\.count is {len(tensors)}"
    with pytest.raises(FormatError, match=message):
        GgufModel(parts / name(3))


def test_a_part_that_is_cut_off_is_named(parts):
    data = (parts / name(3)).read_bytes()
    (parts / name(3)).write_bytes(data[:-200])
    with pytest.raises(FormatError, match=rf"{name(3)}: \S+ \(\w+\) is bytes"):
        GgufModel(parts / name(1))
