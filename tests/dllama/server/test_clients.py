"""What other clients ask for, where they are installed: structured output and embeddings."""

from __future__ import annotations

import asyncio
from typing import Literal

import openai
import pydantic
import pytest
from serving import LIMIT, connect

ASKED = "Invent a character of a play. Answer in JSON."


class Person(pydantic.BaseModel):
    """A character of a play."""

    name: Literal["Macbeth", "Banquo", "Lady Macbeth"]
    age: int = pydantic.Field(le=99, ge=0)


@pytest.mark.parametrize(("method", "schema"), [("json_schema", Person), ("json_mode", None)])
def test_langchain(server, method, schema):
    """In the mode json_mode the server sees no schema, so it may be any object."""
    clients = pytest.importorskip("langchain_openai")
    model = clients.ChatOpenAI(
        base_url=f"{server.url}/v1", api_key="none", model="demo", timeout=LIMIT, max_retries=0
    )
    answer = model.with_structured_output(schema, method=method).invoke(ASKED)
    assert isinstance(answer, schema or dict)


def test_embeddings_of_langchain(server, client):
    clients = pytest.importorskip("langchain_openai")
    made = clients.OpenAIEmbeddings(
        base_url=f"{server.url}/v1", api_key="none", model="demo", check_embedding_ctx_length=False
    )
    first, second = made.embed_documents(["MACBETH:\n", "Hail!"])
    assert made.embed_query("MACBETH:\n") == first != second
    (found,) = client.embeddings.create(model="demo", input="MACBETH:\n").data
    assert first == pytest.approx(found.embedding, abs=1e-6)


@pytest.mark.parametrize("mode", ["JSON_SCHEMA", "TOOLS"])
def test_instructor(server, mode):
    instructor = pytest.importorskip("instructor")
    with connect(server.url) as client:
        asked = instructor.from_openai(client, mode=instructor.Mode[mode])
        answer = asked.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": ASKED}],
            response_model=Person,
            max_retries=0,
        )
    assert isinstance(answer, Person)


@pytest.mark.parametrize("output", ["NativeOutput", "ToolOutput"])
def test_pydantic_ai(server, output):
    clients = pytest.importorskip("pydantic_ai")
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    async def ask():
        url = f"{server.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", timeout=LIMIT) as client:
            asked = clients.Agent(
                OpenAIChatModel("demo", provider=OpenAIProvider(openai_client=client)),
                output_type=getattr(clients, output)(Person),
                model_settings={"parallel_tool_calls": False},
                retries=0,
            )
            return (await asked.run(ASKED)).output

    assert isinstance(asyncio.run(ask()), Person)


def test_llama_index(server):
    """It makes a tool of the model of the answer, which has to be called."""
    clients = pytest.importorskip("llama_index.llms.openai_like")
    from llama_index.core.prompts import PromptTemplate

    model = clients.OpenAILike(
        model="demo", api_base=f"{server.url}/v1", api_key="none", is_chat_model=True,
        is_function_calling_model=True, timeout=LIMIT, max_retries=0,
    )  # fmt: skip
    assert isinstance(model.structured_predict(Person, PromptTemplate(ASKED)), Person)
