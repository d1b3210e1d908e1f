"""Request bodies: correct ones, and one clear error for everything else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from refusals import refused

from dllama.server.apis.chat import parse_chat
from dllama.server.apis.completions import parse_completion
from dllama.server.fields.options import HARMLESS, IGNORED
from dllama.server.problems import ApiError
from dllama.text.template import Begin

HELLO = [{"role": "user", "content": "Hello"}]


def test_least_bodies():
    chat = parse_chat({"messages": HELLO})
    assert chat.messages == HELLO
    assert chat.options.max_tokens is None
    assert (chat.options.sampling, chat.options.stop, chat.options.top) == ({}, (), None)
    completion = parse_completion({"prompt": "a"})
    assert (completion.prompts, completion.options.max_tokens) == (["a"], 16)


def test_everything_at_once():
    options = parse_chat(
        {
            "model": "m", "messages": HELLO, "max_completion_tokens": 5, "temperature": 1,
            "top_p": 0.5, "top_k": 4.0, "min_p": 0.1, "repetition_penalty": 1.1, "seed": -1,
            "stop": "x", "stream": True, "stream_options": {"include_usage": True},
            "logprobs": True, "top_logprobs": 3, "n": 1, "user": "me", "tools": [],
            "response_format": {"type": "text"}, "frequency_penalty": -2,
            "logit_bias": {"50": -100},
            "presence_penalty": 0.5, "ignore_eos": True, "tool_choice": "auto",
            "metadata": {"a": 1}, "min_tokens": 2, "stop_token_ids": [7, 8],
        }
    ).options  # fmt: skip
    assert options.sampling == {
        "temperature": 1.0, "top_p": 0.5, "top_k": 4, "min_p": 0.1, "repetition_penalty": 1.1,
        "seed": (1 << 64) - 1, "frequency_penalty": -2.0, "presence_penalty": 0.5, "min_tokens": 2,
        "logit_bias": {50: -100},
    }  # fmt: skip
    assert (options.model, options.max_tokens, options.stop, options.top) == ("m", 5, ("x",), 3)
    assert options.stream
    assert options.include_usage
    assert options.ignore_eos
    assert options.stop_ids == (7, 8)


def test_what_comes_after_the_last_message():
    answer = [*HELLO, {"role": "assistant", "content": "I am"}]
    for fields, begin in (
        ({}, Begin.NEXT),
        ({"add_generation_prompt": True}, Begin.NEXT),
        ({"add_generation_prompt": False}, Begin.NOTHING),
        ({"continue_final_message": True}, Begin.REST),
        ({"continue_final_message": True, "add_generation_prompt": False}, Begin.REST),
    ):
        assert parse_chat({"messages": answer, **fields}).begin is begin


def test_fields_that_ask_for_what_this_server_does_anyway():
    """Those of other servers count only with other values; some never do."""
    given = {name: values[0] for name, values in HARMLESS.items() if values}
    ignored = dict.fromkeys(IGNORED, "anything")
    plain = parse_chat({"messages": HELLO})
    assert parse_chat({"messages": HELLO, **given, **ignored}) == plain


REFUSED = {"unknown_parameter", "unsupported_value"}
# The error for a value that no field takes, by the rows of the table.
ERRORS = {
    "supported, OpenAI's": {None, "invalid_value"},
    "supported, others": {None, "invalid_value"},
    "ignored, since they cannot change the text": {None},
    "refused, but for the value that asks for what this server does anyway": REFUSED,
    "refused, OpenAI's": REFUSED,
    "refused, vLLM's": REFUSED,
    "refused, llama.cpp's": REFUSED,
}


def error_of(name):
    """The code of the error for a field with an odd value; None if there is none."""
    try:
        if name in ("prompt", "best_of", "echo", "suffix"):
            parse_completion({"prompt": "a", name: {"odd": []}})
        else:
            parse_chat({"messages": HELLO, name: {"odd": []}})
    except ApiError as error:
        return error.code
    return None


def test_the_documentation_says_what_becomes_of_every_field():
    page = (Path(__file__).parents[4] / "docs" / "serve.md").read_text(encoding="utf-8")
    table = page.partition("All fields of OpenAI's two APIs")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| ([sir].*?) \| (.*) \|$", table, re.MULTILINE))
    assert rows.keys() == ERRORS.keys()
    for row, fields in rows.items():
        for name in re.findall("`(.*?)`", fields):
            assert error_of(name) in ERRORS[row], name


def test_variables_of_the_template():
    assert parse_chat({"messages": HELLO}).variables == {}
    given = {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low"}
    assert parse_chat({"messages": HELLO, **given}).variables == {
        "enable_thinking": False, "reasoning_effort": "low",
    }  # fmt: skip


def test_null_is_absent():
    names = ("stop", "seed", "max_tokens", "stream_options", "tools", "n", "logprobs")
    assert parse_chat({"messages": HELLO, **dict.fromkeys(names)}) == parse_chat(
        {"messages": HELLO}
    )


def test_logprobs_of_both_kinds():
    assert parse_chat({"messages": HELLO, "logprobs": True}).options.top == 0
    assert parse_chat({"messages": HELLO, "logprobs": False}).options.top is None
    assert parse_completion({"prompt": "a", "logprobs": 0}).options.top == 0


@pytest.mark.parametrize("prompt", ["a", ["a"], [1, 2], [[1, 2]], []])
def test_prompts(prompt):
    one = prompt[0] if prompt in (["a"], [[1, 2]]) else prompt
    assert parse_completion({"prompt": prompt}).prompts == [one]
    assert parse_completion({"prompt": ["b", one]}).prompts == ["b", one]


def test_numbers_of_texts():
    def counts(**fields):
        options = parse_completion({"prompt": "a", **fields}).options
        return options.count, options.tries

    assert counts() == (1, 1)
    assert counts(n=3) == (3, 3)
    assert counts(n=2, best_of=5) == (2, 5)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"messages": None}, "messages", "messages is missing"),
        ({"messages": []}, "messages", "at least one message"),
        ({"messages": "hi"}, "messages", "messages is 'hi', expected a list"),
        ({"messages": [1]}, "messages[0]", "messages[0] is 1, expected a JSON object"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "is missing"),
        ({"messages": [{"role": "boss", "content": ""}]}, "messages[0].role", "'boss'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
            "this server supports only 'text'",
        ),
        ({"max_tokens": 0}, "max_tokens", "max_tokens is 0, expected an integer from 1"),
        ({"max_tokens": True}, "max_tokens", "max_tokens is True"),
        ({"max_tokens": "5"}, "max_tokens", "max_tokens is '5'"),
        ({"max_tokens": 1 << 70}, "max_tokens", "expected an integer from 1"),
        ({"temperature": 2.1}, "temperature", "temperature is 2.1, expected a number from 0 to 2"),
        ({"temperature": float("inf")}, "temperature", "temperature is inf"),
        ({"temperature": 10**400}, "temperature", "expected a number from 0 to 2"),
        ({"top_p": 0}, "top_p", "top_p is 0, expected a number of more than 0"),
        ({"seed": 1 << 64}, "seed", "seed is"),
        ({"stop": ["a", ""]}, "stop", "non-empty strings"),
        ({"stop": ["a"] * 17}, "stop", "a list of at most 16 strings"),
        ({"stop": ["a", "a" * 1025]}, "stop", "non-empty strings of at most 1024 characters"),
        ({"n": 129}, "n", "n is 129, expected an integer from 1 to 128"),
        ({"n": True}, "n", "n is True"),
        ({"functions": [{"name": "f"}]}, "functions", "use tools instead"),
        ({"function_call": {"name": "f"}}, "function_call", "use tool_choice instead"),
        ({"frequency_penalty": 3}, "frequency_penalty", "expected a number from -2 to 2"),
        ({"presence_penalty": "1"}, "presence_penalty", "expected a number from -2 to 2"),
        ({"repetition_penalty": 101}, "repetition_penalty", "expected a number from 0.01 to 100"),
        ({"top_k": -2}, "top_k", "expected an integer from -1"),
        ({"logit_bias": [5]}, "logit_bias", "expected a JSON object with a number for each"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "of '5' is 101, expected a number from -100"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "of 'x' is 1, expected a number from -100 to 100"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias", "99... is 1, expected a number from -100"),
        ({"a" * 5000: 1}, f"{'a' * 64}...", "unknown field 'aaa"),
        ({"stop_token_ids": [1, "2"]}, "stop_token_ids", "a list of at most 4096 token ids"),
        ({"stop_token_ids": [5] * 4097}, "stop_token_ids", "a list of at most 4096 token ids"),
        ({"logit_bias": {str(token): 1 for token in range(4097)}}, "logit_bias", "at most 4096"),
        ({"max_tokens": 3, "min_tokens": 4}, "min_tokens", "is 4, expected at most the limit"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "which is 4"),
        ({"min_tokens": -1}, "min_tokens", "expected an integer from 0"),
        ({"verbosity": "low"}, "verbosity", "'low', which this server does not support"),
        ({"use_beam_search": True}, "use_beam_search", "does not support"),
        ({"repeat_penalty": 1.1}, "repeat_penalty", "use repetition_penalty instead"),
        ({"add_generation_prompt": 1}, "add_generation_prompt", "expected true or false"),
        ({"continue_final_message": True}, "continue_final_message", "an answer of the assistant"),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
            "needs add_generation_prompt to be false",
        ),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs to be true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "from 0 to 20"),
        ({"stream_options": {}}, "stream_options", "needs stream to be true"),
        (
            {"stream": True, "stream_options": {"a": 1}},
            "stream_options.a",
            "unknown field 'stream_options.a'",
        ),
        ({"chat_template_kwargs": []}, "chat_template_kwargs", "expected a JSON object"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "must not set"),
        ({"reasoning_effort": 1}, "reasoning_effort", "expected a string"),
        ({"stream": 1}, "stream", "stream is 1, expected true or false"),
        ({"temprature": 1}, "temprature", "unknown field 'temprature'"),
        ({"\ud800": 1}, "\\ud800", "unknown field '\\ud800'"),
        ({"model": 5}, "model", "model is 5, expected a string"),
    ],
)
def test_wrong_chats(fields, param, message):
    with refused(param, message) as found:
        parse_chat({"messages": HELLO, **fields})
    found.value.as_json()["error"]["message"].encode()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": None}, "prompt is missing"),
        ({"prompt": ["a", 1]}, "prompt[1] is 1, expected a string or a list of token ids"),
        ({"prompt": ["a"] * 1025, "n": 2}, "1025 prompts with 2 texts each are more than 2048"),
        ({"prompt": [1, "a"]}, "expected a string or a list of token ids"),
        ({"prompt": [True]}, "expected a string or a list of token ids"),
        ({"prompt": {"a": 1}}, "expected a string or a list of token ids"),
        ({"echo": 1}, "echo is 1, expected true or false"),
        ({"max_tokens": -1}, "max_tokens is -1, expected an integer from 0"),
        ({"n": 3, "best_of": 2}, "best_of is 2, expected at least n, which is 3"),
        ({"best_of": 2, "stream": True}, "best_of above n needs stream to be false"),
        ({"suffix": "x"}, "suffix is 'x'"),
        ({"logprobs": True}, "logprobs is True, expected an integer from 0 to 20"),
    ],
)
def test_wrong_completions(fields, message):
    with pytest.raises(ApiError) as found:
        parse_completion({"prompt": "a", **fields})
    assert message in str(found.value)


@pytest.mark.parametrize("body", [[], "a", 5, None, True])
def test_bodies_that_are_not_objects(body):
    for parse in (parse_chat, parse_completion):
        with pytest.raises(ApiError, match="expected a JSON object") as found:
            parse(body)
        assert found.value.param is None
