"""States and positions that may turn out wrong: they do not take them in until that is known."""

from __future__ import annotations

import numpy as np
import pytest
from guesses import Guesses
from stateful import SSM, write_stateful
from windowed import shorten_blocks

import dllama
from dllama.runtime.batch import Batch, Span
from dllama.runtime.block_pool import BlockPool
from dllama.runtime.sequence import Part
from dllama.runtime.sequences import Sequences
from dllama.sampling.sampler import Sampler, SamplerConfig

BLOCK, LENGTH = 16, 400
GREEDY = {"temperature": 0.0}
SAMPLED = {"temperature": 0.9, "seed": 3, "repetition_penalty": 1.1}


@pytest.fixture(scope="module", params=["delta", "ssm"])
def model(request, tmp_path_factory):
    """A model with gated delta networks, or one with Mamba-2."""
    changes = {} if request.param == "delta" else SSM
    return write_stateful(tmp_path_factory.mktemp(request.param) / "model.m", **changes)


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    """Verify all that is proposed, whatever it costs."""
    monkeypatch.setattr("dllama.drafts.Costs.worth", lambda self, chances, rows, most, s=0.0: most)


def new():
    whole = LENGTH // BLOCK
    full = BlockPool(8 * whole, BLOCK, whole)
    return Sequences(10**6, LENGTH, [full, BlockPool(6, BLOCK, 3, 2, states=True)])


def run(sequences, sequence, drafted=(), right=0):
    """Evaluate what is pending, then drafted ids, of which some are right; the span of the pass."""
    count = len(sequence.pending)
    ids = [*sequence.pending, *drafted]
    assert sequences.reserve(sequence, len(ids))
    part = Part(sequence, ids, range(0), len(drafted))
    batch = sequences.batch([part])
    sequences.runs([part])
    sequences.copied([part])
    sequences.evaluated(sequence, count, right)
    for token in [*drafted[:right], 7]:
        sequences.append(sequence, token)
    return batch.spans[0], batch.copies


def test_a_state_lags_behind_what_was_drafted():
    sequences = new()
    sequences.continue_from(list(range(1, 14)))
    one = sequences.current
    assert run(sequences, one, [50, 51, 52, 53, 54, 55], 4)[0][4:] == (0, 6)
    assert (one.position, one.pending, one.lag) == (17, [7], 4)
    assert [one.resumable(position) for position in (17, 16, 13, 12, 1)] == [17, 16, 13, 0, 0]
    span, _ = run(sequences, one)
    assert span[4:] == (4, 0)
    assert len(span.blocks[1]) == 2, "the changes are in the block that the state was in"
    assert (one.position, one.lag, one.resumable(17)) == (18, 0, 16)


def test_a_text_that_takes_its_beginning_takes_what_was_drafted():
    """Also from a place to which its state has not come, in the block after it."""
    sequences = new()
    sequences.continue_from(list(range(1, 14)))
    one = sequences.current
    run(sequences, one, [50, 51, 52, 53, 54], 5)
    one.busy = True
    source = one.held[1].numbers[0]
    for count, lag in ((18, 5), (15, 2), (13, 0)):
        fork = sequences.open([*one.tokens[:count], 9])
        assert (fork.position, fork.lag) == (count, lag)
        _, copies = run(sequences, fork)
        assert (1, source, fork.held[1].numbers[0]) in copies
        sequences.forget(fork)
    assert one.held[1].numbers[0] == source


def test_changes_after_a_whole_block_are_in_the_next_one():
    """So the state of the whole block can be shared while others change what follows."""
    sequences = new()
    sequences.continue_from(list(range(1, 17)))
    one = sequences.current
    run(sequences, one, [50, 51, 52], 3)
    assert (one.position, one.lag, len(one.held[1].numbers)) == (19, 3, 2)
    one.busy = True
    two = sequences.open([*one.tokens, 9])
    assert (two.position, two.lag) == (19, 3)
    _, copies = run(sequences, two)
    assert (1, one.held[1].numbers[1], two.held[1].numbers[1]) in copies
    assert one.held[1].numbers[0] == two.held[1].numbers[0]


