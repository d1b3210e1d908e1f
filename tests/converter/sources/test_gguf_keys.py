"""Keys of GGUF metadata: each is applied, refused, or known to change nothing."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import dllama
from dllama.converter.families.rope import linear
from dllama.converter.gguf_model import GgufModel
from dllama.errors import DllamaError, FormatError, UnsupportedError
from dllama.model.spec import RopeType
from dllama.text.tokenizer_config import by_tools

gguf = pytest.importorskip("gguf")
ggufmodel = pytest.importorskip("ggufmodel")
ggufrandom = pytest.importorskip("ggufrandom")

NO_ID = 4294967295
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
TOKENIZER = {
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": [*LETTERS, "\u0120", *(f"t{n}" for n in range(64)), "bc", "<s>", "<x>",
                              "ab", "abc"],
    "tokenizer.ggml.merges": ["a b", "b c", "ab c"],
    "tokenizer.ggml.token_type": [1] * 92 + [3, 4, 1, 1],
    "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.add_bos_token": True,
}  # fmt: skip
YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}


@pytest.fixture
def path(tmp_path):
    """Where a test writes its file."""
    return tmp_path / "model.gguf"


@pytest.fixture
def model(path, rng):
    """A function that opens a random model with other keys; None takes one away."""

    def open_with(changes, arch="llama", experts=False):
        tensors = ggufrandom.random_tensors(rng, arch, "Q8_0", experts=experts)
        given = {**ggufrandom.keys(arch, experts), **changes}
        metadata = {key: value for key, value in given.items() if value is not None}
        ggufmodel.write(path, arch, tensors, metadata)
        return GgufModel(path)

    return open_with


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention.value_length": 16}, "value_length is 16, only 64"),
        ({"attention.key_length": 32}, "shape of blk.0.attn_q"),
        ({"rope.dimension_count": 16}, "dimension_count is 16, only 64"),
        ({"attention.head_count_kv": [2, 1]}, "head_count_kv differs between layers"),
        ({"rope.scaling.type": "longrope"}, "rope.scaling.type 'longrope' is not supported"),
        ({"rope.scaling.type": [1, 2]}, "rope.scaling.type array"),
        ({**YARN, "rope.scaling.original_context_length": 0}, "original_context_length is 0"),
        ({**YARN, "rope.scaling.yarn_attn_factor": "x"}, "yarn_attn_factor is 'x'"),
        ({**YARN, "rope.scaling.yarn_ext_factor": 0.5}, "yarn_ext_factor 0.5 is not supported"),
        ({**YARN, "rope.scaling.yarn_log_multiplier": 0.1}, "yarn_log_multiplier 0.1"),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, "rope.scaling.factor 4.0"),
        ({"rope.scaling.factor": -4.0}, "rope.scaling.factor is -4.0, expected a number"),
        ({"rope.scaling.attn_factor": 2.0}, "rope.scaling.attn_factor 2.0"),
        ({"rope.scale_linear": "x"}, "rope.scale_linear is 'x', expected a number"),
        ({"rope.freq_base": "x"}, "llama.rope.freq_base is 'x', expected a number"),
        ({"rope.freq_base": 0.0}, "llama.rope.freq_base is 0.0"),
        ({"rope.freq_base_swa": 1e4}, "llama.rope.freq_base_swa"),
        ({"rope.dimension_sections": [8, 8, 8, 8]}, "rope.dimension_sections"),
        ({"embedding_length": 0}, "llama.embedding_length is 0, expected an integer"),
        ({"embedding_length": None}, "llama.embedding_length is missing"),
        ({"block_count": None}, "llama.block_count is missing"),
        ({"attention.layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon is missing"),
        ({"attention.layer_norm_epsilon": 1e-5}, "llama.attention.layer_norm_epsilon 9.9"),
        ({"block_count": 3}, r"blk\.2\.attn_q\.weight is missing"),
        ({"block_count": 1}, r"not used by this model: blk\.1\."),
        ({"feed_forward_length": 224}, "shape of blk"),
        ({"attention.scale": 0.5}, "attention.scale is 0.5, only 0.125 is supported"),
        ({"attention.sliding_window": 8, "attention.sliding_window_pattern": [True, False]},
         "sliding_window_pattern"),
        ({"attention.sliding_window": "x"}, "sliding_window is 'x'"),
        ({"attention.causal": False}, "attention.causal False is not supported, only True"),
        ({"logit_scale": 0.5}, "llama.logit_scale 0.5"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping 50.0"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping 30.0"),
        ({"leading_dense_block_count": 1}, "leading_dense_block_count 1"),
        ({"nextn_predict_layers": 1}, "nextn_predict_layers 1"),
        ({"tensor_data_layout": "reordered"}, "tensor_data_layout 'reordered'"),
        ({"expert_count": 4}, "num_experts_per_tok|expert"),
        ({"expert_used_count": 2}, "llama.expert_used_count 2 is not supported, only 0"),
        ({"expert_gating_func": 2}, "expert_gating_func 2"),
        ({"expert_weights_scale": 2.5}, "expert_weights_scale 2.5"),
        ({"pooling_type": 3}, "pooling_type 3"),
        ({"no_such_key": 1}, "llama.no_such_key 1 is not supported"),
    ],
)  # fmt: skip
def test_what_is_refused(model, changes, message):
    with pytest.raises(DllamaError, match=message) as caught:
        model({f"llama.{key}": value for key, value in changes.items()})
    assert "model.gguf" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("general.type", "mmproj", "general.type is 'mmproj'"),
        ("general.quantization_version", 1, "general.quantization_version is 1"),
        ("adapter.type", "lora", "adapter.type is not supported"),
        ("split.count", "x", "split.count is a str, expected a int"),
        ("qwen3moe.expert_weights_norm", False, "expert_weights_norm False"),
        ("qwen3moe.expert_used_count", 4, "num_experts_per_tok is 4"),
    ],
)
def test_other_keys_that_are_refused(model, key, value, message):
    with pytest.raises(DllamaError, match=message):
        model({key: value}, "qwen3moe", True)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention.head_count_kv": [2, 2]},
        {"attention.sliding_window": 0},
        {"attention.sliding_window": NO_ID},
        {"attention.scale": 0.0},
        {"attention.scale": 0.125},
        {"attention.causal": True},
        {"rope.scaling.type": "none"},
        {"rope.scaling.finetuned": False},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 1.0},
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 1.0},
        {"rope.scale_linear": 1.0},
        {"logit_scale": 1.0},
        {"expert_count": 0, "expert_used_count": 0},
        {"expert_weights_scale": 1.0},
        {"leading_dense_block_count": 0},
        {"attn_logit_softcapping": 0.0},
        {"tensor_data_layout": "Meta AI original pth"},
        {"decoder_start_token_id": NO_ID},
    ],
)
def test_values_that_mean_none(model, changes):
    with model({}) as plain, model({f"llama.{key}": v for key, v in changes.items()}) as other:
        assert other.spec == plain.spec


def test_keys_of_others_are_no_matter(model):
    with model({"general.file_type": 7, "quantize.imatrix.file": "x", "mradermacher.by": "y"}):
        pass


def test_a_window_is_that_of_all_layers(model):
    for arch in ("llama", "qwen2", "qwen3"):
        with model({f"{arch}.attention.sliding_window": 24}, arch) as opened:
            assert (opened.spec.window, opened.spec.windowed) == (24, (0, 1))


def test_defaults_are_those_of_the_format(model):
    """Not those of config.json: theta is 1e6 in Mixtral's, and heads of Qwen3 have 128 numbers."""
    with model({}, experts=True) as mixtral, model({}, "qwen3") as qwen3:
        assert mixtral.spec.rope_theta == qwen3.spec.rope_theta == 10000
        assert qwen3.spec.head_dim == 64


