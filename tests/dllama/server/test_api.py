"""The HTTP API as clients see it, through the official client of OpenAI."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from itertools import pairwise
from pathlib import Path

import openai
import pytest
from serving import LIMIT, serving, wait_until

import dllama

PROMPT = "MACBETH:\n"
ASKED = [{"role": "user", "content": "Who are you?"}]


@pytest.fixture(scope="module")
def server():
    with serving(limit=2) as running:
        yield running


@pytest.fixture(autouse=True)
def opened(request):
    """The gate of the shared server is open when a test begins, and nothing is left of others."""
    if "server" in request.fixturenames:
        server = request.getfixturevalue("server")
        server.gate.open()
        wait_until(lambda: server.count("dllama_requests_running") == 0)


@pytest.fixture
def client(server):
    with connect(server.url) as made:
        yield made


def connect(url, key="none"):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=LIMIT)


@pytest.fixture(scope="module")
def expected():
    """expected(prompt, **options): tokens that LLM.generate gives in an empty context."""
    with dllama.LLM(threads=1) as llm:

        def generate(prompt, max_tokens=12, temperature=0.0, **options):
            llm.reset()
            return list(llm.generate(prompt, max_tokens, temperature=temperature, **options))

        yield generate


def text(tokens):
    return "".join(token.text for token in tokens)


def http(url, body=None, **headers):
    """Status, headers and body of an answer, without any client's help."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json", **headers}
    asked = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(asked, timeout=LIMIT) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def test_models(client):
    (model,) = client.models.list().data
    assert (model.id, model.owned_by, model.object) == ("demo", "dllama", "model")
    assert client.models.retrieve("demo") == model
    with pytest.raises(openai.NotFoundError, match="'other' is not here, only 'demo'") as found:
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
    # The bos is known from the first on; the last token that is generated is not evaluated.
    assert first.usage.prompt_tokens + 7 - 3 <= known < second.usage.prompt_tokens
    after = server.count("dllama_prompt_tokens_cached_total")
    assert after - before == first.usage.prompt_tokens_details.cached_tokens + known


def test_conversations_that_take_turns_keep_what_is_evaluated():
    """A new one knows what it shares with another one."""
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
            assert cached >= before - 2, "all but where the answer was joined"


def test_the_context_is_the_limit(client):
    answer = client.completions.create(
        model="demo", prompt=[5] * 510, max_tokens=100, extra_body={"ignore_eos": True}
    )
    assert answer.usage.completion_tokens == 3
    assert answer.choices[0].finish_reason == "length"
    with pytest.raises(openai.BadRequestError, match="513 tokens, the context holds 512") as found:
        client.completions.create(model="demo", prompt=[5] * 513)
    assert found.value.code == "context_length_exceeded"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_its_generation(server, stream):
    server.gate.shut(after=3)
    before = server.count("dllama_generated_tokens_total")
    body = {"prompt": PROMPT, "max_tokens": 400, "stream": stream, "ignore_eos": True}
    raw = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(raw)}\r\n\r\n"
    )
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head.encode() + raw)
        wait_until(lambda: server.count("dllama_generated_tokens_total") == before + 3)
    wait_until(lambda: server.count("dllama_requests_running") == 0)
    assert server.count("dllama_generated_tokens_total") - before <= 4


def test_a_full_queue_turns_requests_away(client, server):
    server.gate.shut()
    answers = []

    def ask():
        with connect(server.url) as other:
            made = other.completions.create(model="demo", prompt=PROMPT, max_tokens=2)
            answers.append(made.choices[0].text)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    threads[0].start()
    wait_until(lambda: server.count("dllama_requests_running") == 1)
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: server.scheduler.waiting == 2)
    with pytest.raises(openai.RateLimitError, match="2 requests are waiting") as found:
        client.completions.create(model="demo", prompt=PROMPT)
    assert 1 <= int(found.value.response.headers["retry-after"]) <= 60
    server.gate.open()
    for thread in threads:
        thread.join(LIMIT)
    assert len(set(answers)) == 1
    assert len(answers) == 3


