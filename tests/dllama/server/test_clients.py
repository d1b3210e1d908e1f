"""Structured output as LangChain and Instructor ask for it, where they are installed."""

from __future__ import annotations

from typing import Literal

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


def test_instructor(server):
    instructor = pytest.importorskip("instructor")
    with connect(server.url) as client:
        asked = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA)
        answer = asked.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": ASKED}],
            response_model=Person,
            max_retries=0,
        )
    assert isinstance(answer, Person)
