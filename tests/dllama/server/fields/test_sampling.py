"""Fields that change which tokens are drawn, through OpenAI's client."""

from __future__ import annotations

import openai
import pytest

PROMPT = "MACBETH:\n"
ASKED = [{"role": "user", "content": "Who are you?"}]


def text(tokens):
    return "".join(token.text for token in tokens)


def complete(client, max_tokens=12, **options):
    return client.completions.create(
        model="demo", prompt=PROMPT, max_tokens=max_tokens, **options
    ).choices[0]


def test_penalties_and_biases(client, expected):
    options = {"frequency_penalty": 0.9, "presence_penalty": -0.4}
    plain = expected(PROMPT)
    biases = {plain[0].id: -100, plain[1].id: 3.5}
    made = complete(client, **options, logit_bias={str(one): bias for one, bias in biases.items()})
    assert made.text == text(expected(PROMPT, **options, logit_bias=biases))
    assert made.text != text(plain)


def test_tokens_that_end_a_text_and_how_many_come_before(client, expected):
    third = expected(PROMPT)[2].id
    ended = complete(client, extra_body={"stop_token_ids": [third], "ignore_eos": True})
    assert (ended.text, ended.finish_reason) == (text(expected(PROMPT, 2)), "stop")
    longer = complete(client, extra_body={"stop_token_ids": [third], "min_tokens": 5})
    assert longer.text == text(expected(PROMPT, stop_ids=[third], min_tokens=5))
    assert len(longer.text) > len(ended.text)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"logit_bias": {"2048": 1}}, "logit_bias"),
        ({"extra_body": {"stop_token_ids": [5, 2048]}}, "stop_token_ids"),
    ],
)
def test_tokens_that_do_not_exist_are_refused(client, options, param):
    with pytest.raises(openai.BadRequestError, match=f"{param}: token id is 2048") as found:
        complete(client, **options)
    assert found.value.param == param


def test_an_answer_that_goes_on(client, expected):
    """The prompt ends with the beginning of the answer, and the response is the rest."""
    begun = [*ASKED, {"role": "assistant", "content": "I am the"}]
    body = {"continue_final_message": True, "add_generation_prompt": False}
    answer = client.chat.completions.create(
        model="demo", messages=begun, max_tokens=6, extra_body=body
    )
    prompt = (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWho are you?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nI am the"
    )
    assert answer.choices[0].message.content == text(expected(prompt, 6))
    ended = client.chat.completions.create(
        model="demo", messages=begun, max_tokens=6, extra_body={"add_generation_prompt": False}
    )
    assert ended.usage.prompt_tokens == answer.usage.prompt_tokens + 1
