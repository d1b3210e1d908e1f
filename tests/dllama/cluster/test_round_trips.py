"""How often a root asks its workers in a pass: as often as for the text with the most questions."""

from __future__ import annotations

import pytest

import dllama
from dllama.cluster import protocol
from dllama.cluster.protocol import Kind

PROMPTS = [[token] for token in (5, 17, 300, 41, 2, 1000, 77, 640)]
TOKENS = 6
PENALTY = {"repetition_penalty": 1.3}
# How many questions a token takes; None if that depends on the token.
SETTINGS = [
    ({"temperature": 0.0}, 0),
    ({"temperature": 0.0, **PENALTY}, 1),
    ({"temperature": 0.9, "top_p": 1.0}, 1),
    ({"temperature": 0.9, "top_p": 1.0, **PENALTY}, 2),
    ({"temperature": 0.9, "top_k": 20, **PENALTY, "logprobs": 3}, 3),
    ({"temperature": 0.9, "top_p": 0.8}, None),
    ({"temperature": 1.5, "top_p": 0.9, "min_p": 0.02, **PENALTY}, None),
]


@pytest.fixture
def asked(monkeypatch):
    """Bytes of all questions that are sent to workers."""
    lengths = []

    def send(link, kind, content=b"", true=protocol.send):
        if kind == Kind.ASK:
            lengths.append(len(content))
        true(link, kind, content)

    monkeypatch.setattr(protocol, "send", send)
    return lengths


def round_trips(llm, prompts, asked, settings):
    """Tokens of texts that begin together, and how often the workers were asked for each token."""
    llm.reset()
    texts = [llm.submit(prompt, TOKENS, seed=3, ignore_eos=True, **settings) for prompt in prompts]
    found, counts = [[] for _ in texts], []
    for _ in range(TOKENS):
        before = len(asked)
        llm.step()
        counts.append((len(asked) - before) // (llm.nodes - 1))
        for text, tokens in zip(texts, found, strict=True):
            tokens.append(text.take())
    assert all(text.done for text in texts)
    return found, counts


@pytest.mark.parametrize("nodes", [2, 3])
def test_eight_texts_take_as_many_round_trips_as_the_longest_of_them(asked, nodes):
    with dllama.LLM(nodes=nodes, threads=1, parallel=8, max_seq_len=64) as llm:
        for settings, questions in SETTINGS:
            alone = [round_trips(llm, [prompt], asked, settings) for prompt in PROMPTS]
            tokens, counts = round_trips(llm, PROMPTS, asked, settings)
            assert counts == [max(one) for one in zip(*(each for _, each in alone), strict=True)]
            assert [[t.id for t in text] for text in tokens] == [
                [t.id for t in text] for (text,), _ in alone
            ]
            if questions is not None:
                assert counts == [questions] * TOKENS, settings


class Guesses:
    """A drafter that nearly always is wrong."""

    chances = (0.9,) * 5

    def propose(self, ids, most):
        return [9, 5, 9, 5, 9][:most]

    def learn(self, proposed, accepted):
        pass


def test_drafts_are_checked_together(asked, monkeypatch):
    """Rows after a wrong one take no further round trips."""
    monkeypatch.setattr("dllama.drafts.Costs.worth", lambda self, chances, rows, most, s=0.0: most)
    settings = {"temperature": 0.9, "top_k": 20, **PENALTY, "logprobs": 3}
    with dllama.LLM(nodes=2, threads=1, parallel=8, max_seq_len=64) as llm:
        monkeypatch.setattr(llm._drafts, "drafter", lambda *_: None)
        expected, _ = round_trips(llm, PROMPTS[:3], asked, settings)
        monkeypatch.setattr(llm._drafts, "drafter", lambda *_: Guesses())
        found, counts = round_trips(llm, PROMPTS[:3], asked, settings)
        summary = llm.stats.summary()
    assert found == expected
    assert counts == [3] * TOKENS
    assert summary["drafted"] == 3 * (5 + 4 + 3 + 2 + 1)
