"""The HTTP API as seen through OpenAI's official client."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import openai
import pytest
from serving import connect, serving

import dllama

PROMPT = "MACBETH:\n"
ASKED = [{"role": "user", "content": "Who are you?"}]


def text(tokens):
    return "".join(token.text for token in tokens)


def test_models(client):
    (model,) = client.models.list().data
    assert (model.id, model.owned_by, model.object) == ("demo", "dllama", "model")
    assert (model.context_length, model.max_model_len) == (512, 512)
    assert client.models.retrieve("demo") == model
    with pytest.raises(openai.NotFoundError, match="'other' does not exist") as found:
        client.models.retrieve("other")
    assert found.value.code == "model_not_found"


def test_completion(client, expected):
    tokens = expected(PROMPT)
    answer = client.completions.create(model="demo", prompt=PROMPT, max_tokens=12)
    assert answer.choices[0].text == text(tokens)
    assert answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 12)
    assert answer.usage.total_tokens == 16
    again = client.completions.create(model="demo", prompt=PROMPT)
    assert again.usage.completion_tokens == 16


def test_completion_of_ids(client, server, expected):
    ids = [2043, 5, 9]
    answer = client.completions.create(model="demo", prompt=[ids], max_tokens=5)
    assert answer.choices[0].text == text(expected(ids, 5))


def test_a_seed_repeats_a_text(client, expected):
    options = {"prompt": PROMPT, "max_tokens": 20, "temperature": 1.5, "top_p": 0.95}
    first, second = (
        client.completions.create(model="demo", seed=seed, **options).choices[0].text
        for seed in (7, 7)
    )
    assert first == second == text(expected(PROMPT, 20, 1.5, top_p=0.95, seed=7))
    other = client.completions.create(model="demo", seed=-7, **options).choices[0].text
    assert other != first


def test_chat(client, expected):
    answer = client.chat.completions.create(model="demo", messages=ASKED, max_tokens=6)
    rendered = (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWho are you?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    with dllama.LLM(threads=1) as llm:
        ids = llm.tokenizer.encode(rendered, add_bos=False)
    assert answer.choices[0].message.content == text(expected(ids, 6))
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage.prompt_tokens == len(ids)


def test_parts_of_messages_and_the_new_names(client):
    def ask(content, role, **limit):
        messages = [{"role": role, "content": "Speak."}, {"role": "user", "content": content}]
        return client.chat.completions.create(model="demo", messages=messages, **limit)

    parts = [{"type": "text", "text": "Who "}, {"type": "text", "text": "are you?"}]
    first = ask("Who are you?", "system", max_tokens=5)
    second = ask(parts, "developer", max_completion_tokens=5)
    assert first.choices == second.choices
    assert second.usage.completion_tokens == 5


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings(client, expected, stream):
    whole = text(expected(PROMPT, 12))
    stop = whole[9:12]
    answer = client.completions.create(
        model="demo", prompt=PROMPT, max_tokens=12, stop=["\u2603", stop], stream=stream
    )
    choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    assert "".join(choice.text for choice in choices) == whole[: whole.index(stop)]
    assert choices[-1].finish_reason == "stop"


def test_stream_of_a_chat(client):
    options = {"model": "demo", "messages": ASKED, "max_tokens": 9, "seed": 3, "temperature": 1}
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert content == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "length"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_of_a_stream_comes_last(client):
    *chunks, last = client.chat.completions.create(
        model="demo", messages=ASKED, max_tokens=3, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    assert last.choices == []
    assert last.usage.completion_tokens == 3
    assert last.usage.total_tokens == last.usage.prompt_tokens + 3
    assert all(chunk.usage is None for chunk in chunks)


def test_tokens_come_as_they_are_generated(client, server):
    server.gate.shut(after=2)
    stream = client.completions.create(
        model="demo", prompt=PROMPT, max_tokens=4, stream=True, extra_body={"ignore_eos": True}
    )
    first = [next(stream).choices[0].text for _ in range(2)]
    assert all(first)
    server.gate.open()
    assert len(list(stream)) == 3


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_of_a_chat(client, stream):
    answer = client.chat.completions.create(
        model="demo", messages=ASKED, max_tokens=4, logprobs=True, top_logprobs=2, stream=stream
    )
    choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    entries = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content]
    assert len(entries) == 4
    for entry in entries:  # the sampler is greedy
        assert entry.token == entry.top_logprobs[0].token
        assert entry.logprob == entry.top_logprobs[0].logprob
        assert 0 > entry.logprob >= entry.top_logprobs[1].logprob
        assert bytes(entry.bytes).decode() == entry.token
    content = [c.delta.content or "" for c in choices] if stream else [choices[0].message.content]
    assert "".join(entry.token for entry in entries) == "".join(content)


def test_logprobs_of_a_completion(client, expected):
    tokens = expected(PROMPT, 6, logprobs=1)
    (choice,) = client.completions.create(
        model="demo", prompt=PROMPT, max_tokens=6, logprobs=1
    ).choices
    assert choice.logprobs.token_logprobs == [token.logprob for token in tokens]
    assert "".join(choice.logprobs.tokens) == choice.text
    for offset, token in zip(choice.logprobs.text_offset, choice.logprobs.tokens, strict=True):
        assert choice.text[offset:].startswith(token)
    assert [list(top) for top in choice.logprobs.top_logprobs] == [
        [token] for token in choice.logprobs.tokens
    ]


def test_what_an_earlier_request_evaluated_is_not_evaluated_again(client, server, expected):
    def ask(prompt):
        return client.completions.create(model="demo", prompt=prompt, max_tokens=8)

    ask("JULIET:\n")
    before = server.count("dllama_prompt_tokens_cached_total")
    first = ask(PROMPT)
    longer = f"{PROMPT}{first.choices[0].text}"
    second = ask(longer)
    assert second.choices[0].text == text(expected(longer, 8))
    known = second.usage.prompt_tokens_details.cached_tokens
    # BOS is cached from the first request on; the last generated token is not evaluated.
    assert first.usage.prompt_tokens + 7 - 3 <= known < second.usage.prompt_tokens
    after = server.count("dllama_prompt_tokens_cached_total")
    assert after - before == first.usage.prompt_tokens_details.cached_tokens + known


def test_conversations_that_take_turns_keep_what_is_evaluated():
    """A new conversation reuses what it shares with another one."""
    system = {"role": "system", "content": "A room in the castle, at night."}
    talks = [[system, {"role": "user", "content": f"{name}, who are you?"}] for name in "ABC"]
    with (
        serving(contexts=3, nodes=2, template="plain") as server,
        connect(server.url) as client,
    ):
        known = [[] for _ in talks]
        for _ in range(3):
            for talk, found in zip(talks, known, strict=True):
                answer = client.chat.completions.create(model="demo", messages=talk, max_tokens=6)
                usage = answer.usage
                found.append((usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens))
                message = answer.choices[0].message
                talk += [{"role": "assistant", "content": message.content}]
                talk += [{"role": "user", "content": "And then?"}]
    first, *others = known
    assert first[0][0] == 0
    assert all(found[0][0] > 5 for found in others), "the system prompt"
    for found in known:
        for (_, before), (cached, _) in pairwise(found):
            assert cached >= before - 2, "all but the place where answer and message join"


def test_the_context_is_the_limit(client):
    answer = client.completions.create(
        model="demo", prompt=[5] * 510, max_tokens=100, extra_body={"ignore_eos": True}
    )
    assert answer.usage.completion_tokens == 3
    assert answer.choices[0].finish_reason == "length"
    with pytest.raises(openai.BadRequestError, match="513 tokens, the context holds 512") as found:
        client.completions.create(model="demo", prompt=[5] * 513)
    assert found.value.code == "context_length_exceeded"


def test_a_model_without_a_template_completes_only(converted):
    model = converted("llama-gqa", "f32")
    with serving(model=model) as server, connect(server.url) as client:
        answer = client.completions.create(model="model", prompt=[1, 2], max_tokens=3)
        assert answer.usage.completion_tokens == 3
        with pytest.raises(openai.BadRequestError) as found:
            client.chat.completions.create(model="model", messages=ASKED)
        assert found.value.code == "no_chat_template"
        with pytest.raises(openai.BadRequestError, match="no tokenizer: send ids"):
            client.completions.create(model="model", prompt="a")


def test_variables_of_the_template(tmp_path):
    """Each request has its own, as with vLLM: Qwen3's thinking is switched off by one."""
    file = tmp_path / "thinking.jinja"
    file.write_text(
        "{{ bos_token }}{{ messages[0].content }}"
        "{% if enable_thinking is defined and not enable_thinking %}\n\n\n\n{% endif %}"
    )
    with serving(template=file) as server, connect(server.url) as client:
        counts = [
            client.chat.completions.create(
                model="demo", messages=ASKED, max_tokens=1, extra_body=body
            ).usage.prompt_tokens
            for body in (
                {},
                {"chat_template_kwargs": {"enable_thinking": False}},
                {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "low"},
            )
        ]
        assert counts[0] == counts[2] < counts[1]
        with pytest.raises(openai.BadRequestError, match="must not set messages"):
            client.chat.completions.create(
                model="demo", messages=ASKED,
                extra_body={"chat_template_kwargs": {"messages": []}},
            )  # fmt: skip


def test_the_example_of_the_documentation(server, capsys):
    page = Path(__file__).parents[3] / "docs" / "serve.md"
    example = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    made = example.replace("http://127.0.0.1:8080", server.url)
    scope = {}
    exec(compile(made, str(page), "exec"), scope)
    with scope["client"]:
        assert capsys.readouterr().out.count("CompletionUsage") == 1