def test_another_vocabulary_is_a_warning(model, caplog):
    model({"llama.vocab_size": 96}).close()
    assert not caplog.text
    model({"llama.vocab_size": 95}).close()
    assert "llama.vocab_size is 95, the embedding has 96 rows" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"add_eos_token": True}, "add_eos_token is not supported, only false"),
        ({"add_sep_token": True}, "add_sep_token is not supported, only false"),
        ({"add_eos_token": 1}, "add_eos_token is 1, expected true or false"),
        ({"model": None}, "model is missing"),
        ({"normalizer.lowercase": True}, "normalizer.lowercase is not supported"),
        ({"bos_token_id": 96}, "bos_token_id is 96"),
    ],
)
def test_what_a_tokenizer_is_refused_for(model, changes, message):
    keys = TOKENIZER | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    with model(keys) as opened, pytest.raises((FormatError, UnsupportedError), match=message):
        opened.tokenizer()


def test_ids_that_mean_none(model):
    ids = ("bos", "eos", "eot", "eom", "unknown", "padding")
    keys = {f"tokenizer.ggml.{name}_token_id": NO_ID for name in ids}
    with model(TOKENIZER | keys) as opened:
        tokenizer = opened.tokenizer()
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.add_bos) == (None, (), False)
    assert tokenizer.encode("abc") == [95]


