"""PyTorch's checkpoints: read correctly, and never run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torchfile
from safetensors.numpy import load_file

from dllama.converter import convert
from dllama.converter.sources.pytorch import PytorchFile
from dllama.errors import DllamaError, FormatError, UnsupportedError


@pytest.fixture
def source(fixtures, tmp_path):
    """A Hugging Face folder without its tensors."""
    folder = shutil.copytree(fixtures / "llama-gqa", tmp_path / "source")
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture
def tensors(fixtures):
    """The tensors of that folder."""
    return load_file(fixtures / "llama-gqa" / "model.safetensors")


@pytest.fixture
def expected(converted):
    """The model that the same folder with safetensors gives."""
    return (converted("llama-gqa", "q40") / "model.m").read_bytes()


def run(source, tmp_path):
    convert(source, tmp_path / "out", "q40", progress=False)
    return (tmp_path / "out" / "model.m").read_bytes()


@pytest.mark.parametrize("protocol", [2, 4])
def test_gives_the_same_model_as_safetensors(source, tensors, expected, tmp_path, protocol):
    torchfile.save(source / "pytorch_model.bin", tensors, protocol)
    assert run(source, tmp_path) == expected


def test_shards_with_an_index(source, tensors, expected, tmp_path):
    names = sorted(tensors)
    weight_map = {}
    for shard, part in enumerate((names[::2], names[1::2])):
        file = f"pytorch_model-{shard + 1:05d}-of-00002.bin"
        torchfile.save(source / file, {name: tensors[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    index = source / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert run(source, tmp_path) == expected


def test_safetensors_come_first(source, tensors, expected, fixtures, tmp_path):
    shutil.copy(fixtures / "llama-gqa" / "model.safetensors", source)
    (source / "pytorch_model.bin").write_bytes(b"not read")
    assert run(source, tmp_path) == expected


def test_all_types_views_and_shared_storages(tmp_path):
    base = np.arange(12, dtype=np.float32)
    value = {
        "f32": torchfile.Tensor(base[:4].reshape(2, 2), base=base),
        "view": torchfile.Tensor(base[4:].reshape(4, 2), base=base),
        "f16": np.arange(3, dtype=np.float16),
        "bf16": np.arange(5, dtype=np.uint16),
        "buffer": np.arange(6),
        "transposed": torchfile.Tensor(np.zeros((1, 3), np.float32), strides=(9, 1)),
        "note": "no tensor",
    }
    torchfile.save(tmp_path / "a.bin", {"epoch": 3, "state_dict": value})
    found = PytorchFile(tmp_path / "a.bin").tensors
    assert {name: (t.dtype, t.shape) for name, t in found.items()} == {
        "f32": ("F32", (2, 2)), "view": ("F32", (4, 2)), "f16": ("F16", (3,)),
        "bf16": ("BF16", (5,)), "buffer": ("I64", (6,)), "transposed": ("F32", (1, 3)),
    }  # fmt: skip
    np.testing.assert_array_equal(found["view"].rows(1, 2), [[6, 7], [8, 9]])
    np.testing.assert_array_equal(found["bf16"].rows(0, 5), value["bf16"])


def test_a_type_that_is_needed_is_named(source, tensors, tmp_path):
    tensors["model.norm.weight"] = np.zeros(128)
    torchfile.save(source / "pytorch_model.bin", tensors)
    with pytest.raises(UnsupportedError, match=r"model\.norm\.weight is F64, supported are F32"):
        run(source, tmp_path)


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("where", ["value", "beside", "key"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_is_run(tmp_path, where, protocol):
    """The payload itself works: Python's unpickler runs it."""
    ran = tmp_path / "ran"
    payload = Payload(os.system, f"touch {ran}")
    value = {"value": {"a": payload}, "beside": [payload, {}], "key": {1: {2: (payload,)}}}[where]
    data = pickle.dumps(value, protocol)
    pickle.loads(data)
    assert ran.exists()
    ran.unlink()
    torchfile.write_archive(tmp_path / "a.bin", data, [])
    with pytest.raises(FormatError, match=r"data\.pkl is refused"):
        PytorchFile(tmp_path / "a.bin")
    assert not ran.exists()


def calls(name: str, arguments: bytes = b")") -> bytes:
    """A pickle that calls a function of a module."""
    module, _, function = name.rpartition(".")
    return b"\x80\x02c" + f"{module}\n{function}\n".encode() + arguments + b"R."


