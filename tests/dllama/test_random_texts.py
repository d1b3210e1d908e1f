"""Texts that begin, wait, end and go on in any order, in little memory, with any drafts."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from stateful import write_stateful
from windowed import shorten_blocks, write_windowed

import dllama

SAMPLINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.9, "seed": 3},
    {"temperature": 0.8, "top_k": 5, "seed": 1, "repetition_penalty": 1.2},
)


class Player:
    """Does random things with a model, and knows what each text has alone."""

    def __init__(self, seed: int, llm: dllama.LLM, alone: dllama.LLM) -> None:
        self.random = random.Random(seed)
        self.llm, self._alone = llm, alone
        self.texts: list[tuple[Any, list[int], list[int]]] = []  # text, its tokens, those expected
        length = llm.seq_len
        self._bases = [[self.random.randrange(2048) for _ in range(length)] for _ in range(2)]

    def work(self) -> tuple[list[int], int, dict[str, Any]]:
        """A prompt that may share a beginning with others, a number of tokens, and settings."""
        base = self.random.choice(self._bases)
        prompt = base[: self.random.randint(0, len(base) // 2)]
        prompt += [5, 6, 7] * self.random.choice([0, 0, 8])
        prompt.append(self.random.randrange(2048))
        count = self.random.randint(1, min(24, self.llm.seq_len - len(prompt)))
        return prompt, count, {**self.random.choice(SAMPLINGS), "ignore_eos": True}

    def expected(self, prompt: list[int], count: int, settings: dict[str, Any]) -> list[int]:
        self._alone.reset()
        return [token.id for token in self._alone.generate(prompt, count, **settings)]

    def submit(self) -> None:
        work = self.work()
        text = self.llm.submit(work[0], work[1], **work[2])
        self.texts.append((text, [], self.expected(*work)))

    def take(self) -> None:
        """Take some tokens, and compare."""
        for text, found, expected in list(self.texts):
            while self.random.random() < 0.7 and (token := text.take()):
                found.append(token.id)
            assert found == expected[: len(found)]
            if text.done:
                assert text.cut or len(found) == len(expected)
                self.texts.remove((text, found, expected))

    def cancel(self) -> None:
        if self.texts:
            self.random.choice(self.texts)[0].cancel()

    def generate(self) -> None:
        """Generate a text in the current sequence, maybe not to its end."""
        prompt, count, settings = self.work()
        self.llm.continue_from(prompt)
        found = []
        for token in self.llm.generate([], count, **settings):
            found.append(token.id)
            if self.random.random() < 0.1:
                break
        assert found == self.expected(prompt, count, settings)[: len(found)]
        assert self.llm.tokens == tuple(prompt + found)[: self.llm.position]
        self.llm.rewind(self.random.randint(0, self.llm.position))

    def check_blocks(self) -> None:
        """Every KV block has as many users as are counted."""
        sequences = self.llm._sequences
        for cache, pool in enumerate(sequences._pools):
            held = [one.held[cache] for one in sequences._by_use]
            users = Counter(block for one in held for block in one.numbers)
            users.update(one.copied[0] for one in held if one.copied)
            assert [users[block] for block in range(pool.count)] == pool._users


@pytest.fixture(scope="module", params=["demo", "windows", "one window", "states"])
def model(request, tmp_path_factory):
    """A model without windows, with windows in some layers, in all, and with linear attention."""
    if request.param == "demo":
        return None
    if request.param == "states":
        return write_stateful(tmp_path_factory.mktemp("stateful") / "model.m")
    layers = (0, 1, 3) if request.param == "windows" else range(6)
    return write_windowed(tmp_path_factory.mktemp("windowed") / "model.m", layers=layers)


@pytest.mark.parametrize("seed", range(8))
def test_texts_have_the_tokens_that_they_have_alone(seed, model, monkeypatch):
    if model:
        shorten_blocks(monkeypatch, 16)
    choose = random.Random(seed)
    monkeypatch.setattr(
        "dllama.drafts.Costs.worth",
        lambda self, chances, rows, most, s=0.0: choose.randint(0, most),
    )
    options = {
        "parallel": choose.randint(1, 4), "contexts": choose.randint(1, 2),
        "max_seq_len": choose.choice([64, 300]), "batch_size": choose.choice([4, 16, 256]),
        "draft": choose.choice(["none", "ngram"]),
    }  # fmt: skip
    if model and "stateful" in str(model):
        options["draft"] = "none"
    with (
        dllama.LLM(model, threads=1, **options) as llm,
        dllama.LLM(model, threads=1, max_seq_len=options["max_seq_len"]) as alone,
    ):
        player = Player(seed, llm, alone)
        actions = [player.submit, llm.step, llm.step, player.take, player.take, player.cancel,
                   player.generate]  # fmt: skip
        for action in choose.choices(actions, [4, 5, 5, 4, 4, 1, 1], k=250):
            action()
            player.check_blocks()
        while player.texts:
            llm.step()
            player.take()
        llm.reset()
        assert all(pool.free == pool.count for pool in llm._sequences._pools)