def test_the_tokenizer_comes_from_the_file(model, path):
    model({**TOKENIZER, "tokenizer.chat_template": "{{ messages }}"}).close()
    with dllama.LLM(path, threads=1) as llm:
        tokenizer = llm.tokenizer
        assert tokenizer.encode("abc") == [1, 95]
        assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, (2,))
        assert tokenizer.chat_template == "{{ messages }}"
        assert tokenizer.special_tokens == {"bos_token": "b", "eos_token": "c"}
    assert [*path.parent.iterdir()] == [path]
    two = {"tokenizer.chat_template": "D", "tokenizer.chat_template.tool_use": "T"}
    with model({**TOKENIZER, **two}) as opened:
        assert opened.tokenizer().chat_template == by_tools("D", "T")
    model({**TOKENIZER, "tokenizer.chat_template": 5}).close()
    with pytest.raises(FormatError, match="chat_template is a int"):
        dllama.LLM(path)


def test_more_heads_than_columns_are_refused(model):
    with pytest.raises(FormatError, match=r"llama\.attention\.head_count is 2147483647, expected"):
        model({"llama.attention.head_count": 2**31 - 1})


def outcome(path):
    """None for an error that names the file, else logits and what a text becomes."""
    try:
        with dllama.LLM(path, threads=1) as llm:
            tokenizer = llm.tokenizer
            if tokenizer is None:
                text = None
            else:
                ids = tokenizer.encode("abcab cab<x> <s>")
                text = (ids, tokenizer.eos_ids, tokenizer.decode(range(96)))
            return text, llm.seq_len, llm.eval([1, 5, 9]).tobytes()
    except DllamaError as error:
        return None if "model.gguf" in str(error) else str(error)


def others(value):
    """Other values of a kind, none of which stands for "none"."""
    if isinstance(value, bool):
        return [not value, "x"]
    if isinstance(value, str):
        return [value + "x", 7]
    if isinstance(value, (int, float)):
        return [value * 2, value + 1 if isinstance(value, int) else value * 1.5, "x"]
    return [value[:-1], list(reversed(value)), 7]


@pytest.mark.parametrize(
    ("arch", "experts"), [("llama", False), ("llama", True), ("qwen2", False), ("qwen3moe", True)]
)
def test_no_key_is_ignored(path, rng, caplog, arch, experts):
    """Whatever is changed or taken away is refused, warned of, or changes what comes out."""
    tensors = ggufrandom.random_tensors(rng, arch, "Q8_0", experts=experts)
    metadata = {**ggufrandom.keys(arch, experts), **TOKENIZER, f"{arch}.vocab_size": 96,
                f"{arch}.rope.freq_base": 5000.0, f"{arch}.rope.dimension_count": 64,
                f"{arch}.attention.key_length": 64, f"{arch}.attention.value_length": 64,
                f"{arch}.rope.scaling.type": "none"}  # fmt: skip
    ggufmodel.write(path, arch, tensors, metadata)
    plain = outcome(path)
    assert plain is not None
    assert not caplog.records
    unused = {"qwen3moe": {"qwen3moe.feed_forward_length"}}.get(arch, set())
    for key, value in metadata.items():
        for other in others(value):
            ggufmodel.write(path, arch, tensors, {**metadata, key: other})
            caplog.clear()
            changed = outcome(path) != plain
            if key in unused and isinstance(other, int):
                continue
            assert changed or [r for r in caplog.records if r.levelno >= logging.WARNING], (
                key, other)  # fmt: skip


def answer(path):
    """None for an error that names the file, else the context and logits."""
    try:
        with dllama.LLM(path, threads=1) as llm:
            return llm.seq_len, llm.eval(range(3, 43)).tobytes()
    except DllamaError as error:
        return None if "model.gguf" in str(error) else str(error)


