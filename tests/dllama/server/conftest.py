"""A server that the tests of a file share, and a client of it."""

from __future__ import annotations

import pytest
from serving import connect, serving, wait_until

import dllama
from dllama.sampling.grammar import GrammarText


@pytest.fixture(scope="module")
def running():
    with serving(limit=2) as started:
        yield started


@pytest.fixture
def server(running):
    """The server with its gate open and no requests of earlier tests."""
    running.gate.open()
    wait_until(lambda: running.count("dllama_requests_running") == 0)
    return running


@pytest.fixture
def client(server):
    """OpenAI's client, connected to the server."""
    with connect(server.url) as made:
        yield made


@pytest.fixture
def says(monkeypatch):
    """says(value, kind): the grammar of what the model answers from now on."""

    def say(value, kind="choice"):
        def grammar(self, asked):
            return self.grammars.compile(GrammarText(kind, value, kind))

        monkeypatch.setattr("dllama.server.served.Served.grammar", grammar)

    return say


@pytest.fixture(scope="module")
def expected():
    """expected(prompt, **options): tokens that LLM.generate gives in an empty context."""
    with dllama.LLM(threads=1) as llm:

        def generate(prompt, max_tokens=12, temperature=0.0, **options):
            llm.reset()
            return list(llm.generate(prompt, max_tokens, temperature=temperature, **options))

        yield generate
