"""Drafts: the same tokens as without, whatever is proposed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from guesses import Guesses

import dllama
from dllama.model_path import DEMO
from dllama.scheduling.scheduler import Scheduler

PLAY = """\
MACBETH:
To-morrow, and to-morrow, and to-morrow,
Creeps in this petty pace from day to day
"""
SETTINGS = (
    {"temperature": 0.0},
    {"temperature": 0.9, "seed": 3, "repetition_penalty": 1.1},
    {"temperature": 0.6, "top_k": 9, "seed": 5, "logprobs": 2},
)


@pytest.fixture
def eager(monkeypatch):
    """Verify all that is proposed, whatever it costs."""
    monkeypatch.setattr("dllama.drafts.Costs.worth", lambda self, chances, rows, most, s=0.0: most)


@pytest.mark.parametrize("nodes", [1, 2, 3])
@pytest.mark.parametrize("settings", SETTINGS, ids=["greedy", "sampled", "top-k"])
def test_any_drafts_give_the_same_text(nodes, settings, eager, rng, monkeypatch):
    """Right and wrong ones, several texts at once, until a text ends in the middle of a draft."""
    prompts = ["MACBETH:\n", PLAY, "KING"]
    options = {"threads": 1, "nodes": nodes, "parallel": 2, "draft_tokens": 5}
    with dllama.LLM(**options) as llm:
        expected = []
        for prompt in prompts:
            llm.reset()
            expected.append(list(llm.generate(prompt, 40, ignore_eos=True, **settings)))
        ids = [llm.tokenizer.prompt_ids(prompt, True) for prompt in prompts]
        texts = [a + [token.id for token in b] for a, b in zip(ids, expected, strict=True)]
        drafters = []

        def drafter(sampler, prompt, constraint):
            drafters.append(Guesses(texts, rng))
            return drafters[-1]

        monkeypatch.setattr(llm._drafts, "drafter", drafter)
        llm.reset()
        for at, prompt in enumerate(prompts):
            llm.reset()
            assert list(llm.generate(prompt, 40, ignore_eos=True, **settings)) == expected[at]
            assert llm.tokens == tuple(texts[at][:-1])
        summary = llm.stats.summary()
        assert 0 < summary["accepted"] < summary["drafted"]
        found = [[] for _ in prompts]
        for number, token in llm.generate_many(prompts, 40, ignore_eos=True, **settings):
            found[number].append(token)
        assert found == expected
        assert any(accepted for one in drafters for _, accepted in one.learnt)


@pytest.mark.parametrize("settings", SETTINGS, ids=["greedy", "sampled", "top-k"])
@pytest.mark.parametrize("draft", ["ngram", str(DEMO)])
def test_the_drafters_give_the_same_text(settings, draft, eager):
    with dllama.LLM(threads=1) as llm:
        expected = list(llm.generate(PLAY * 3, 80, **settings))
    with dllama.LLM(threads=1, draft=draft) as llm:
        assert list(llm.generate(PLAY * 3, 80, **settings)) == expected
        summary = llm.stats.summary()
    assert summary["drafted"] > 0
    if draft != "ngram":  # the model itself, with the same random numbers
        assert summary["accepted"] == summary["drafted"]


def test_drafts_on_many_nodes_give_the_text_of_one_without(standing, eager):
    """Texts that repeat themselves, several in a pass."""
    prompts = [PLAY * 2, "KING:\n" * 5, PLAY]
    options = {"threads": 1, "max_seq_len": 256, "parallel": 3, "buffer": "f32"}

    def texts(llm):
        found, counts = [], np.zeros(2)
        for settings in SETTINGS:
            llm.reset()
            found.append([[] for _ in prompts])
            for number, token in llm.generate_many(prompts, 16, ignore_eos=True, **settings):
                best = [one for one, _ in token.top]
                found[-1][number].append((token.id, token.text, best))
            summary = llm.stats.summary()
            counts += summary["drafted"], summary["accepted"]
        return found, counts

    with dllama.LLM(**options) as llm:
        expected, _ = texts(llm)
    for nodes in (4, 8):
        with dllama.LLM(workers=standing(nodes - 1), draft="ngram", **options) as llm:
            found, (drafted, accepted) = texts(llm)
        assert found == expected
        assert 0 < accepted < drafted


def test_what_was_not_taken_does_not_count(eager, rng, monkeypatch):
    """A reader may stop between tokens that came with one pass."""
    greedy = {"temperature": 0.0, "ignore_eos": True}
    with dllama.LLM(threads=1, draft="ngram") as llm:
        ids = llm.tokenizer.prompt_ids(PLAY, True)
        whole = [token.id for token in llm.generate(ids, 30, **greedy)]
        for taken in range(1, 12):
            llm.reset()
            guesses = Guesses([ids + whole], rng)
            monkeypatch.setattr(llm._drafts, "drafter", lambda *_, one=guesses: one)
            tokens = llm.generate(ids, 30, **greedy)
            first = [token.id for token in itertools.islice(tokens, taken)]
            assert llm.position == len(ids) + taken - 1
            rest = [token.id for token in llm.generate([], 30 - taken, **greedy)]
            assert first + rest == whole


def test_a_stop_string_in_a_draft_ends_the_text(eager, rng, monkeypatch):
    greedy = {"temperature": 0.0, "ignore_eos": True}
    with dllama.LLM(threads=1, draft="ngram") as llm:
        ids = llm.tokenizer.prompt_ids(PLAY, True)
        whole = list(llm.generate(ids, 40, **greedy))
        text = "".join(token.text for token in whole)
        stop = text[len(text) // 2 :][:7]
        guesses = Guesses([ids + [token.id for token in whole]], rng)
        monkeypatch.setattr(llm._drafts, "drafter", lambda *_: guesses)
        llm.reset()
        found = list(llm.generate(ids, 40, stop=stop, **greedy))
        assert "".join(token.text for token in found) == text[: text.index(stop)]
        assert llm.position == len(ids) + len(found) - 1
        np.testing.assert_array_equal(
            llm.eval([9]), llm.reset() or llm.eval([*ids, *(t.id for t in found), 9])[-1:]
        )


def test_drafts_fill_no_more_than_a_pass_has_room_for(eager, monkeypatch):
    """Rows of a batch, positions of the context, and tokens that are asked for."""
    greedy = {"temperature": 0.0, "ignore_eos": True}
    rows = []
    plan = Scheduler._plan

    def planned(self):
        turns = plan(self)
        rows.append(sum(len(turn.part().ids) for turn in turns))
        return turns

    monkeypatch.setattr(Scheduler, "_plan", planned)
    ids = [5, 6, 7] * 12
    with dllama.LLM(threads=1, draft="ngram", batch_size=8, max_seq_len=60) as llm:
        assert len(list(llm.generate(ids, **greedy))) == 60 - 36 + 1
        assert llm.position == 60
        assert max(rows) == 8
        llm.reset()
        assert len(list(llm.generate(ids, 2, **greedy))) == 2


def test_a_draft_model_has_the_same_tokens(chat_model):
    with pytest.raises(dllama.ConfigError, match="whose tokens are not those of"):
        dllama.LLM(threads=1, draft=chat_model)
    with pytest.raises(dllama.ModelError, match="nowhere"):
        dllama.LLM(threads=1, draft="nowhere")
    for count in (0, 64):
        with pytest.raises(dllama.ConfigError, match="draft_tokens is"):
            dllama.LLM(threads=1, draft="ngram", draft_tokens=count)
