"""LongRoPE: a text that outgrows the original context has other frequencies, at all positions."""

from __future__ import annotations

import numpy as np
import pytest

import dllama

# Texts of up to 16 tokens are short ones in this fixture.
SHORT = 12
COUNT = 14


@pytest.fixture
def reference(fixtures):
    """Ids, logits of a long and of a short text, and greedy ids, by transformers."""
    stored = np.load(fixtures / "phi3" / "reference.npz")
    ids = stored["tokens"].ravel().tolist()
    logits, short = (stored[name].reshape(-1, 160) for name in ("logits", "logits_short"))
    return ids, logits, short, stored["greedy"].ravel().tolist()


def near(found, expected):
    """Whether logits are equal but for the last digits."""
    return np.abs(found - expected).max() < 1e-4 * expected.std()


@pytest.mark.parametrize("nodes", [1, 2])
def test_equals_transformers_at_every_length(standing, converted, reference, nodes):
    ids, logits, short, greedy = reference
    where = {"workers": standing(1), "buffer": "f32"} if nodes == 2 else {}
    with dllama.LLM(converted("phi3", "f32"), threads=1, **where) as llm:
        assert near(llm.eval(ids[:SHORT]), short)
        assert near(llm.eval(ids[SHORT:]), logits[SHORT:])
        assert llm.position == len(ids)
        llm.rewind(5)
        assert near(llm.eval(ids[5:SHORT]), short[5:])
        llm.reset()
        drawn = [t.id for t in llm.generate(ids, len(greedy), temperature=0.0, ignore_eos=True)]
        assert drawn == greedy


@pytest.fixture(scope="module")
def grown(converted):
    """A text that becomes long while it is generated, each token from a pass over all of it."""
    ids = [7, 30, 7, 30, 7, 30, 9, 7, 30, 7]
    with dllama.LLM(converted("phi3", "f32"), threads=1) as llm:
        for _ in range(COUNT):
            llm.reset()
            ids.append(int(llm.eval(ids)[-1].argmax()))
    return ids[:10], ids[10:]


@pytest.mark.parametrize("options", [{}, {"draft": "ngram"}, {"batch_size": 3}])
def test_a_text_may_become_long_while_it_is_generated(converted, grown, options):
    prompt, expected = grown
    with dllama.LLM(converted("phi3", "f32"), threads=1, **options) as llm:
        drawn = [t.id for t in llm.generate(prompt, COUNT, temperature=0.0, ignore_eos=True)]
        assert drawn == expected
        assert list(llm.tokens) == prompt + expected[:-1]


def test_texts_of_a_pass_become_long_one_by_one(converted, grown):
    prompt, expected = grown
    prompts = [prompt, prompt[:3], prompt + expected, prompt[:6]]
    options = {"temperature": 0.0, "ignore_eos": True}
    alone = []
    for one in prompts:
        with dllama.LLM(converted("phi3", "f32"), threads=1) as llm:
            alone.append([token.id for token in llm.generate(one, COUNT, **options)])
    with dllama.LLM(converted("phi3", "f32"), threads=1, parallel=4) as llm:
        found = [[] for _ in prompts]
        for number, token in llm.generate_many(prompts, COUNT, **options):
            found[number].append(token.id)
        assert found == alone
