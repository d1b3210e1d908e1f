"""Tools as other clients ask for them, where they are installed. The chat template has none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import pydantic
import pytest
from serving import LIMIT, connect

CALL = '<tool_call>\n{"name": "Weather", "arguments": {"city": "Rome"}}\n</tool_call>'


class Weather(pydantic.BaseModel):
    """The weather of a city."""

    city: Literal["Paris", "Rome"]


@pytest.mark.parametrize("choice", ["any", "Weather"])
def test_langchain_binds_tools(server, choice):
    """The result of a call is sent back, so the history has both."""
    clients = pytest.importorskip("langchain_openai")
    from langchain_core.messages import HumanMessage, ToolMessage

    model = clients.ChatOpenAI(
        base_url=f"{server.url}/v1", api_key="none", model="demo", timeout=LIMIT, max_retries=0,
        max_tokens=90,
    )  # fmt: skip
    bound = model.bind_tools([Weather], tool_choice=choice, parallel_tool_calls=False)
    asked = [HumanMessage("Rain?")]
    answer = bound.invoke(asked)
    (call,) = answer.tool_calls
    assert (call["name"], call["args"]["city"] in ("Paris", "Rome")) == ("Weather", True)
    result = ToolMessage("It rains.", tool_call_id=call["id"])
    assert bound.invoke([*asked, answer, result]).tool_calls[0]["name"] == "Weather"
    pieces = None
    for chunk in bound.stream(asked):
        pieces = chunk if pieces is None else pieces + chunk
    assert [one["name"] for one in pieces.tool_calls] == ["Weather"]


def test_langchain_structured_output(server):
    clients = pytest.importorskip("langchain_openai")
    model = clients.ChatOpenAI(
        base_url=f"{server.url}/v1", api_key="none", model="demo", timeout=LIMIT, max_retries=0
    )
    made = model.with_structured_output(Weather, method="function_calling").invoke("Rain?")
    assert isinstance(made, Weather)


def test_instructor(server):
    instructor = pytest.importorskip("instructor")
    with connect(server.url) as client:
        asked = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
        answer = asked.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "Rain?"}], response_model=Weather,
            max_retries=0,
        )  # fmt: skip
    assert isinstance(answer, Weather)


def test_instructor_with_several_calls(server, says):
    """It leaves the choice to the model, so the model is made to call."""
    instructor = pytest.importorskip("instructor")
    says([f"{CALL}\n{CALL.replace('Rome', 'Paris')}"])
    with connect(server.url) as client:
        asked = instructor.from_openai(client, mode=instructor.Mode.PARALLEL_TOOLS)
        answers = asked.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "Rain?"}], max_retries=0,
            response_model=Iterable[Weather], max_tokens=120,
        )  # fmt: skip
        assert [one.city for one in answers] == ["Rome", "Paris"]
