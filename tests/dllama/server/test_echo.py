"""Prompts with their log probabilities: echo, as programs that evaluate models ask for it."""

from __future__ import annotations

import openai
import pytest
from serving import wait_until

import dllama
from dllama.perplexity import negative_log_likelihoods

PROMPT = "MACBETH:\nIs this a dagger?"


@pytest.fixture(scope="module")
def scored():
    """scored(ids): log probabilities of all ids but the first, from the logits."""
    with dllama.LLM(threads=1) as llm:

        def score(ids):
            llm.reset()
            return [-loss for loss in negative_log_likelihoods(llm.eval(ids)[:-1], ids[1:])]

        yield score


def ask(client, prompt, max_tokens, **options):
    options = {"echo": True, "max_tokens": max_tokens, **options}
    return client.completions.create(model="demo", prompt=prompt, **options)


def test_a_prompt_alone_is_scored(client, scored):
    with dllama.LLM(threads=1) as llm:
        ids = llm.tokenizer.encode(PROMPT)
    answer = ask(client, PROMPT, 0, logprobs=1)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == (PROMPT, "length")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(ids), 0)
    first, *rest = choice.logprobs.token_logprobs
    assert first is None
    assert choice.logprobs.top_logprobs[0] is None
    assert rest == pytest.approx(scored(ids), abs=1e-12)
    for value, top in zip(rest, choice.logprobs.top_logprobs[1:], strict=True):
        assert value <= max(top.values())
        assert len(top) in (1, 2), "the likeliest token, and the one of the prompt"
    assert "".join(choice.logprobs.tokens[1:]) == PROMPT
    for offset, token in zip(
        choice.logprobs.text_offset[1:], choice.logprobs.tokens[1:], strict=True
    ):
        assert PROMPT[offset:].startswith(token)


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_of_ids_and_what_follows(client, scored, expected, stream):
    """The same prompts again are scored again, though the server has evaluated them."""
    prompts = [[2043, 5, 9, 17], [2043, 5, 9], [7]]
    for _ in range(2):
        answer = ask(client, prompts, 3, logprobs=0, stream=stream)
        texts, values = ["", "", ""], [[], [], []]
        for chunk in answer if stream else [answer]:
            for choice in chunk.choices:
                texts[choice.index] += choice.text
                if choice.logprobs:
                    values[choice.index] += choice.logprobs.token_logprobs
        for ids, text, found in zip(prompts, texts, values, strict=True):
            made = expected(ids, 3, logprobs=0)
            with dllama.LLM(threads=1) as llm:
                assert text == llm.tokenizer.decode(ids) + "".join(token.text for token in made)
            generated = [token.logprob for token in made]
            assert found == pytest.approx([None, *scored(ids), *generated], abs=1e-12)


def test_without_log_probabilities_nothing_is_evaluated_for_it(client, server):
    first, again = (ask(client, PROMPT, 2, n=2) for _ in range(2))
    assert all(choice.text.startswith(PROMPT) for choice in first.choices)
    assert first.choices == again.choices
    usage = again.usage
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1


def test_prompts_that_are_only_scored_count(server, client):
    before = server.count("dllama_prompt_tokens_total")
    usage = ask(client, PROMPT, 0, logprobs=0).usage
    assert server.count("dllama_prompt_tokens_total") == before + usage.prompt_tokens
    nothing = client.completions.create(model="demo", prompt=PROMPT, max_tokens=0)
    assert (nothing.choices[0].text, nothing.usage.completion_tokens) == ("", 0)


def test_more_log_probabilities_than_memory_may_hold_are_refused(client, monkeypatch):
    monkeypatch.setattr("dllama.server.desk.MAX_SCORED", 48)
    assert len(ask(client, [5, 6, 7, 8], 0, logprobs=2, n=4).choices) == 4
    with pytest.raises(openai.BadRequestError, match="60 log probabilities of prompts") as found:
        ask(client, [5, 6, 7, 8], 0, logprobs=2, n=5)
    assert found.value.param == "logprobs"
    assert len(ask(client, [5, 6, 7, 8], 0, n=5).choices) == 5


def test_requests_together_get_a_limited_number_of_log_probabilities(client, server, monkeypatch):
    monkeypatch.setattr("dllama.server.desk.MAX_SCORED_AT_ONCE", 48)
    server.gate.shut()
    with ask(client, [5, 6, 7, 8], 0, logprobs=2, n=4, stream=True):
        with pytest.raises(openai.RateLimitError, match="other requests get too many") as found:
            ask(client, [5, 6, 7, 8], 0, logprobs=0)
        assert found.value.response.headers["retry-after"] == "5"
    server.gate.open()
    wait_until(lambda: not server.desk._scored)
    assert len(ask(client, [5, 6, 7, 8], 0, logprobs=2, n=4).choices) == 4


def test_an_end_of_sequence_has_a_log_probability(client):
    """So that there are as many as tokens were generated."""
    answer = client.completions.create(
        model="demo",
        prompt=PROMPT,
        max_tokens=5,
        logprobs=0,
        extra_body={"choice": ["No"]},
    )
    values = answer.choices[0].logprobs
    assert len(values.token_logprobs) == answer.usage.completion_tokens