def test_one_who_waits_may_leave(client, server):
    server.gate.shut()
    done = threading.Event()

    def ask():
        with connect(server.url) as other:
            other.completions.create(model="demo", prompt=PROMPT, max_tokens=2)
            done.set()

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: server.count("dllama_requests_running") == 1)
    port = int(server.url.rpartition(":")[2])
    raw = json.dumps({"prompt": PROMPT}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(raw)}\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"{head}content-type: application/json\r\n\r\n".encode() + raw)
        wait_until(lambda: server.scheduler.waiting == 1)
    wait_until(lambda: server.scheduler.waiting == 0)
    assert not done.is_set()
    server.gate.open()
    thread.join(LIMIT)
    assert done.is_set()


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b'{"prompt": NaN}', 400, "NaN is no number"),
        (b"\xff", 400, "not JSON"),
        (b"[]", 400, "the body is [], expected a JSON object"),
        (b" " * (5 << 20), 413, "longer than"),
        ({"prompt": "\ud800"}, 400, "not valid Unicode"),
        ({"prompt": "a", "model": "\ud800"}, 404, "is not here"),
        ({"prompt": [5, 99999]}, 400, "token id is 99999"),
        ({"prompt": [-1]}, 400, "token id is -1"),
    ],
)
def test_bodies_that_are_wrong(server, body, status, message):
    found, headers, raw = http(f"{server.url}/v1/completions", body)
    error = json.loads(raw)["error"]
    assert (found, error["type"]) == (status, "invalid_request_error")
    assert message in error["message"]
    assert headers["content-type"] == "application/json"


def test_wrong_paths_methods_and_types(server):
    url = f"{server.url}/v1/completions"
    assert http(f"{server.url}/v1/other")[0] == 404
    status, headers, _ = http(url)
    assert (status, headers["allow"]) == (405, "POST")
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        status, _, raw = http(url, {"prompt": "a"}, **{"content-type": kind})
        assert status == 415
        assert "expected 'application/json'" in json.loads(raw)["error"]["message"]


def test_other_names_for_this_machine_are_refused(server):
    assert http(f"{server.url}/v1/models", host="localhost:1")[0] == 200
    assert http(f"{server.url}/v1/models", host="[::1]:1")[0] == 200
    status, _, raw = http(f"{server.url}/v1/models", host="attacker.example")
    assert status == 403
    assert "attacker.example" in json.loads(raw)["error"]["message"]


def test_health_and_metrics(client, server):
    assert http(f"{server.url}/health")[::2] == (200, b'{"status":"ok"}')
    client.completions.create(model="demo", prompt=PROMPT, max_tokens=2)
    status, headers, raw = http(f"{server.url}/metrics")
    lines = dict(line.rsplit(" ", 1) for line in raw.decode().splitlines() if line[0] != "#")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert float(lines["dllama_model_up"]) == 1
    assert float(lines["dllama_generated_tokens_total"]) >= 2
    assert float(lines['dllama_http_requests_total{path="/v1/completions",status="200"}']) >= 1
    assert float(lines["dllama_token_seconds_count"]) >= 1


def test_api_key():
    with serving(key="gehé1m".encode()) as server:
        for given in ("none", "gehé1", "gehé1mm"):
            status, headers, raw = http(
                f"{server.url}/v1/models", authorization=f"Bearer {given}".encode().decode("latin1")
            )
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert json.loads(raw)["error"]["code"] == "invalid_api_key"
        right = "gehé1m".encode().decode("latin1")
        assert http(f"{server.url}/metrics")[0] == 401
        assert http(f"{server.url}/v1/models", authorization=f"Basic {right}")[0] == 401
        assert http(f"{server.url}/v1/models", authorization=f"Bearer {right}")[0] == 200
        assert http(f"{server.url}/health", host="elsewhere.example")[0] == 200
        assert http(f"{server.url}/")[0] == 200


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


def test_the_example_of_the_documentation(server, capsys):
    page = Path(__file__).parents[3] / "docs" / "serve.md"
    example = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    made = example.replace("http://127.0.0.1:8080", server.url)
    scope = {}
    exec(compile(made, str(page), "exec"), scope)
    with scope["client"]:
        assert capsys.readouterr().out.count("CompletionUsage") == 1
