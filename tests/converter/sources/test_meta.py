"""Meta's checkpoints: shards joined to the same model as the Hugging Face folder."""

from __future__ import annotations

import base64
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torchfile
from oracle.huggingface import paired, read_safetensors
from tokenizers import Tokenizer as HfTokenizer

import dllama
from dllama.converter import convert
from dllama.converter.sources.checkpoint import open_checkpoint
from dllama.converter.sources.meta import JoinedTensor, MetaFolder
from dllama.converter.sources.pytorch import PytorchFile
from dllama.converter.tokenizers.folder import convert_tokenizer, token_bytes
from dllama.converter.tokenizers.tiktoken import read_tiktoken
from dllama.errors import DllamaError, FormatError, ModelError, UnsupportedError
from dllama.model.file import ModelFile
from dllama.text.tokenizer import Tokenizer

DEMO = Path(dllama.__file__).parent / "demo"
DATA = Path(__file__).parents[2] / "data"
MULTILINGUAL = (DATA / "multilingual.txt").read_bytes().decode()
# 2/3 of 4 * 128 is 341, half of it 170, and 192 the multiple of 64 above.
PARAMS = {"dim": 128, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "norm_eps": 1e-5,
          "vocab_size": -1, "multiple_of": 64, "ffn_dim_multiplier": 0.5}  # fmt: skip
LAYER = {
    "self_attn.q_proj": ("attention.wq", 0), "self_attn.k_proj": ("attention.wk", 0),
    "self_attn.v_proj": ("attention.wv", 0), "self_attn.o_proj": ("attention.wo", 1),
    "mlp.gate_proj": ("feed_forward.w1", 0), "mlp.down_proj": ("feed_forward.w2", 1),
    "mlp.up_proj": ("feed_forward.w3", 0), "input_layernorm": ("attention_norm", None),
    "post_attention_layernorm": ("ffn_norm", None),
}  # fmt: skip


def write(folder, fixture, shards, embedding_axis=1, **params):
    """Write the tensors of a Hugging Face folder in Meta's format."""
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps({**PARAMS, **params}))
    tensors = read_safetensors(fixture / "model.safetensors")
    axes = {"norm.weight": None, "output.weight": 0, "tok_embeddings.weight": embedding_axis}
    theirs = {
        "norm.weight": tensors["model.norm.weight"],
        "output.weight": tensors["lm_head.weight"],
        "tok_embeddings.weight": tensors["model.embed_tokens.weight"],
    }
    for layer in range(2):
        for name, (other, axis) in LAYER.items():
            tensor = tensors[f"model.layers.{layer}.{name}.weight"]
            heads = {"attention.wq": 4, "attention.wk": 2}.get(other)
            theirs[f"layers.{layer}.{other}.weight"] = paired(tensor, heads) if heads else tensor
            axes[f"layers.{layer}.{other}.weight"] = axis
    for shard in range(shards):
        cut = {
            name: tensor if axes[name] is None else np.split(tensor, shards, axes[name])[shard]
            for name, tensor in theirs.items()
        }
        values = {name: np.ascontiguousarray(t, np.float16) for name, t in cut.items()}
        values["rope.freqs"] = np.zeros(16, np.float32)
        torchfile.save(folder / f"consolidated.{shard:02d}.pth", values)
    return folder


@pytest.fixture
def source(tmp_path):
    """Where a test writes its folder."""
    return tmp_path / "source"


@pytest.mark.parametrize(("shards", "axis"), [(1, 1), (2, 1), (2, 0), (4, 1)])
def test_gives_the_same_model_as_hugging_face(source, tmp_path, fixtures, converted, shards, axis):
    """With 4 shards, which is more than there are KV heads, each has half a head."""
    write(source, fixtures / "llama-gqa", shards, axis)
    report = convert(source, tmp_path / "out", "q40", progress=False)
    expected = converted("llama-gqa", "q40") / "model.m"
    with ModelFile.open(tmp_path / "out" / "model.m") as ours, ModelFile.open(expected) as theirs:
        assert (ours.spec.hidden_dim, ours.spec.vocab_size, ours.spec.seq_len) == (192, 192, 4096)
        assert list(ours.tensors) == list(theirs.tensors)
        for name in ours.tensors:
            np.testing.assert_array_equal(ours.raw(name), theirs.raw(name), err_msg=name)
    assert "has no tokenizer" in report.warnings[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [("quantization_args", {"scheme": "int4"}), ("lora_args", {"rank": 16}), ("qk_norm", True),
     ("moe", {"num_experts": 8}), ("causal", 1), ("vision_chunk_size", 560)],
)  # fmt: skip
def test_refuses_keys_that_it_does_not_know(source, tmp_path, fixtures, key, value):
    write(source, fixtures / "llama-gqa", 1, **{key: value})
    with pytest.raises(UnsupportedError, match=rf"params\.json: {key} "):
        convert(source, tmp_path / "out", progress=False)
    write(source, fixtures / "llama-gqa", 1, **{"causal": True, "max_seq_len": 512, key: None})
    convert(source, tmp_path / "out", progress=False)


