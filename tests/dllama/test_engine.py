"""The engine against transformers, against the oracle, and against itself."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import llama as oracle
from oracle.model_file import read_model

import dllama
from dllama._kernels import cpu
from dllama.converter.convert import WEIGHTS
from dllama.model.file import ModelFile, ModelWriter
from dllama.model.spec import Arch
from dllama.model.weight_types import WeightType
from dllama.text.stream import End

MODELS = ("llama-gqa", "llama-mha-odd", "llama31-tied", "mistral")
NEAR_TIE = 1e-3
SLOW = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def reference(fixtures, name):
    """Tokens, logits (T, vocab) and greedy ids from transformers in float32."""
    stored = np.load(fixtures / name / "reference.npz")
    tokens = stored["tokens"].ravel()
    return tokens, stored["logits"].reshape(len(tokens), -1), stored["greedy"].ravel()


@pytest.mark.parametrize("name", MODELS)
def test_f32_logits_equal_transformers(converted, fixtures, name):
    tokens, logits, _ = reference(fixtures, name)
    with dllama.LLM(converted(name, "f32"), threads=2) as llm:
        result = llm.eval(tokens)
    assert np.abs(result - logits).max() < 1e-4 * logits.std()


@pytest.mark.parametrize("name", MODELS)
def test_f32_greedy_ids_equal_transformers(converted, fixtures, name):
    """Up to the first near tie of the two best logits."""
    tokens, _, greedy = reference(fixtures, name)
    with dllama.LLM(converted(name, "f32"), threads=2) as llm:
        generated = llm.generate(
            tokens.tolist(), max_tokens=len(greedy), temperature=0.0, ignore_eos=True
        )
        ids = [token.id for token in generated]
        llm.reset()
        logits = llm.eval([*tokens, *greedy])[len(tokens) - 1 : -1]
    best = np.sort(logits, axis=1)[:, -2:]
    clear = best[:, 1] - best[:, 0] > NEAR_TIE
    until = len(greedy) if clear.all() else int(np.argmin(clear))
    assert until > 0
    assert ids[:until] == greedy[:until].tolist()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("weights", sorted({*WEIGHTS} - {"f32"}))
def test_logits_equal_the_oracle_on_the_same_weights(converted, fixtures, name, weights):
    """The tolerance is how much the oracle changes if its activations change by one millionth.

    An int8 activation near a rounding border may be rounded either way, so logits may differ a
    little more than float32 sums do.
    """
    tokens, _, _ = reference(fixtures, name)
    folder = converted(name, weights)
    spec, tensors = read_model(folder / "model.m")
    options = {"halves": False, "kv_type": WeightType.F16}
    expected = oracle.forward(tensors, spec, tokens, **options)
    moved = [
        np.abs(oracle.forward(tensors, spec, tokens, jitter=jitter, **options) - expected).max()
        for jitter in (1e-6, -1e-6)
    ]
    with dllama.LLM(folder, threads=2) as llm:
        error = np.abs(llm.eval(tokens) - expected)
    tolerance = 1e-4 * expected.std() + 3 * max(moved)
    assert error.max() < tolerance
    assert np.median(error) < 0.01 * expected.std()


@pytest.mark.parametrize("weights", ["f32", "q40"])
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_same_bits_for_any_thread_count(converted, fixtures, weights, threads):
    tokens, _, _ = reference(fixtures, "llama-gqa")
    folder = converted("llama-gqa", weights)
    with dllama.LLM(folder, threads=1) as one, dllama.LLM(folder, threads=threads) as many:
        np.testing.assert_array_equal(one.eval(tokens), many.eval(tokens))


@pytest.mark.parametrize("weights", ["f32", "q40"])
@SLOW
@given(data=st.data())
def test_same_bits_however_a_prompt_is_cut(converted, weights, data):
    folder = converted("llama-gqa", weights)
    batch = data.draw(st.integers(1, 300))
    cuts = data.draw(st.lists(st.integers(0, 240), max_size=5).map(sorted))
    tokens = np.random.default_rng(3).integers(0, 192, 240)
    with dllama.LLM(folder, threads=2) as whole, dllama.LLM(folder, batch_size=batch) as cut:
        expected = whole.eval(tokens)
        found = [cut.eval(ids) for ids in np.split(tokens, cuts)]
    np.testing.assert_array_equal(np.concatenate(found), expected)


def test_same_bits_on_every_instruction_set(converted, tmp_path):
    """Including the baseline, which is plain C."""
    folder = converted("llama-gqa", "q40")
    results = []
    for isa in cpu.available():
        output = tmp_path / f"{isa}.npy"
        code = (
            "import sys, numpy as np, dllama\n"
            "llm = dllama.LLM(sys.argv[1], threads=2)\n"
            "np.save(sys.argv[2], llm.eval(list(range(100))))\n"
        )
        environment = {**os.environ, "DLLAMA_ISA": isa}
        command = [sys.executable, "-c", code, str(folder), str(output)]
        subprocess.run(command, env=environment, check=True, cwd=tmp_path)
        results.append(np.load(output))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize(("kv_cache", "most"), [("f16", 0.01), ("q80", 0.05)])
def test_a_short_cache_is_close_to_float32(converted, fixtures, kv_cache, most):
    tokens, logits, _ = reference(fixtures, "llama-gqa")
    with dllama.LLM(converted("llama-gqa", "f32"), kv_cache=kv_cache) as llm:
        error = np.abs(llm.eval(tokens) - logits).max()
    assert 0 < error < most * logits.std()


def test_context_goes_on_between_calls(converted, fixtures):
    tokens, _, _ = reference(fixtures, "llama-gqa")
    ids = tokens.tolist()
    with dllama.LLM(converted("llama-gqa", "f32")) as llm:
        at_once = [t.id for t in llm.generate(ids, 12, temperature=0.0, ignore_eos=True)]
        llm.reset()
        assert llm.position == 0
        llm.eval(ids[:7])
        assert llm.position == 7
        first = [t.id for t in llm.generate(ids[7:], 5, temperature=0.0, ignore_eos=True)]
        rest = [t.id for t in llm.generate([], 7, temperature=0.0, ignore_eos=True)]
    assert first + rest == at_once


def test_eval_after_generate_includes_the_last_token(converted):
    with dllama.LLM(converted("llama-gqa", "f32")) as llm:
        ids = [t.id for t in llm.generate([1, 2, 3], 4, temperature=0.0, ignore_eos=True)]
        after = llm.eval([9])
        llm.reset()
        np.testing.assert_array_equal(after, llm.eval([1, 2, 3, *ids, 9])[-1:])


def test_context_overflow_is_an_error_before_it_happens(converted):
    with dllama.LLM(converted("llama-gqa", "q40"), max_seq_len=16) as llm:
        llm.eval(range(10))
        for call in (
            lambda: llm.eval(range(7)),
            lambda: llm.generate(list(range(7)), 1),
            lambda: llm.generate([1, 2], 6),
        ):
            with pytest.raises(dllama.ContextError, match="context of 16"):
                call()
            assert llm.position == 10
        assert len(list(llm.generate([1, 2], 5, ignore_eos=True))) == 5


def test_without_max_tokens_the_context_fills(converted):
    with dllama.LLM(converted("llama-gqa", "q40"), max_seq_len=16) as llm:
        assert len(list(llm.generate([1, 2], ignore_eos=True))) == 15
        assert llm.position == 16


def test_arguments_are_checked(converted):
    folder = converted("llama-gqa", "q40")
    for arguments, word in (
        ({"threads": 0}, "threads"),
        ({"threads": True}, "threads"),
        ({"nodes": 0}, "nodes"),
        ({"nodes": 5}, "nodes is 5, expected at most 4"),
        ({"nodes": 3, "workers": ["127.0.0.1:1"]}, "nodes is 3, but there are 1 workers"),
        ({"workers": ["127.0.0.1:1", "127.0.0.1:1"]}, "127.0.0.1:1 is given twice"),
        ({"workers": ["127.0.0.1"]}, "address is '127.0.0.1', expected HOST:PORT"),
        ({"workers": ["ib://a:1"]}, "no transport has the scheme 'ib'"),
        ({"workers": ["127.0.0.1:1"], "transport": "unix"}, "no address of transport unix"),
        ({"transport": "carrier"}, "transport is 'carrier', expected one of blocking"),
        ({"nodes": 2, "shares": [1]}, "shares"),
        ({"nodes": 2, "shares": [1, 0]}, "shares"),
        ({"nodes": 2, "threads": [1]}, "threads"),
        ({"nodes": 2, "all_reduce": "ring"}, "all_reduce is 'ring'"),
        ({"timeout": 0}, "timeout"),
        ({"secret_file": "/none"}, "secret file /none: No such file"),
        ({"buffer": "q41"}, "buffer"),
        ({"max_seq_len": 0}, "max_seq_len"),
        ({"max_seq_len": 257}, "max_seq_len"),
        ({"kv_cache": "f8"}, "kv_cache"),
        ({"batch_size": 0}, "batch_size"),
    ):
        with pytest.raises(dllama.ConfigError, match=word):
            dllama.LLM(folder, **arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": Arch.QWEN3, "n_experts": 2, "n_active_experts": 1}, "qwen3 with 2 experts"),
        ({"arch": Arch.QWEN3_MOE}, "architecture qwen3_moe with 0 experts"),
    ],
)
def test_models_that_no_family_runs_are_refused(converted, tmp_path, changes, message):
    with ModelFile.open(converted("llama-gqa", "q40") / "model.m") as file:
        spec = replace(file.spec, **changes)
    path = tmp_path / "model.m"
    with ModelWriter(path, spec) as writer:
        for info in writer.tensors.values():
            writer.write_rows(info.name, np.zeros(info.shape, np.float32))
        writer.commit()
    with pytest.raises(dllama.UnsupportedError, match=rf"model\.m: .*{message}"):
        dllama.LLM(path)


def test_tokens_are_checked(converted):
    with dllama.LLM(converted("llama-gqa", "q40")) as llm:
        for bad in ([-1], [192], [1.5], ["a"], [True]):
            with pytest.raises(dllama.ConfigError, match="token id"):
                llm.eval(bad)
            with pytest.raises(dllama.ConfigError, match="token id"):
                llm.generate(bad, 1)
        with pytest.raises(dllama.ConfigError, match="no tokenizer"):
            llm.generate("text", 1)
        with pytest.raises(dllama.ConfigError, match="no tokenizer"):
            llm.generate([1], 1, stop="x")
        for stop in ([""], 5, [5]):
            with pytest.raises(dllama.ConfigError, match="stop is"):
                llm.generate([1], 1, stop=stop)
        with pytest.raises(dllama.ConfigError, match="empty"):
            llm.generate([], 1)
        with pytest.raises(dllama.ConfigError, match="max_tokens"):
            llm.generate([1], -1)
        assert llm.eval([]).shape == (0, 192)
        assert list(llm.generate([1], 0)) == []
        assert llm.position == 0


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(dllama.ModelError, match="nowhere"):
        dllama.LLM(tmp_path / "nowhere")
    with pytest.raises(dllama.ModelError, match=r"0 \.m files"):
        dllama.LLM(tmp_path)


def test_closed_engine_says_so(converted):
    llm = dllama.LLM(converted("llama-gqa", "q40"))
    llm.close()
    llm.close()
    with pytest.raises(dllama.ModelError, match="closed"):
        llm.eval([1])


def test_a_seed_repeats_a_text():
    with dllama.LLM() as llm:
        texts = []
        for seed in (1, 1, 2):
            llm.reset()
            texts.append("".join(t.text for t in llm.generate("ROMEO:\n", 40, seed=seed)))
    assert texts[0] == texts[1] != texts[2]


def test_demo_text_joins_to_the_decoded_ids():
    with dllama.LLM() as llm:
        prompt = llm.tokenizer.encode("MACBETH:\n")
        tokens = list(llm.generate("MACBETH:\n", 50, seed=4, ignore_eos=True))
        assert llm.tokenizer.decode([t.id for t in tokens]) == "".join(t.text for t in tokens)
        assert llm.position == len(prompt) + 49


def test_stop_strings_cut_the_text():
    with dllama.LLM() as llm:
        whole = "".join(t.text for t in llm.generate("MACBETH:\n", 60, temperature=0.0))
        middle = len(whole) // 2
        stop = whole[middle : middle + 9]
        llm.reset()
        tokens = list(llm.generate("MACBETH:\n", 60, temperature=0.0, stop=["zzz", stop]))
    assert "".join(token.text for token in tokens) == whole[: whole.index(stop)]
    assert tokens[-1].end is End.STOP


def test_an_eos_id_ends_the_text():
    with dllama.LLM() as llm:
        ids = [t.id for t in llm.generate("MACBETH:\n", 30, temperature=0.0)]
        llm.tokenizer.eos_ids = (ids[9],)
        llm.reset()
        until = [t.id for t in llm.generate("MACBETH:\n", 30, temperature=0.0)]
        assert until == ids[: ids.index(ids[9]) + 1]
        llm.reset()
        on = llm.generate("MACBETH:\n", 30, temperature=0.0, ignore_eos=True)
        assert [t.id for t in on] == ids


def test_statistics_add_up():
    with dllama.LLM(batch_size=8) as llm:
        list(llm.generate(list(range(20)), 6, temperature=0.0, ignore_eos=True))
        prefill, decode = llm.stats.phase("prefill"), llm.stats.phase("decode")
        assert [step.tokens for step in prefill] == [8, 8, 4]
        assert [step.tokens for step in decode] == [1] * 5
        for step in llm.stats.steps:
            assert 0 < step.inference_ms <= step.total_ms
            assert step.transfer_ms == 0


def test_memory_is_told(converted):
    with dllama.LLM(converted("llama-gqa", "q40"), max_seq_len=64) as llm:
        memory = llm.memory()
    assert memory["kv_cache"] == 2 * 2 * 64 * 32 * 2 * 2  # layers, heads, positions, size, k+v, f16
    with dllama.LLM(converted("llama-gqa", "q40"), max_seq_len=64, kv_cache="q80") as llm:
        assert llm.memory()["kv_cache"] == 2 * 2 * 64 * 34 * 2  # blocks of 32 in 34 bytes
    assert memory["weights"] > 100_000
    assert memory["buffers"] > 0
