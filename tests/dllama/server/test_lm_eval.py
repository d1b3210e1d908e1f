"""Tasks of lm-evaluation-harness through /v1/completions, where it is installed."""

from __future__ import annotations

import json
import math

import pytest
import yaml

import dllama
from dllama.model_path import DEMO
from dllama.perplexity import negative_log_likelihoods, perplexity

lm_eval = pytest.importorskip("lm_eval")

TASKS = {
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "byte_perplexity"}],
    },
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
        "target_delimiter": "\n",
        "metric_list": [{"metric": "acc"}],
    },
    "generate": {
        "output_type": "generate_until",
        "doc_to_text": "{{query}}",
        "doc_to_target": "",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 12},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(scope="module")
def speeches(data):
    """Who speaks, and what is said."""
    paragraphs = (data / "heldout.txt").read_text(encoding="utf-8").split("\n\n")
    found = [tuple(text.split(":\n", 1)) for text in paragraphs if ":\n" in text]
    return [one for one in found if len(one[1]) > 70][:6]


@pytest.fixture(scope="module")
def samples(running, speeches, tmp_path_factory):
    """What each task asked and got."""
    folder = tmp_path_factory.mktemp("tasks")
    documents = {
        "rolling": [{"text": f"{name}:\n{said}"} for name, said in speeches],
        "choice": [
            {"query": f"{name}:", "choices": [one[:40] for _, one in speeches], "gold": number}
            for number, (name, _) in enumerate(speeches)
        ],
        "generate": [{"query": f"{name}:\n{said[:50]}"} for name, said in speeches],
    }
    for name, task in TASKS.items():
        file = folder / f"{name}.jsonl"
        file.write_text("\n".join(json.dumps(one) for one in documents[name]))
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}}
        made = {"task": name, "test_split": "test", **source, **task}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(made))
    arguments = {
        "model": "demo", "base_url": f"{running.url}/v1/completions", "tokenizer": str(DEMO),
        "tokenizer_backend": "huggingface", "max_length": 512,
    }  # fmt: skip
    return lm_eval.simple_evaluate(
        "local-completions", arguments, list(TASKS), batch_size=4, log_samples=True,
        bootstrap_iters=0, task_manager=lm_eval.tasks.TaskManager(include_path=str(folder)),
    )["samples"]  # fmt: skip


@pytest.fixture(scope="module")
def llm():
    with dllama.LLM(threads=1) as opened:
        yield opened


def test_a_rolling_task_finds_the_perplexity_of_the_command(samples, llm):
    for sample in samples["rolling"]:
        ids = llm.tokenizer.encode(sample["doc"]["text"], add_bos=False)
        measured = perplexity(llm, ids, 512)
        assert sample["resps"][0][0] == pytest.approx(
            -math.log(measured.perplexity) * measured.tokens, abs=1e-9
        )


def test_a_multiple_choice_task_finds_the_likelihoods_of_the_logits(samples, llm):
    for sample in samples["choice"]:
        for ((value, _),), choice in zip(sample["resps"], sample["doc"]["choices"], strict=True):
            asked = llm.tokenizer.encode(sample["doc"]["query"], add_bos=False)
            both = llm.tokenizer.encode(f"{sample['doc']['query']}\n{choice}", add_bos=False)
            ids = asked + both[len(asked) :]
            llm.reset()
            losses = negative_log_likelihoods(llm.eval(ids)[:-1], ids[1:])
            assert value == pytest.approx(-losses[len(asked) - 1 :].sum(), abs=1e-9)


def test_a_generating_task_gets_the_texts_of_the_model(samples, llm):
    for sample in samples["generate"]:
        llm.reset()
        ids = llm.tokenizer.encode(sample["doc"]["query"], add_bos=False)
        made = llm.generate(ids, 12, temperature=0.0, stop="\n\n")
        assert sample["resps"][0][0] == "".join(token.text for token in made)