def test_refuses_a_tensor_that_only_one_file_has(source, tmp_path, fixtures):
    write(source, fixtures / "llama-gqa", 2)
    path = source / "consolidated.01.pth"
    tensors = {name: t.rows(0, t.shape[0]) for name, t in PytorchFile(path).tensors.items()}
    torchfile.save(path, {**tensors, "layers.0.attention.wq.bias": np.ones(8, np.float16)})
    with pytest.raises(UnsupportedError, match=r"attention\.wq\.bias is not supported"):
        convert(source, tmp_path / "out", progress=False)


def test_rows_of_joined_shards(tmp_path, rng):
    whole = rng.random((12, 8), np.float32)
    for axis in (0, 1):
        tensors = []
        for number, shard in enumerate(np.split(whole, 4, axis)):
            torchfile.save(tmp_path / f"{number}.pth", {"a": np.ascontiguousarray(shard)})
            tensors.append(PytorchFile(tmp_path / f"{number}.pth").tensors["a"])
        joined = JoinedTensor(tuple(tensors), axis)
        assert (joined.shape, joined.nbytes) == ((12, 8), whole.nbytes)
        for first, count in ((0, 12), (2, 5), (3, 3), (11, 1), (0, 1)):
            np.testing.assert_array_equal(joined.rows(first, count), whole[first : first + count])


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"norm_eps": 1e-6}, {"max_position_embeddings": 2048, "rope_scaling": None}),
        ({"rope_theta": 5e5}, {"max_position_embeddings": 8192, "rope_theta": 5e5}),
        ({"rope_theta": 1e6}, {"max_position_embeddings": 16384}),
        ({"n_kv_heads": None}, {"num_key_value_heads": None}),
        ({"multiple_of": 256, "ffn_dim_multiplier": None}, {"intermediate_size": 512}),
        ({"hidden_dim": 192}, {"intermediate_size": 192}),
    ],
)  # fmt: skip
def test_settings(source, fixtures, params, expected):
    config = MetaFolder(write(source, fixtures / "llama-gqa", 1, **params)).config
    assert {key: config[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("dim", "multiple", "factor", "width"),
    [
        (2048, 256, 1.5, 8192), (4096, 256, None, 11008), (4096, 1024, 1.3, 14336),
        (5120, 256, None, 13824), (8192, 4096, 1.3, 28672), (16384, 4096, 1.2, 53248),
    ],
)  # fmt: skip
def test_widths_of_published_models(source, fixtures, dim, multiple, factor, width):
    params = {"dim": dim, "multiple_of": multiple, "ffn_dim_multiplier": factor}
    folder = write(source, fixtures / "llama-gqa", 1, **params)
    assert MetaFolder(folder).config["intermediate_size"] == width


@pytest.mark.parametrize(("dim", "factor"), [(2048, 32.0), (3072, 32.0), (4096, 8.0), (8192, 8.0)])
def test_scaled_frequencies(source, fixtures, dim, factor):
    config = MetaFolder(
        write(source, fixtures / "llama-gqa", 1, dim=dim, rope_theta=5e5, use_scaled_rope=True)
    ).config
    assert config["max_position_embeddings"] == 131072
    assert config["rope_scaling"] == {
        "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip


def run(source):
    return convert(source, source.parent / "out", progress=False)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"dim": None}, "dim is None"),
        ({"multiple_of": 0}, "multiple_of is 0"),
        ({"multiple_of": "64"}, "multiple_of is '64'"),
        ({"ffn_dim_multiplier": 1e12}, "ffn_dim_multiplier is"),
        ({"n_layers": 3}, r"model\.layers\.2"),
        ({"ffn_dim_multiplier": 1.0}, r"shape of layers\.0\.feed_forward\.w1"),
    ],
)
def test_broken_params_are_named(source, fixtures, params, message):
    write(source, fixtures / "llama-gqa", 2, **params)
    with pytest.raises(FormatError, match=message):
        run(source)
    assert not (source.parent / "out").exists()


