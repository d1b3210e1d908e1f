"""`dllama perplexity`."""

from __future__ import annotations

import json

import pytest

import dllama
from dllama.cli import main
from dllama.model_path import DEMO
from dllama.perplexity import perplexity

TEXT = "ROMEO:\nBut soft, what light through yonder window breaks?\n"


@pytest.fixture
def text(tmp_path):
    """A file with a short text."""
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def test_prints_what_the_function_gives(capsys, text):
    with dllama.LLM() as llm:
        expected = perplexity(llm, llm.tokenizer.encode(TEXT, add_bos=False), 16)
    assert main(["perplexity", str(text), "--context", "16"]) == 0
    line = capsys.readouterr().out
    assert line.startswith(
        f"perplexity {expected.perplexity:.4f} of {expected.tokens} tokens in windows of 16, "
    )


def test_json(capsys, text, tmp_path):
    path = tmp_path / "result.json"
    assert main(["perplexity", str(text), "--quiet", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert set(result) == {"model", "file", "perplexity", "tokens", "context", "tokens_per_s"}
    assert result["context"] == 512
    assert capsys.readouterr().err == ""


def test_against_another_model(capsys, text, tmp_path):
    path = tmp_path / "result.json"
    words = ["perplexity", str(text), "--against", str(DEMO), "--quiet", "--json", str(path)]
    assert main(words) == 0
    said = capsys.readouterr().out.splitlines()[1]
    assert said == "divergence 0.0000 nats per token from demo, same likeliest token 100.0%"
    result = json.loads(path.read_text())
    assert (result["divergence"], result["same_top"]) == (0.0, 1.0)


def test_a_kv_cache_against_the_default_one(capsys, text, tmp_path):
    """--kv-cache is not for the reference, so the same model tells what the type costs."""
    path = tmp_path / "result.json"
    words = ["--against", str(DEMO), "--kv-cache", "q80", "--quiet", "--json", str(path)]
    assert main(["perplexity", str(text), *words]) == 0
    capsys.readouterr()
    assert 0 < json.loads(path.read_text())["divergence"] < 0.001


def test_against_a_model_with_other_tokens(capsys, text, converted):
    other = converted("llama-gqa", "q40")
    assert main(["perplexity", str(text), "--against", str(other), "--quiet"]) == 2
    assert "against is a model of 192 tokens, expected 2048" in capsys.readouterr().err


def test_trace(text, tmp_path):
    path = tmp_path / "trace.json"
    words = ["--nodes", "2", "--threads", "1", "--context", "16", "--trace", str(path)]
    assert main(["perplexity", str(text), *words]) == 0
    events = json.loads(path.read_text())["traceEvents"]
    with dllama.LLM() as llm:
        windows = -(-len(llm.tokenizer.encode(TEXT, add_bos=False)) // 15)
    turns = [event["pid"] for event in events if event["name"] == "rope 0"]
    assert sorted(turns) == windows * [0] + windows * [1]
