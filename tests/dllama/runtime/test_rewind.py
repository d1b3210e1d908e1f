"""A context that is rewound and continued: the same bits as one that is read from its beginning."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import dllama
from dllama.text.stream import End

MODEL = "llama-gqa"


@pytest.fixture(scope="module", params=[1, 2])
def llm(request, converted):
    """A model on one node or two."""
    options = {"threads": 1, "batch_size": 16, "max_seq_len": 128}
    with dllama.LLM(converted(MODEL, "q40"), nodes=request.param, **options) as model:
        yield model


def from_scratch(llm, ids):
    """Logits of a context that begins with these ids."""
    llm.reset()
    return llm.eval(ids)


def test_random_cuts_give_the_same_bits(llm, rng):
    for _ in range(6):
        first, second = rng.integers(0, 192, (2, 100)).tolist()
        cut, length = sorted(rng.integers(0, 101, 2).tolist())
        expected = from_scratch(llm, first[:cut] + second[: length - cut])
        from_scratch(llm, first)
        llm.rewind(cut)
        assert llm.tokens == tuple(first[:cut])
        logits = llm.eval(second[: length - cut])
        np.testing.assert_array_equal(logits, expected[cut:])
        assert llm.position == len(llm.tokens) == length


def test_a_prompt_goes_on_from_what_it_shares(llm, rng):
    """Turns of a conversation: some shared beginning, the pending token, a shorter prompt."""
    options = {"temperature": 0.9, "repetition_penalty": 1.2, "seed": 5, "ignore_eos": True}
    ids = rng.integers(0, 192, 40).tolist()
    llm.reset()
    for new in (0, 3, 20):
        evaluated = len(llm.tokens)
        kept = llm.continue_from(ids)
        assert kept == (min(evaluated, len(ids) - 1) if new else 0)
        steps = len(llm.stats.steps)
        again = [token.id for token in llm.generate([], 6, **options)]
        assert sum(step.tokens for step in llm.stats.steps[steps:]) == len(ids) - kept + 5
        tokens, stats = llm.tokens, list(llm.stats.steps)
        llm.reset()
        assert [token.id for token in llm.generate(ids, 6, **options)] == again
        assert llm.tokens == tokens == (*ids, *again[:-1])
        llm.stats.steps.extend(stats)
        ids += again + rng.integers(0, 192, new + 1).tolist()
    assert llm.continue_from(ids[:30]) == 29
    assert llm.tokens == tuple(ids[:29])
    other = [*ids[:10], (ids[10] + 1) % 192, *ids[11:30]]
    assert llm.continue_from(other) == 10
    (last,) = llm.generate([], 1, temperature=0.0)
    assert last.id == from_scratch(llm, other)[-1].argmax()


def test_what_does_not_fit_changes_nothing(llm):
    llm.reset()
    llm.eval([1, 2, 3])
    with pytest.raises(dllama.ContextError, match="129 tokens do not fit in a context of 128"):
        llm.continue_from([1] * 129)
    for ids, message in (([], "no tokens"), ([192], "token id"), (["a"], "token id")):
        with pytest.raises(dllama.ConfigError, match=message):
            llm.continue_from(ids)
    for position in (-1, 4):
        with pytest.raises(dllama.ConfigError, match=f"position is {position}, expected 0 to 3"):
            llm.rewind(position)
    assert llm.tokens == (1, 2, 3)
    assert llm.continue_from([1, 2, 3, *[4] * 125]) == 3
    assert len(list(llm.generate([], ignore_eos=True))) == 1


def test_the_penalty_counts_the_whole_context(llm, rng):
    """Not only what the last call brought."""
    ids = rng.integers(0, 192, 30).tolist()
    options = {"temperature": 0.0, "repetition_penalty": 3.0, "ignore_eos": True}
    llm.reset()
    expected = [token.id for token in llm.generate(ids, 5, **options)]
    llm.reset()
    llm.eval(ids[:-1])
    assert [token.id for token in llm.generate(ids[-1:], 5, **options)] == expected


def test_an_interrupted_text_ends_with_its_next_token(llm, rng):
    ids = rng.integers(0, 192, 20).tolist()
    llm.reset()
    expected = [token.id for token in llm.generate(ids, 9, temperature=0.0, ignore_eos=True)]
    llm.reset()
    found = []
    for token in llm.generate(ids, 9, temperature=0.0, ignore_eos=True):
        found.append(token)
        if len(found) == 3:
            llm.interrupt()
    assert [token.id for token in found] == expected[:4]
    assert [token.end for token in found] == [None, None, None, End.INTERRUPT]
    assert [t.id for t in llm.generate([], 5, temperature=0.0, ignore_eos=True)] == expected[4:]


def test_why_a_text_ends(llm):
    llm.reset()
    tokens = list(llm.generate([1, 2, 3], 9, temperature=0.0))
    assert [token.end for token in tokens] == [None] * 8 + [End.LENGTH]
    stop = tokens[4].id
    llm.reset()
    ended = list(llm.generate([1, 2, 3], 9, temperature=0.0, stop_ids=[stop], ignore_eos=True))
    assert ended[-1].id == stop
    assert [token.end for token in ended] == [None] * (len(ended) - 1) + [End.EOS]
    with pytest.raises(dllama.ConfigError, match="token id"):
        llm.generate([1], 1, stop_ids=[192])


def test_an_interrupted_prompt_is_finished_later(llm, rng):
    """It ends after a batch of 16; what is not evaluated waits."""
    ids = rng.integers(0, 192, 60).tolist()
    expected = from_scratch(llm, ids)[-1].argmax()
    llm.reset()
    text = llm.generate(ids, 1, temperature=0.0)
    thread = threading.Thread(target=llm.interrupt)
    thread.start()
    thread.join()
    assert list(text) == []
    assert llm.position == 16
    assert [token.id for token in llm.generate([], 1, temperature=0.0)] == [expected]
    llm.interrupt()
    llm.reset()
    assert len(list(llm.generate(ids, 3, ignore_eos=True))) == 3


@pytest.mark.parametrize("where", ["run", "rows"])
@pytest.mark.parametrize("nodes", [1, 2])
def test_an_exception_of_a_signal_handler(converted, monkeypatch, nodes, where):
    """One node goes on as if nothing had been. Several do not: a worker's message may be unread."""
    greedy = {"temperature": 0.0, "ignore_eos": True}
    with dllama.LLM(converted(MODEL, "q40"), nodes=nodes, threads=1) as llm:
        expected = [token.id for token in llm.generate([1, 2, 3], 4, **greedy)]
        llm.reset()
        root = llm._runner.root
        call = getattr(root, where)

        def interrupted(*arguments):
            call(*arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(root, where, interrupted)
            with pytest.raises(KeyboardInterrupt):
                list(llm.generate([1, 2, 3], 4, **greedy))
        llm.continue_from([1, 2, 3])
        if nodes == 1:
            assert [token.id for token in llm.generate([], 4, **greedy)] == expected
            return
        with pytest.raises(dllama.ModelError, match="interrupted during a pass"):
            list(llm.generate([], 4, **greedy))