@pytest.mark.parametrize(("nodes", "settings"), [(1, GREEDY), (1, SAMPLED), (3, GREEDY)])
def test_any_drafts_give_the_same_text(model, nodes, settings, rng, monkeypatch):
    """Right and wrong ones, in batches, and after going back to any place."""
    if nodes == 1:  # other processes have the usual blocks
        shorten_blocks(monkeypatch, BLOCK)
    prompts = [rng.integers(0, 2048, count).tolist() for count in (3, 240, 30)]
    options = {"threads": 1, "max_seq_len": LENGTH, "parallel": 2, "buffer": "f32"}
    with dllama.LLM(model, **options) as llm:
        found = [llm.generate_many([prompt], 50, **settings) for prompt in prompts]
        texts = [
            prompt + [token.id for _, token in one]
            for prompt, one in zip(prompts, found, strict=True)
        ]
    with dllama.LLM(model, nodes=nodes, draft="ngram", draft_tokens=7, **options) as llm:
        monkeypatch.setattr(llm._drafts, "drafter", lambda *_: Guesses(texts, rng))
        made = [list(prompt) for prompt in prompts]
        for at, token in llm.generate_many(prompts, 50, **settings):
            made[at].append(token.id)
        assert made == texts
        summary = llm.stats.summary()
        assert 0 < summary["accepted"] < summary["drafted"]
        if settings["temperature"]:
            return
        for place, count in zip(rng.integers(240, 280, 8), rng.integers(1, 30, 8), strict=True):
            llm.continue_from(texts[1][:place])
            tokens = llm.generate([], 290 - int(place), **settings)
            some = [token.id for _, token in zip(range(count), tokens, strict=False)]
            tokens.close()  # perhaps in the middle of what was drafted
            assert some == texts[1][place : place + count]
            llm.rewind(llm.position - int(rng.integers(0, 5)))


def test_a_small_model_takes_its_drafts_back(model, rng):
    """Its states do not take in what it proposes, so that it does not read texts again."""
    prompt = rng.integers(0, 2048, 40).tolist()
    options = {"threads": 1, "max_seq_len": LENGTH}
    with dllama.LLM(model, **options) as llm:
        expected = list(llm.generate(prompt, 60, temperature=0.0))
    with dllama.LLM(model, draft=model, draft_tokens=5, **options) as llm:
        small = llm._drafts._small
        assert list(llm.generate(prompt, 60, temperature=0.0)) == expected
        assert llm.stats.summary()["accepted"] > 40
        greedy, ids = Sampler(SamplerConfig(temperature=0.0)), [*prompt]
        for count in (0, 3, 1, 4):
            ids += [1, 2, 3, 4][:count]
            small.draft(ids, 5, greedy, 0)
            assert small._sequences.known([*ids, 5]) == len(ids)


def test_an_interrupted_pass_changes_no_text(model, rng, monkeypatch):
    """Nobody knows then whether the states have taken in its rows."""

    def interrupted(*arguments):
        run(*arguments)
        raise KeyboardInterrupt

    prompt = rng.integers(0, 2048, 40).tolist()
    with dllama.LLM(model, threads=1, max_seq_len=LENGTH) as llm:
        expected = [token.id for token in llm.generate(prompt, 20, temperature=0.0)]
        llm.reset()
        made = []
        run = llm._runner.root.run
        for _ in range(3):
            tokens = llm.generate([] if made else prompt, 20 - len(made), temperature=0.0)
            made += [next(tokens).id for _ in range(5)]
            with monkeypatch.context() as patch:
                patch.setattr(llm._runner.root, "run", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    next(tokens)
        made += [token.id for token in llm.generate([], 5, temperature=0.0)]
    assert made == expected


@pytest.mark.parametrize(
    ("position", "lag", "tentative"),
    [
        (9, 4, 0),
        (9, 0, 4),
        (9, -1, 0),
        (9, 0, -1),
        (2, 2, 0),
        (0, 0, 2),
        (9, 0, 3),
        (9, 1 << 31, 0),
    ],
)
def test_spans_that_do_not_fit_are_refused(model, position, lag, tentative):
    """Here are 2 rows, after or of which at most 3 positions may be tentative."""
    with dllama.LLM(model, threads=1, draft="ngram", draft_tokens=3) as llm:
        blocks = [[0]] * len(llm._sequences.current.held)
        span = Span(2, position, blocks, False, lag, tentative)
        with pytest.raises(
            ValueError, match=f"lag {lag} and then {tentative} positions behind 2 rows"
        ):
            llm._runner.root._node.run(np.zeros(2, np.int32), Batch([span], []))