@pytest.mark.parametrize(
    "name",
    [
        "llama-bias",
        "llama-yarn",
        "granite",
        "granitemoe",
        "olmo2",
        "glm4",
        "exaone4",
        "gpt-oss",
        "qwen2_moe",
        "glm4_moe",
        "gemma2",
        "gemma3",
        "gemma4",
        "gemma4-moe",
    ],
)
def test_no_key_of_a_family_is_ignored(path, fixtures, caplog, name):
    ggufmodel.write_folder(path, fixtures / name, "F32")
    tensors, metadata = ggufmodel.read(path)
    arch = next(iter(metadata)).partition(".")[0]
    plain = answer(path)
    assert plain is not None
    silent = []
    # YaRN counts pairs in whole numbers. No layer of Qwen2-MoE has that width.
    rounded = ("original_context_length", "yarn_beta_fast", "qwen2moe.feed_forward_length")
    for key, value in metadata.items():
        for other in others(value):
            if other == value or (key.endswith(rounded) and not isinstance(other, str)):
                continue
            ggufmodel.write(path, arch, tensors, {**metadata, key: other})
            caplog.clear()
            if answer(path) == plain and not [
                r for r in caplog.records if r.name != "dllama.engine"
            ]:
                silent.append((key, other))
    assert not silent


def test_no_tensor_is_unused(path, rng):
    """Without any of them the file is refused, or the output is that of a tied model."""
    tensors = ggufrandom.random_tensors(rng, "qwen2", "Q8_0")
    ggufmodel.write(path, "qwen2", tensors, ggufrandom.keys("qwen2"))
    plain = outcome(path)
    for name in tensors:
        some = {one: tensor for one, tensor in tensors.items() if one != name}
        ggufmodel.write(path, "qwen2", some, ggufrandom.keys("qwen2"))
        found = outcome(path)
        assert found is None or (name == "output.weight" and found != plain), name
        array, kind = tensors[name]
        changed = np.array(array) if kind == 0 else np.roll(array, 34, axis=1)
        changed = changed[::-1].copy() if kind == 0 else changed
        ggufmodel.write(path, "qwen2", {**tensors, name: (changed, kind)},
                        ggufrandom.keys("qwen2"))  # fmt: skip
        assert outcome(path) != plain, name


def test_multipliers_of_granite(model):
    """Zeros stand for none; half of what blocks add is twice of all else."""
    scales = dict.fromkeys(ggufrandom.GRANITE, 0.0)
    with model(scales, "granite") as plain, model({}, "granite") as without:
        assert plain.spec == without.spec
        assert (plain.spec.attention_scale, plain.spec.embedding_scale) == (0.125, 1.0)
        epsilon = plain.spec.norm_epsilon
    given = dict(zip(ggufrandom.GRANITE, (3.0, 0.5, 0.25, 8.0), strict=True))
    with model(given, "granite") as opened:
        spec = opened.spec
    assert (spec.embedding_scale, spec.attention_scale) == (6.0, 0.25)
    assert (spec.logits_scale, spec.norm_epsilon) == (0.125, pytest.approx(4 * epsilon))
    with pytest.raises(FormatError, match=r"granite\.logit_scale is -1\.0, expected a number"):
        model({"granite.logit_scale": -1.0}, "granite")
    with pytest.raises(UnsupportedError, match=r"finetuned False is not supported, only True"):
        model({"granite.rope.scaling.finetuned": False}, "granite")  # a model without RoPE


@pytest.mark.parametrize("key", ["rope.scaling.factor", "rope.scale_linear"])
def test_linear_scaling(model, key):
    with model({f"llama.{key}": 4.0}) as opened:
        assert opened.spec.rope_scaling == linear(4.0)
    for arch in ("qwen2", "qwen3"):  # whose rows are not ordered for adjacent pairs
        with model({f"{arch}.{key}": 4.0}, arch) as opened:
            assert opened.spec.rope_type is RopeType.FALCON
            assert opened.spec.frequencies[0] == 0.25


def test_yarn(model):
    """Without keys the betas are 32 and 1, the original context is that of the file."""

    def spec(**changes):
        keys = {**YARN, **{f"rope.scaling.{key}": value for key, value in changes.items()}}
        with model({f"llama.{key}": value for key, value in keys.items()}) as opened:
            return opened.spec

    plain = spec()
    assert plain.rope_factor == pytest.approx(0.1 * np.log(4) + 1)
    same = {"original_context_length": 64, "yarn_beta_fast": 32.0, "yarn_beta_slow": 1.0,
            "attn_factor": 1.0, "yarn_ext_factor": 1.0}  # fmt: skip
    assert spec(**same) == plain
    assert spec(yarn_attn_factor=1.5).rope_factor == 1.5
    assert spec(attn_factor=2.0).rope_factor == pytest.approx(2 * plain.rope_factor)
    for key, value in {"original_context_length": 16, "yarn_beta_fast": 2.0,
                       "yarn_beta_slow": 0.1, "factor": 8.0}.items():  # fmt: skip
        assert spec(**{key: value}).frequencies != plain.frequencies, key