def test_shards_that_do_not_match_are_named(source, fixtures):
    write(source, fixtures / "llama-gqa", 2)
    whole = (source / "consolidated.01.pth").read_bytes()
    torchfile.save(source / "consolidated.01.pth", {"norm.weight": np.zeros(128, np.float16)})
    with pytest.raises(FormatError, match="not the same in all files"):
        run(source)
    (source / "consolidated.02.pth").write_bytes(whole)
    (source / "consolidated.01.pth").unlink()
    with pytest.raises(ModelError, match=r"consolidated\.00\.pth, consolidated\.02\.pth"):
        run(source)
    (source / "consolidated.02.pth").unlink()
    (source / "consolidated.00.pth").unlink()
    with pytest.raises(ModelError, match=r"has no consolidated\.00\.pth"):
        run(source)
    torchfile.save(source / "consolidated.00.pth", {"layers.0.moe.weight": np.zeros((2, 2))})
    with pytest.raises(UnsupportedError, match=r"layers\.0\.moe\.weight is not supported"):
        run(source)


def test_nothing_is_run(source, fixtures):
    write(source, fixtures / "llama-gqa", 1)
    ran = source / "ran"

    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {ran}",)

    torchfile.write_archive(source / "consolidated.00.pth", pickle.dumps({"a": Payload()}, 2), [])
    with pytest.raises(FormatError, match="refused"):
        run(source)
    assert not ran.exists()


def test_a_config_json_comes_first(source, fixtures):
    write(source, fixtures / "llama-gqa", 1)
    (source / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        open_checkpoint(source)


@pytest.fixture
def tiktoken(tmp_path):
    """The built-in model's tokens in tiktoken's format: bytes, then what merges produce."""
    config = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))
    plain = len(config["model"]["vocab"])
    tokens = token_bytes(HfTokenizer.from_file(str(DEMO / "tokenizer.json")))[:plain]
    lines = [f"{base64.b64encode(t).decode()} {i}" for i, t in enumerate(tokens)]
    path = tmp_path / "tokenizer.model"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_tiktoken_ids(tiktoken, tmp_path):
    source = read_tiktoken(tiktoken, old=False)
    count = source.tokenizer.get_vocab_size() - 256
    (tmp_path / "out").mkdir()
    assert convert_tokenizer(source, tmp_path / "out", count + 256) == []
    tokenizer, original = Tokenizer.open(tmp_path / "out"), Tokenizer.open(DEMO)
    for text in [*MULTILINGUAL.splitlines(), MULTILINGUAL]:
        plain = text.replace("<|", "<")
        assert tokenizer.encode(plain, add_bos=False) == original.encode(plain, add_bos=False)
    assert tokenizer.encode("a")[0] == tokenizer.bos_id == count
    assert tokenizer.eos_ids == (count + 1, count + 8, count + 9)
    assert tokenizer.encode("<|eot_id|>", add_bos=False) == [count + 9]
    assert tokenizer.encode("<|reserved_special_token_247|>", add_bos=False) == [count + 255]
    assert tokenizer.encode("<|python_tag|>", add_bos=False) == [count + 10]


def test_special_tokens_of_llama_3_0(tiktoken):
    source = read_tiktoken(tiktoken, old=True)
    count = source.tokenizer.get_vocab_size() - 256
    names = ("reserved_special_token_4", "eot_id", "reserved_special_token_250", "eom_id")
    ids = [source.tokenizer.token_to_id(f"<|{name}|>") for name in names]
    assert ids == [count + 8, count + 9, count + 255, None]
    assert source.config.eos_ids == (count + 1, count + 9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines[:1], "?", *lines[2:]], "line 2 is broken"),
        (lambda lines: [*lines[:1], "QUJDR 1", *lines[2:]], "line 2 is broken"),
        (lambda lines: lines[:1] + lines[2:], "line 2 is broken"),
        (
            lambda lines: [*lines, f"{lines[0].split()[0]} {len(lines)}"],
            "token of rank 2043 is given twice",
        ),
        (lambda lines: lines[:9], "byte 0x"),
    ],
)
def test_broken_tiktoken_files_are_named(tiktoken, change, message):
    tiktoken.write_text("\n".join(change(tiktoken.read_text().splitlines())))
    with pytest.raises(DllamaError, match=rf"tokenizer\.model: {message}"):
        read_tiktoken(tiktoken, old=False)


def test_tokenizers_of_a_folder(source, fixtures, tiktoken):
    """In the folder or its parent, in either format."""
    write(source, fixtures / "llama-gqa", 1, use_scaled_rope=True)
    assert MetaFolder(source).tokenizer().path == tiktoken
    tiktoken.rename(source / "tokenizer.model")
    assert MetaFolder(source).tokenizer().config.bos_id == 2043
    (source / "tokenizer.model").write_bytes(b"\x0a\x05\x0a\x03abc")
    with pytest.raises(FormatError, match=r"tokenizer\.model.*0 unknown pieces"):
        MetaFolder(source).tokenizer()