STORAGE = (
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu%stQ"
)
VIEW = b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"%stRs."


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "refused"),
        (b"\x80\x02", "refused"),
        (b"\x80\x02}", "refused"),
        (b"\x80\x02].", "a list, expected a dict"),
        (calls("posix.system", b"X\x02\x00\x00\x00id\x85"), r"calls posix\.system"),
        (calls("builtins.eval", b"X\x01\x00\x00\x001\x85"), r"calls builtins\.eval"),
        (calls("torch._utils._rebuild_tensor_v2"), "without storage"),
        (calls("torch._utils._rebuild_parameter"), "without a tensor"),
        (calls("torch.FloatStorage"), r"calls torch\.FloatStorage"),
        (calls("collections.OrderedDict", b"]\x85"), "with arguments"),
        (b"\x80\x02cos\nsystem\n)\x81.", "NEWOBJ is not allowed"),
        (b"\x80\x02(cos\nsystem\no.", "OBJ is not allowed"),
        (b"(ios\nsystem\n.", "INST is not allowed"),
        (b"\x80\x02\x82\x01.", "EXT1 is not allowed"),
        (b"\x80\x02}cos\nsystem\nb.", ""),  # attributes are dropped
        (b"\x80\x02cos\nsystem\n}b.", "expected a dict"),
        (b"\x80\x02}]K\x01s.", "a key is neither"),
        (b"\x80\x02}))s.", "a key is neither"),
        (b"\x80\x02}(K\x01u.", "refused"),
        (b"\x80\x02s.", "has too few operands"),
        (b"\x80\x02t.", "has too few operands"),
        (b"\x80\x02h\x05.", "has too few operands"),
        (b"\x80\x02r\xff\xff\xff\xff.", "refused"),
        (b"\x80\x02X\xff\xff\xff\x7fa.", "refused"),
        (b"\x80\x02K\x01Q.", "is not of a storage"),
        (b"\x80\x02" + STORAGE.replace(b"Float", b"Quant") % b"K\x01" + b".", "QuantStorage"),
        (b"\x80\x02" + STORAGE % b"J\xff\xff\xff\xff" + b".", "without key or count"),
        (VIEW % (b"K\x04", b"K\x00K\x05\x85K\x01\x85"), "5 numbers of F32 at 0"),
        (VIEW % (b"K\x04", b"K\x02K\x03\x85K\x01\x85"), "3 numbers of F32 at 2"),
        (VIEW % (b"K\x09", b"K\x00K\x09\x85K\x01\x85"), "in 16 bytes"),
        (VIEW % (b"K\x04", b"J\xff\xff\xff\xffK\x01\x85K\x01\x85"), "without storage or offset"),
        (VIEW % (b"K\x04", b"K\x00K\x01\x85)"), "without shape or strides"),
        (VIEW % (b"K\x04", b"K\x00K\x02K\x02\x86K\x01K\x02\x86"), "rows of a are not contiguous"),
        (VIEW.replace(b"\x000X\x03", b"\x007X\x03") % (b"K\x04", b"K\x00K\x01\x85K\x01\x85"),
         "data/7 is missing"),
    ],
)  # fmt: skip
def test_hostile_pickles(tmp_path, data, message):
    torchfile.write_archive(tmp_path / "a.bin", data, [np.zeros(4, np.float32)])
    if message:
        with pytest.raises((FormatError, UnsupportedError), match=rf"a\.bin.*{message}"):
            PytorchFile(tmp_path / "a.bin")
    else:
        assert PytorchFile(tmp_path / "a.bin").tensors == {}


def test_values_that_grow_without_end_cost_nothing(tmp_path):
    """Each tuple contains the previous one twice: 2**100 values in 300 bytes."""
    data = b"\x80\x02}K\x00)" + b"q\x00h\x00\x86" * 100 + b"s."
    torchfile.write_archive(tmp_path / "a.bin", data, [])
    assert PytorchFile(tmp_path / "a.bin").tensors == {}
    as_key = b"\x80\x02})" + b"q\x00h\x00\x86" * 100 + b"K\x00s."
    torchfile.write_archive(tmp_path / "a.bin", as_key, [])
    with pytest.raises(FormatError, match="a key is neither"):
        PytorchFile(tmp_path / "a.bin")


def test_old_and_broken_archives(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2))
    with pytest.raises(UnsupportedError, match=r"a\.bin: not a zip archive.*before PyTorch 1\.6"):
        PytorchFile(path)
    torchfile.save(path, {"a": np.zeros(400, np.float32)}, compress=zipfile.ZIP_DEFLATED)
    with pytest.raises(FormatError, match="compressed"):
        PytorchFile(path)
    torchfile.write_archive(path, b"\x80\x02}.", [], byteorder=b"big")
    with pytest.raises(UnsupportedError, match="not little-endian"):
        PytorchFile(path)
    torchfile.save(path, {"a": np.zeros(400, np.float32)})
    whole = path.read_bytes()
    for size in range(0, len(whole), 101):
        path.write_bytes(whole[:size])
        with pytest.raises(DllamaError, match=r"a\.bin"):
            PytorchFile(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other", b"")
    with pytest.raises(FormatError, match=r"0 files data\.pkl"):
        PytorchFile(path)


def test_entries_that_lie_about_their_place(tmp_path):
    """Changing any byte of the directory gives an error or the same tensor, never a crash."""
    path = tmp_path / "a.bin"
    torchfile.save(path, {"a": np.arange(4, dtype=np.float32)})
    whole = path.read_bytes()
    for at in range(whole.index(b"PK\x01\x02"), len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xA5]) + whole[at + 1 :])
        try:
            PytorchFile(path).tensors["a"].rows(0, 4)
        except (DllamaError, KeyError):
            continue
