"""Conversion: what it writes, and what it refuses."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import dllama
from dllama.cli import main
from dllama.converter import convert
from dllama.converter.recipe import TYPES, WEIGHTS
from dllama.errors import (
    ConfigError,
    DllamaError,
    FormatError,
    ModelError,
    OutputError,
    UnsupportedError,
)
from dllama.model.file import ModelFile, ModelWriter, encode
from dllama.model.spec import RopeScaling, RopeType
from dllama.model.weight_types import WeightType


@pytest.fixture
def source(fixtures, tmp_path):
    """A copy of a Hugging Face folder that a test may change."""
    return shutil.copytree(fixtures / "llama-gqa", tmp_path / "source")


def edit_config(source, **changes):
    """Set fields of config.json; None removes one."""
    path = source / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def edit_tensors(source, **changes):
    """Replace tensors (dots as __); None removes one."""
    path = source / "model.safetensors"
    tensors = load_file(path)
    for name, value in changes.items():
        tensors[name.replace("__", ".")] = value
    save_file({name: value for name, value in tensors.items() if value is not None}, path)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def converted(source, tmp_path, weights, **options):
    """The model file that a conversion writes."""
    convert(source, tmp_path / "model", weights, progress=False, **options)
    return ModelFile.open(tmp_path / "model" / "model.m")


def run(source, tmp_path, **options):
    return convert(source, tmp_path / "out", progress=False, **options)


def test_quantised_tensors_equal_the_original_converters(source, fixtures, tmp_path):
    run(source, tmp_path, weights="q40")
    golden = fixtures / "llama-gqa" / "golden_q40.m"
    with ModelFile.open(tmp_path / "out" / "model.m") as ours, ModelFile.open(golden) as theirs:
        assert list(ours.tensors) == list(theirs.tensors)
        for name in ours.tensors:
            np.testing.assert_array_equal(ours.raw(name), theirs.raw(name), err_msg=name)


# Rows of the fixtures have 128 numbers, which are no blocks of 256.
STANDS_FOR = {"mixed": "q50", "q4k": "q50", "q5k": "q51", "q6k": "q80"}


@pytest.mark.parametrize("weights", WEIGHTS)
def test_reports_what_it_did(source, tmp_path, weights):
    report = run(source, tmp_path, weights=weights)
    assert report.spec.weight_type is WeightType[STANDS_FOR.get(weights, weights).upper()]
    assert report.written_bytes == (tmp_path / "out" / "model.m").stat().st_size
    assert report.read_bytes > 0
    assert report.seconds > 0
    assert files(tmp_path) == ["out", "source"]


def test_a_folder_without_tokenizer_gives_a_warning(source, tmp_path):
    assert "accepts only ids" in run(source, tmp_path).warnings[0]
    with dllama.LLM(tmp_path / "out") as llm:
        assert llm.tokenizer is None
        assert len(list(llm.generate([1], 3))) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_conversion_that_is_ended_leaves_nothing(number, source, tmp_path, monkeypatch):
    old = run(source, tmp_path).output.joinpath("model.m").read_bytes()
    monkeypatch.setattr(ModelWriter, "commit", lambda _: os.kill(os.getpid(), number))
    words = ["convert", str(source), "--output", str(tmp_path / "out"), "--weights", "f32"]
    assert main([*words, "--quiet"]) == 128 + number
    assert files(tmp_path) == ["out", "source"]
    assert (tmp_path / "out" / "model.m").read_bytes() == old
    assert signal.getsignal(number) == signal.SIG_DFL


def test_sharded_folders(source, tmp_path):
    whole = run(source, tmp_path).output.joinpath("model.m").read_bytes()
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for shard, part in enumerate((names[::2], names[1::2])):
        file = f"model-{shard + 1:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, source / file)
        weight_map |= dict.fromkeys(part, file)
    index = source / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert run(source, tmp_path).output.joinpath("model.m").read_bytes() == whole
    (source / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match="model-00002-of-00002"):
        run(source, tmp_path)


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", 5])
def test_shards_must_be_in_the_folder(source, tmp_path, file):
    (source / "model.safetensors").rename(source.parent / "model.safetensors")
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(DllamaError, match="index"):
        run(source, tmp_path)


def test_tied_embeddings(source, fixtures, tmp_path):
    with converted(fixtures / "llama31-tied", tmp_path, "f16") as file:
        assert file.spec.tied
        assert "output" not in file.tensors
        assert file.spec.type_of("embedding") is WeightType.F16
        stored = load_file(fixtures / "llama31-tied" / "model.safetensors")
        expected = stored["model.embed_tokens.weight"].astype(np.float32)
        np.testing.assert_array_equal(file.f32("output"), expected)
    edit_config(source, tie_word_embeddings=False)
    edit_tensors(source, lm_head__weight=None)
    with pytest.raises(FormatError, match=r"lm_head\.weight is missing"):
        run(source, tmp_path)


@pytest.mark.parametrize("weights", ["q40", "f32"])
def test_distributed_llama_gets_a_tied_output_of_its_own(fixtures, tmp_path, weights):
    with converted(fixtures / "llama31-tied", tmp_path, weights) as file:
        assert not file.spec.tied
        assert file.spec.tensor_types == ()
        assert file.tensors["embedding"].weight_type is WeightType.F32
        assert file.tensors["output"].weight_type is WeightType[weights.upper()]
        output = encode(file.f32("embedding"), WeightType[weights.upper()])
        np.testing.assert_array_equal(file.raw("output"), output)


def test_output_weights_are_those_of_a_tied_embedding(fixtures, tmp_path):
    for output in TYPES:
        with converted(fixtures / "llama31-tied", tmp_path, "q40", output_weights=output) as file:
            kinds = {name: info.weight_type.name for name, info in file.tensors.items()}
        assert "output" not in kinds
        assert kinds["embedding"] == STANDS_FOR.get(output, output).upper()
        assert kinds["layers.0.q"] == kinds["layers.1.down"] == "Q40"


def test_output_weights_leave_an_untied_embedding(source, tmp_path):
    with converted(source, tmp_path, "q40", output_weights="q80") as file:
        assert file.tensors["embedding"].weight_type is WeightType.F32
        assert file.spec.tensor_types == (("output", WeightType.Q80),)


@pytest.mark.parametrize(
    ("option", "first"), [("weights", "mixed, q40"), ("output_weights", "q40, ")]
)
def test_unknown_types_are_refused(source, tmp_path, option, first):
    for value in ("q9", "q2k"):
        with pytest.raises(ConfigError, match=f"^{option} is '{value}', expected one of {first}"):
            run(source, tmp_path, **{option: value})


def test_both_dialects_of_rope(source, tmp_path):
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    edit_config(source, rope_parameters=None, rope_theta=5e5, rope_scaling=scaling)
    old = run(source, tmp_path).spec
    edit_config(
        source, rope_theta=None, rope_scaling=None, rope_parameters={**scaling, "rope_theta": 5e5}
    )
    new = run(source, tmp_path).spec
    assert old == new
    assert old.rope_theta == 5e5
    assert old.rope_type is RopeType.LLAMA31
    assert old.rope_scaling == RopeScaling(8.0, 1.0, 4.0, 8192)


@pytest.mark.parametrize("head_dim", [None, 32])
def test_head_dim_may_be_absent(source, tmp_path, head_dim):
    edit_config(source, head_dim=head_dim)
    assert run(source, tmp_path).spec.head_dim == 32


def test_a_sliding_window_is_that_of_all_layers(source, tmp_path):
    edit_config(source, model_type="mistral", sliding_window=100)
    spec = run(source, tmp_path).spec
    assert (spec.seq_len, spec.window, spec.windowed) == (256, 100, (0, 1))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_source_types_give_the_same_file(source, tmp_path, dtype):
    tensors = load_file(source / "model.safetensors")
    exact = {name: t.astype(np.float16).astype(np.float32) for name, t in tensors.items()}
    save_file(exact, source / "model.safetensors")
    expected = run(source, tmp_path).output.joinpath("model.m").read_bytes()
    save_file({name: t.astype(dtype) for name, t in exact.items()}, source / "model.safetensors")
    assert run(source, tmp_path).output.joinpath("model.m").read_bytes() == expected


def test_bfloat16_sources(source, tmp_path):
    """The file is written by hand, because NumPy has no such type."""
    tensors = load_file(source / "model.safetensors")
    cut = {n: t.astype(np.float32).view(np.uint32) & 0xFFFF0000 for n, t in tensors.items()}
    save_file({n: t.view(np.float32) for n, t in cut.items()}, source / "model.safetensors")
    expected = run(source, tmp_path).output.joinpath("model.m").read_bytes()
    header, body = {}, b""
    for name, bits in cut.items():
        data = (bits >> 16).astype("<u2").tobytes()
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": offsets}
        body += data
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + body
    (source / "model.safetensors").write_bytes(content)
    assert run(source, tmp_path).output.joinpath("model.m").read_bytes() == expected


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model_type": "gpt2"}, UnsupportedError, "'gpt2' is not supported, only llama, mistral"),
        ({"model_type": None}, UnsupportedError, "model_type"),
        ({"hidden_act": "relu"}, UnsupportedError, "hidden_act 'relu'"),
        ({"attention_bias": True}, FormatError, r"q_proj\.bias is missing"),
        ({"mlp_bias": 1}, FormatError, "mlp_bias is 1, expected true or false"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}, "rope_parameters": None},
         UnsupportedError, "'dynamic'"),
        ({"hidden_act": ["silu"]}, UnsupportedError, "hidden_act"),
        ({"partial_rotary_factor": 0.5}, UnsupportedError, "partial_rotary_factor"),
        ({"rope_parameters": {"rope_theta": float("inf")}}, FormatError, "rope_theta is inf"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
          "high_freq_factor": 1, "original_max_position_embeddings": 32}},
         FormatError, r"config\.json: rope_scaling_high is 1"),
        ({"rms_norm_eps": 1e-60}, FormatError, r"config\.json: rms_norm_eps is 1e-60"),
        ({"hidden_size": None}, FormatError, "hidden_size is None"),
        ({"hidden_size": "128"}, FormatError, "hidden_size is '128'"),
        ({"num_hidden_layers": 0}, FormatError, "num_hidden_layers is 0"),
        ({"num_hidden_layers": 3}, FormatError, r"model\.layers\.2"),
        ({"num_key_value_heads": 3}, FormatError, r"config\.json: n_kv_heads is 3"),
        ({"rms_norm_eps": -1}, FormatError, "rms_norm_eps"),
        ({"vocab_size": 193}, FormatError, r"shape of model\.embed_tokens\.weight"),
        ({"intermediate_size": 224}, FormatError, "shape of"),
        ({"intermediate_size": 200}, FormatError, "hidden_dim is 200"),
    ],
)  # fmt: skip
def test_refuses_configs_it_cannot_represent(source, tmp_path, changes, error, message):
    edit_config(source, **changes)
    with pytest.raises(error, match=message):
        run(source, tmp_path)
    assert files(tmp_path) == ["source"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_refuses_numbers_that_are_not_finite(source, tmp_path, bad):
    name = "model.layers.1.mlp.up_proj.weight"
    tensor = load_file(source / "model.safetensors")[name]
    tensor[5, 7] = bad
    edit_tensors(source, **{name.replace(".", "__"): tensor})
    with pytest.raises(FormatError, match=f"{name} is not finite"):
        run(source, tmp_path)
    assert files(tmp_path) == ["source"]


def test_refuses_tensors_of_other_types(source, tmp_path):
    edit_tensors(source, model__norm__weight=np.zeros(128, np.int8))
    with pytest.raises(UnsupportedError, match=r"model\.norm\.weight is I8"):
        run(source, tmp_path)


def test_tensors_that_the_model_does_not_need_may_be_of_any_type(source, tmp_path):
    expected = run(source, tmp_path).output.joinpath("model.m").read_bytes()
    edit_tensors(source, model__layers__0__attn__masked_bias=np.zeros(3, np.int64))
    assert run(source, tmp_path).output.joinpath("model.m").read_bytes() == expected


@pytest.mark.parametrize("threads", [0, -1, 1025, True, 1.0])
def test_refuses_numbers_of_threads(source, tmp_path, threads):
    with pytest.raises(ConfigError, match="threads is"):
        run(source, tmp_path, threads=threads)
    assert files(tmp_path) == ["source"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        struct.pack("<Q", 1 << 40),
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 9) + b'{"a": {}}',
        struct.pack("<Q", 2) + b"{]",
        struct.pack("<Q", 62) + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}       ',
        struct.pack("<Q", 62) + b'{"a":{"dtype":["F"],"shape":[9],"data_offsets":[0,9]}}        ',
        struct.pack("<Q", 62) + b'{"a":{"dtype":"I64","shape":[9],"data_offsets":[9,0]}}        ',
        struct.pack("<Q", 62) + b'{"a":{"dtype":"F32","shape":[-9],"data_offsets":[0,-36]}}     ',
    ],
)
def test_broken_safetensors_are_named(source, tmp_path, content):
    (source / "model.safetensors").write_bytes(content)
    with pytest.raises((FormatError, ModelError), match=r"model\.safetensors"):
        run(source, tmp_path)


def test_broken_folders_are_named(source, tmp_path):
    with pytest.raises(ModelError, match="none: no such folder"):
        run(tmp_path / "none", tmp_path)
    (source / "config.json").write_text("{")
    with pytest.raises(FormatError, match=r"config\.json"):
        run(source, tmp_path)
    (source / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json"):
        run(source, tmp_path)


def test_refuses_outputs_that_hold_something_else(source, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    for output in (tmp_path / "file", tmp_path / "other", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match=output.name):
            convert(source, output, progress=False)
    with pytest.raises(ConfigError, match="source folder"):
        convert(source, source, progress=False)
    with pytest.raises(ConfigError, match="weights"):
        convert(source, tmp_path / "out", "q99", progress=False)
    assert files(tmp_path / "other") == ["notes.txt"]


def test_replaces_a_model_folder(source, tmp_path):
    run(source, tmp_path, weights="f32")
    (tmp_path / "out" / "old.txt").write_text("x")
    assert run(source, tmp_path, weights="q40").spec.weight_type is WeightType.Q40
    assert files(tmp_path / "out") == ["model.m"]
    assert files(tmp_path) == ["out", "source"]


def test_a_failure_keeps_the_old_model(source, tmp_path):
    before = run(source, tmp_path).output.joinpath("model.m").read_bytes()
    edit_tensors(source, model__norm__weight=np.full(128, np.nan, np.float32))
    with pytest.raises(FormatError):
        run(source, tmp_path)
    assert (tmp_path / "out" / "model.m").read_bytes() == before
    assert files(tmp_path) == ["out", "source"]


def test_a_full_disk_leaves_nothing(source, tmp_path):
    """A limit on file sizes stands in for the end of the disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(OutputError, match=r"model\.m: cannot write"):
            run(source, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert files(tmp_path) == ["source"]


def test_too_little_space_is_reported_at_once(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OutputError, match="the disk has 1 free"):
        run(source, tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(source, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="locked"):
        convert(source, tmp_path / "locked" / "out", progress=False)
