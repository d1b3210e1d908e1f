"""All families except dense Llama, against transformers, the oracle, and themselves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from oracle import grok
from oracle import llama as oracle
from oracle.model_file import read_model
from safetensors.numpy import load_file, save_file

import dllama
from dllama._kernels import cpu
from dllama.converter import convert
from dllama.converter.families import mixtral
from dllama.errors import FormatError, UnsupportedError
from dllama.model.file import ModelFile, ModelWriter
from dllama.model.spec import Arch, HiddenAct, ModelSpec, QKNorm
from dllama.model.weight_types import WeightType
from dllama.run_config import NUMBERS, RunConfig
from dllama.runtime.footprint import footprint

# Logits of phi3 depend on how long the text is (test_lengthened_texts.py).
MODELS = (
    "qwen2", "qwen3", "qwen3-moe", "mixtral", "granite", "llama-linear", "smollm3",
    "mistral-window", "qwen2-window", "llama-bias", "llama-yarn", "olmo2", "glm4",
    "exaone4", "granitemoe", "qwen2_moe", "glm4_moe", "qwen3-moe-mix", "gemma2", "gemma3", "phi3",
    "gemma4", "gemma4-moe", "gpt-oss", "gpt-oss-mxfp4", "deepseek_v2", "deepseek_v3", "qwen3_5",
    "qwen3_5_moe", "qwen3_next", "starcoder2", "stablelm", "falcon-h1", "falcon-h1-norm",
)  # fmt: skip
MIXTURES = (
    "gpt-oss", "qwen3-moe", "qwen3-moe-mix", "mixtral", "granitemoe", "qwen2_moe", "glm4_moe",
    "deepseek_v2", "deepseek_v3", "qwen3_5_moe", "qwen3_next", "grok",
)  # fmt: skip
GEMMAS = ("gemma4", "gemma4-moe")
NEAR_TIE = 1e-3
TOKENS = list(range(3, 90))


@pytest.fixture(scope="session")
def folder_of(converted, tmp_path_factory):
    """The model folder of a fixture, or of a tiny Grok, with a weight type."""
    done = {}

    def get(name, weights):
        if name != "grok":
            return converted(name, weights)
        if weights not in done:
            place = tmp_path_factory.mktemp("grok")
            source = grok.write_folder(place / "source", grok.tensors())
            done[weights] = convert(source, place / "model", weights, progress=False).output
        return done[weights]

    return get


def reference(fixtures, name):
    """Tokens, logits (T, vocab) and greedy ids from transformers in float32."""
    stored = np.load(fixtures / name / "reference.npz")
    tokens = stored["tokens"].ravel()
    return tokens, stored["logits"].reshape(len(tokens), -1), stored["greedy"].ravel()


@pytest.mark.parametrize("name", MODELS)
def test_f32_equals_transformers(converted, fixtures, name):
    """Logits, and greedy ids up to the first near tie of the two best logits."""
    tokens, logits, greedy = reference(fixtures, name)
    with dllama.LLM(converted(name, "f32"), threads=2) as llm:
        assert np.abs(llm.eval(tokens) - logits).max() < 1e-4 * logits.std()
        llm.reset()
        generated = llm.generate(tokens.tolist(), len(greedy), temperature=0.0, ignore_eos=True)
        ids = [token.id for token in generated]
        llm.reset()
        after = llm.eval([*tokens, *greedy])[len(tokens) - 1 : -1]
    best = np.sort(after, axis=1)[:, -2:]
    clear = best[:, 1] - best[:, 0] > NEAR_TIE
    until = len(greedy) if clear.all() else int(np.argmin(clear))
    assert until > 0
    assert ids[:until] == greedy[:until].tolist()


def test_grok_equals_its_reference(folder_of):
    expected = grok.forward(grok.tensors(), TOKENS)
    with dllama.LLM(folder_of("grok", "f32"), threads=2) as llm:
        assert np.abs(llm.eval(TOKENS) - expected).max() < 1e-3 * expected.std()
        assert llm.spec.hidden_act is HiddenAct.GELU


@pytest.mark.parametrize(
    ("name", "weights"),
    [*((name, "q40") for name in (*MODELS, "grok")), ("qwen3-moe", "q80"), ("mixtral", "f16")],
)
def test_logits_equal_the_oracle_on_the_same_weights(folder_of, name, weights):
    """The tolerance is how much the oracle changes if its activations change by a rounding.

    A token whose second and third expert have almost the same score may take either. There are few
    such tokens, and the median ignores them.
    """
    folder, tokens = folder_of(name, weights), TOKENS[:40]
    spec, tensors = read_model(folder / "model.m")
    expected = oracle.forward(tensors, spec, tokens, kv_type=WeightType.F16)
    moved = oracle.forward(tensors, spec, tokens, kv_type=WeightType.F16, jitter=1e-6)
    with dllama.LLM(folder, threads=2) as llm:
        error = np.abs(llm.eval(tokens) - expected)
    assert error.max() < 0.05 * expected.std() + 3 * np.abs(moved - expected).max()
    assert np.median(error) < 0.01 * expected.std()


@pytest.mark.parametrize(
    ("name", "weights"),
    [*((name, "q40") for name in (*MODELS, "grok") if name != "phi3"), ("qwen3-moe", "f32")],
)
def test_same_bits_for_any_threads_batches_and_nodes(standing, folder_of, name, weights):
    folder = folder_of(name, weights)
    with dllama.LLM(folder, threads=1) as llm:
        expected = llm.eval(TOKENS)
    with dllama.LLM(folder, threads=3, batch_size=29) as llm:
        logits = [llm.eval(ids) for ids in np.split(np.array(TOKENS), [1, 2, 9, 60])]
    np.testing.assert_array_equal(np.concatenate(logits), expected)
    with dllama.LLM(folder, workers=standing(1), threads=1, buffer="f32") as llm:
        np.testing.assert_array_equal(llm.eval(TOKENS), expected)


@pytest.mark.parametrize(
    ("name", "nodes"), [*((name, 3) for name in (*MODELS, "grok")), ("qwen3-moe", 4)]
)
def test_more_nodes_than_kv_heads(standing, folder_of, name, nodes):
    """There are 2 KV heads, and experts of 2 blocks, so some nodes have no hidden units."""
    folder = folder_of(name, "f32")
    with dllama.LLM(folder, threads=1) as llm:
        expected = llm.eval(TOKENS)
    with dllama.LLM(folder, workers=standing(nodes - 1), threads=1, buffer="f32") as llm:
        result = llm.eval(TOKENS)
        memory = [llm.memory(rank) for rank in range(nodes)]
    assert np.abs(result - expected).max() < 1e-4 * expected.std()
    with ModelFile.open(folder / "model.m") as file:
        config = RunConfig.of(file.spec, nodes, buffer="f32")
        assert [footprint(file, config, threads=1, rank=r) for r in range(nodes)] == memory


# An expert that all tokens share, with fewer units than the others, and with more.
ROUTER = {"n_experts": 6, "router_sigmoid": True, "router_correction": True, "expert_groups": 3,
          "expert_groups_taken": 2, "expert_group_best": 2, "expert_scale": 2.5}  # fmt: skip
SHARED = {
    "none": {},
    "few": {**ROUTER, "shared_hidden_dim": 160},
    "many": {"moe_hidden_dim": 64, "shared_hidden_dim": 416, "shared_gate": True},
    "parallel": {
        "n_experts": 0, "n_active_experts": 0, "moe_hidden_dim": 0, "dense": (), "o_bias": True,
        "ffn_bias": True, "ffn_gated": False, "layer_norms": True, "parallel_residual": True,
        "qk_norm": QKNorm.APART, "rope_dim": 8,
    },
    "linear": {
        "attention_gate": True,
        "linear": (1,),
        "linear_key_heads": 3,
        "linear_taps": 3,
        "linear_value_heads": 6,
        "linear_key_dim": 24,
        "linear_value_dim": 40,
    },
    "gemma4": {
        "dense_beside": True,
        "full_head_dim": 64,
        "full_kv_heads": 2,
        "keys_as_values": True,
        "kv_shared_hidden_dim": 640,
        "kv_shared_layers": 2,
        "layer_input_dim": 24,
        "layer_scales": True,
        "n_layers": 5,
        "qk_norm": QKNorm.HEAD,
        "qkv_bias": False,
        "value_norm": True,
        "windowed": (0, 2, 3),
    },
}  # fmt: skip


def random_model(path, **changes):
    """A model with all features of Grok and others, enough heads and units for 8 nodes."""
    spec = ModelSpec(
        arch=Arch.LLAMA, dim=136, hidden_dim=512, n_layers=3, n_heads=8, n_kv_heads=4, head_dim=32,
        vocab_size=96, seq_len=128, weight_type=WeightType.F32, hidden_act=HiddenAct.GELU,
        n_experts=5, n_active_experts=3, moe_hidden_dim=384, dense=(2,), topk_normalised=False,
        qkv_bias=True, post_norms=True,
        embedding_scale=7.5, attention_scale=0.25, attention_cap=4.0, logits_scale=0.5,
        no_rope=(1,), window=11, windowed=(0,), window_rope_theta=500.0, logits_cap=2.5,
    )  # fmt: skip
    spec = replace(spec, **changes)
    rng = np.random.default_rng(5)
    with ModelWriter(path, spec) as writer:
        for info in writer.tensors.values():
            gain = info.shape[-1] ** -0.5 if len(info.shape) > 1 else 1.0
            writer.write_rows(
                info.name, (gain * rng.standard_normal(info.shape)).astype(np.float32)
            )
        writer.commit()


@pytest.mark.parametrize("shared", SHARED)
def test_same_bits_on_one_to_eight_nodes(standing, tmp_path, shared):
    """dim is not a multiple of the rows of an item."""
    random_model(tmp_path / "model.m", **SHARED[shared])
    with dllama.LLM(tmp_path, threads=1) as llm:
        expected = llm.eval(TOKENS)
    with dllama.LLM(tmp_path, threads=3, batch_size=29) as llm:
        logits = [llm.eval(ids) for ids in np.split(np.array(TOKENS), [1, 2, 9, 60])]
    np.testing.assert_array_equal(np.concatenate(logits), expected)
    spec, tensors = read_model(tmp_path / "model.m")
    reference = oracle.forward(tensors, spec, TOKENS)
    assert np.abs(expected - reference).max() < 1e-4 * reference.std()
    for nodes in range(2, 9):
        workers = standing(nodes - 1)
        with dllama.LLM(tmp_path, workers=workers, threads=1, buffer="f32") as llm:
            np.testing.assert_array_equal(llm.eval(TOKENS), expected)


@pytest.mark.parametrize("kv_cache", ["f16", "q80"])
def test_short_caches_give_the_same_bits_on_one_to_eight_nodes(standing, tmp_path, kv_cache):
    """In batches of any size, too, and after rewinding."""
    random_model(tmp_path / "model.m")
    spec, tensors = read_model(tmp_path / "model.m")
    with dllama.LLM(tmp_path, threads=1, kv_cache=kv_cache) as llm:
        expected = llm.eval(TOKENS)
    reference, full = (
        oracle.forward(tensors, spec, TOKENS, kv_type=kind)
        for kind in (NUMBERS[kv_cache], WeightType.F32)
    )
    error, rounding = np.abs(expected - reference), np.abs(full - reference)
    assert error.mean() < 0.1 * rounding.mean(), "not that of the type"
    with dllama.LLM(tmp_path, threads=3, batch_size=29, kv_cache=kv_cache) as llm:
        llm.eval(TOKENS)
        llm.rewind(37)
        np.testing.assert_array_equal(llm.eval(TOKENS[37:]), expected[37:])
    for nodes in (2, 3, 5, 8):
        workers, options = standing(nodes - 1), {"threads": 1, "kv_cache": kv_cache}
        with dllama.LLM(tmp_path, workers=workers, buffer="f32", **options) as llm:
            np.testing.assert_array_equal(llm.eval(TOKENS), expected)


def test_experts_that_no_token_takes_are_not_computed(tmp_path):
    """All scores are equal, so the first 3 of 5 experts are taken; the others would overflow."""
    random_model(tmp_path / "model.m")
    with ModelFile.open(tmp_path / "model.m") as file:
        table = file.tensors
    stored = np.memmap(tmp_path / "model.m", np.uint8, "r+")
    results = []
    for value in (1.0, 3e38):
        for name, info in table.items():
            numbers = stored[info.offset : info.offset + info.nbytes].view(np.float32)
            if name.endswith("router"):
                numbers[:] = 0
            elif ".experts.3." in name or ".experts.4." in name:
                numbers[:] = value
        stored.flush()
        with dllama.LLM(tmp_path, threads=2) as llm:
            results.append(np.concatenate([llm.eval(TOKENS[:1]), llm.eval(TOKENS[1:])]))
    np.testing.assert_array_equal(*results)
    assert np.isfinite(results[1]).all()


def test_same_bits_on_every_instruction_set(folder_of, tmp_path):
    results = []
    for isa in cpu.available():
        output = tmp_path / f"{isa}.npy"
        code = (
            "import sys, numpy as np, dllama\n"
            "logits = [dllama.LLM(p, threads=2).eval(range(50)) for p in sys.argv[2:]]\n"
            "np.save(sys.argv[1], np.concatenate([one.ravel() for one in logits]))\n"
        )
        folders = [str(folder_of(name, "q40")) for name in (*MIXTURES, *GEMMAS)]
        command = [sys.executable, "-c", code, str(output), *folders]
        environment = {**os.environ, "DLLAMA_ISA": isa}
        subprocess.run(command, env=environment, check=True, cwd=tmp_path)
        results.append(np.load(output))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("name", MIXTURES)
def test_two_transfers_a_layer(folder_of, name):
    """Only two sums of each layer are sent, whatever else the layer does."""
    with ModelFile.open(folder_of(name, "q40") / "model.m") as file:
        config = RunConfig.of(file.spec, 4)
        graph = dllama.runtime.node.graph_of(file.spec, config, 1)
    sums = [task.layer for task in graph.tasks if task.op == "all_reduce"]
    assert sums == [layer for layer in range(file.spec.n_layers) for _ in range(2)]
    assert sum(task.op == "broadcast" for task in graph.tasks) == 1


@pytest.mark.parametrize("name", GEMMAS)
def test_transfers_of_gemma4(folder_of, name):
    """A feed-forward network beside experts takes one more, per-layer inputs one at the start."""
    with ModelFile.open(folder_of(name, "q40") / "model.m") as file:
        graph = dllama.runtime.node.graph_of(file.spec, RunConfig.of(file.spec, 4), 1)
    ops = [task.op for task in graph.tasks if task.op in ("all_reduce", "broadcast")]
    dense = ["broadcast", "broadcast", *2 * file.spec.n_layers * ["all_reduce"]]
    assert ops == (dense if name == "gemma4" else [dense[0], *3 * file.spec.n_layers * [dense[-1]]])


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe"])
def test_fused_experts_give_the_same_file(fixtures, tmp_path, name):
    """Newer folders have gate_up_proj and down_proj of all experts."""
    expected = convert(fixtures / name, tmp_path / "a", progress=False).output / "model.m"
    source = shutil.copytree(fixtures / name, tmp_path / "source")
    path = source / "model.safetensors"
    tensors = load_file(path)
    old, names = "mlp", ("gate_proj", "up_proj", "down_proj")
    if name == "mixtral":
        old, names = "block_sparse_moe", ("w1", "w3", "w2")
    count = json.loads((source / "config.json").read_text())["num_local_experts"]
    for layer in range(2):
        at = f"model.layers.{layer}."
        gate, up, down = (
            np.stack([tensors.pop(f"{at}{old}.experts.{e}.{n}.weight") for e in range(count)])
            for n in names
        )
        tensors[at + "mlp.experts.gate_up_proj"] = np.concatenate([gate, up], axis=1)
        tensors[at + "mlp.experts.down_proj"] = down
        tensors[at + "mlp.gate.weight"] = tensors.pop(f"{at}{old}.gate.weight")
    save_file(tensors, path)
    config = json.loads((source / "config.json").read_text())
    config["num_experts"] = config.pop("num_local_experts")
    (source / "config.json").write_text(json.dumps(config))
    fused = convert(source, tmp_path / "b", progress=False).output / "model.m"
    assert fused.read_bytes() == expected.read_bytes()
    tensors[at + "mlp.experts.gate_up_proj"] = np.zeros((3, 3, 128), np.float16)
    save_file(tensors, path)
    with pytest.raises(FormatError, match=r"shape of .*gate_up_proj .* equal parts"):
        convert(source, tmp_path / "c", progress=False)


@pytest.mark.parametrize(
    ("name", "changes", "error", "message"),
    [
        ("mixtral", {"num_experts_per_tok": 5}, FormatError, "num_experts_per_tok is 5"),
        ("mixtral", {"num_experts_per_tok": 0}, FormatError, "num_experts_per_tok is 0"),
        ("mixtral", {"num_local_experts": None}, FormatError, "num_local_experts is None"),
        ("mixtral", {"num_local_experts": 3}, UnsupportedError, "6 tensors are not used"),
        ("mixtral", {"num_local_experts": 5}, FormatError, r"experts\.4\.w1\.weight is missing"),
        ("qwen3-moe", {"mlp_only_layers": [2]}, FormatError, "mlp_only_layers"),
        ("qwen3-moe", {"mlp_only_layers": 1}, FormatError, "mlp_only_layers"),
        ("qwen3-moe", {"decoder_sparse_step": 0}, FormatError, "decoder_sparse_step"),
        ("qwen3-moe", {"norm_topk_prob": 1}, FormatError, "norm_topk_prob is 1"),
        ("qwen3-moe", {"moe_intermediate_size": None}, FormatError, "moe_intermediate_size"),
        ("qwen3-moe", {"moe_intermediate_size": 48}, FormatError, "moe_hidden_dim is 48"),
        ("qwen3", {"attention_bias": True}, UnsupportedError, "attention_bias"),
        ("qwen3", {"head_dim": None}, FormatError, "shape of .*q_proj"),
        ("qwen2", {"use_sliding_window": "no"}, FormatError, "use_sliding_window is 'no'"),
        ("qwen2", {"hidden_act": "relu"}, UnsupportedError, "hidden_act 'relu'"),
    ],
)
def test_refuses_configs_it_cannot_represent(fixtures, tmp_path, name, changes, error, message):
    source = shutil.copytree(fixtures / name, tmp_path / "source")
    config = {**json.loads((source / "config.json").read_text()), **changes}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(error, match=message):
        convert(source, tmp_path / "out", progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_what_a_mixtral_need_not_say(fixtures):
    config = json.loads((fixtures / "mixtral" / "config.json").read_text())
    config |= {"rms_norm_eps": None, "rope_theta": None, "rope_parameters": None}
    spec = mixtral.read_config(config, WeightType.Q40, "config.json")
    assert (spec.norm_epsilon, spec.rope_theta) == (1e-5, 1e6)


def test_probabilities_that_do_not_add_up_to_one(fixtures, tmp_path):
    """If norm_topk_prob is false or absent, weights are the router's probabilities."""
    source = shutil.copytree(fixtures / "qwen3-moe", tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "norm_topk_prob": None}))
    folder = convert(source, tmp_path / "out", "f32", progress=False).output
    spec, tensors = read_model(folder / "model.m")
    assert not spec.topk_normalised
    expected = oracle.forward(tensors, spec, TOKENS[:20])
    with dllama.LLM(folder) as llm:
        assert np.abs(llm.eval(TOKENS[:20]) - expected).max() < 1e-4 * expected.std()
