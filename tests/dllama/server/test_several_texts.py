"""Requests for several texts: several prompts, n and best_of."""

from __future__ import annotations

import openai
import pytest
from serving import connect, wait_until

from dllama import Token
from dllama.server.delivery import Text
from dllama.server.desk import likeliest
from dllama.server.queue.jobs import Done

PROMPTS = ["MACBETH:\n", [2043, 5, 9], "JULIET:\n"]
ASKED = [{"role": "user", "content": "Who are you?"}]


def text(tokens):
    return "".join(token.text for token in tokens)


def test_several_prompts(client, expected):
    answers = [
        client.completions.create(model="demo", prompt=prompt, max_tokens=4)
        for prompt in (["MACBETH:\n", "JULIET:\n"], [[2043, 5, 9], [7]])
    ]
    for prompts, answer in zip(
        (["MACBETH:\n", "JULIET:\n"], [[2043, 5, 9], [7]]), answers, strict=True
    ):
        assert [choice.index for choice in answer.choices] == [0, 1]
        assert [choice.text for choice in answer.choices] == [
            text(expected(prompt, 4)) for prompt in prompts
        ]
        assert answer.usage.completion_tokens == 8
    assert answers[1].usage.prompt_tokens == 4


def test_a_stream_of_several_prompts(client, expected):
    prompts = ["MACBETH:\n", "JULIET:\n"]
    chunks = list(
        client.completions.create(
            model="demo", prompt=prompts, n=2, max_tokens=4, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    *chunks, last = chunks
    assert len({chunk.id for chunk in chunks}) == 1
    found = ["", "", "", ""]
    for chunk in chunks:
        found[chunk.choices[0].index] += chunk.choices[0].text
    assert found == [text(expected(prompt, 4)) for prompt in prompts for _ in range(2)]
    ends = [chunk.choices[0].index for chunk in chunks if chunk.choices[0].finish_reason]
    assert sorted(ends) == [0, 1, 2, 3]
    assert last.choices == []
    once = client.completions.create(model="demo", prompt=prompts, max_tokens=1).usage
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (once.prompt_tokens, 16)


@pytest.mark.parametrize("stream", [False, True])
def test_several_answers_of_a_chat(client, stream):
    """Each has a seed of its own, the first one that of the request."""
    options = {"model": "demo", "messages": ASKED, "max_tokens": 5, "temperature": 1.5}
    alone = [
        client.chat.completions.create(**options, seed=seed).choices[0].message.content
        for seed in (7, 8)
    ]
    answer = client.chat.completions.create(**options, seed=7, n=2, stream=stream)
    found = ["", ""]
    for chunk in answer if stream else [answer]:
        for choice in chunk.choices:
            made = choice.delta if stream else choice.message
            found[choice.index] += made.content or ""
    assert found == alone
    assert alone[0] != alone[1]


def test_the_best_of_several(client):
    options = {
        "model": "demo", "prompt": "MACBETH:\n", "max_tokens": 5, "temperature": 1.5, "seed": 3,
        "extra_body": {"ignore_eos": True},
    }  # fmt: skip
    every = client.completions.create(**options, n=4, logprobs=0).choices
    means = {one.text: sum(one.logprobs.token_logprobs) for one in every}
    best = client.completions.create(**options, n=2, best_of=4)
    order = sorted(means, key=means.__getitem__, reverse=True)
    assert [choice.text for choice in best.choices] == order[:2]
    assert [choice.logprobs for choice in best.choices] == [None, None]
    assert best.usage.completion_tokens == 20


def test_the_likeliest_texts_are_those_with_the_highest_mean():
    def made(*logprobs):
        return Text([Token(1, "", logprob) for logprob in logprobs], Done("stop"))

    texts = [made(-1, -1), made(-1.5), made(-0.1, -0.1), made(-3), made(-2), made(-4)]
    assert likeliest(texts, 1, 3) == [texts[2], texts[4]]
    assert likeliest(texts, 2, 3) == [texts[2], texts[0], texts[4], texts[3]]
    assert likeliest(texts, 3, 3) == texts


def test_a_request_waits_once_for_all_of_its_texts(client, server):
    """The queue has room for two requests, and rejects the third with all of its texts."""
    server.gate.shut()
    streams = []
    for count in (1, 3, 3):
        streams.append(
            client.completions.create(model="demo", prompt="A", n=count, max_tokens=1, stream=True)
        )
        wait_until(lambda: server.count("dllama_requests_running") == 1)
    assert server.dispatcher.waiting == 2
    with connect(server.url) as other, pytest.raises(openai.RateLimitError):
        other.completions.create(model="demo", prompt="A", n=2)
    server.gate.open()
    for stream, count in zip(streams, (1, 3, 3), strict=True):
        assert {chunk.choices[0].index for chunk in stream} == set(range(count))


def test_an_error_of_one_text_ends_all(client, server):
    with pytest.raises(openai.BadRequestError, match="513 tokens, the context holds 512"):
        client.completions.create(model="demo", prompt=[[1], [5] * 513])
    assert server.dispatcher.waiting == 0
