"""How a model writes its answers: what it thinks, what it calls, and what it is to fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dllama.errors import TemplateError
from dllama.sampling.grammar import GrammarText
from dllama.server.fields.tools import Tools
from dllama.server.tools import tool_format
from dllama.server.tools.answer import Answer, Tally
from dllama.server.tools.base import AnswerParser, TextParser, ToolFormat, quoted
from dllama.server.tools.thinking import Place, ThinkingParser, thinking
from dllama.server.tools.told import Told, tell
from dllama.text.template import ChatTemplate
from dllama.text.tokenizer import Tokenizer

TOLD = Told()
PROBE = {"role": "user", "content": "a"}
ANY_TEXT = "TEXT: /(.|\\n)*/"


@dataclass(frozen=True)
class Plan:
    """What is known of an answer before it is written.

    Attributes:
        answer: makes what understands it. All of them share a tally.
        grammar: what it is to fit; None for any text.
        special: ids of special tokens whose names are part of the text.
        ends: ids that end it, besides those that end all answers.
    """

    answer: Callable[[], Answer]
    grammar: GrammarText | None
    special: tuple[int, ...]
    ends: tuple[int, ...]


class Answers:
    """Makes plans of answers, for the chat template of a model.

    Args:
        tokenizer: of the model.
        template: its chat template.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._form = tool_format(template.source)
        self._shown: bool | None = None  # whether the template shows functions, once it is known
        self._thinking = None if self._form and self._form.always else thinking(template.source)

    @property
    def calls(self) -> bool:
        """Whether the chat template knows functions."""
        return self._form is not None

    @property
    def thinks(self) -> bool:
        """Whether the model thinks before it answers."""
        return self._thinking is not None or bool(self._form and self._form.always)

    def prepared(
        self, messages: list[dict[str, Any]], variables: Mapping[str, Any]
    ) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
        """Return messages and variables as the chat template wants them."""
        given, source = variables.get("tools"), self._template.source
        tools = given if isinstance(given, list) else None
        form = self._calls(tools)
        messages = form.history(messages, source)
        if tools and not (form is self._form and self._shows(tools)):
            return tell(messages, tools, form.example(source)), {**variables, "tools": None}
        return messages, variables

    def plan(self, prompt: str, tools: Tools | None, text: GrammarText | None) -> Plan:
        """Return the plan of the answer to a prompt.

        Args:
            prompt: all that the chat template has written.
            tools: what may be called.
            text: what a text is to fit; None for any.
        """
        place = self._thinking.place(prompt) if self._thinking else Place.AFTER
        form = self._form if self._form and self._form.always else None
        if tools:
            form = self._calls(tools.asked)
        markers = form.markers if form else ()
        if self._thinking:
            markers += (self._thinking.open, self._thinking.close)
        return Plan(
            partial(self._answer, form, place, tools, Tally()),
            self._grammar(form, place, tools, text),
            self.special_ids(markers),
            self.special_ids(form.ends) if form and tools else (),
        )

    def _calls(self, tools: Sequence[dict[str, Any]] | None) -> ToolFormat:
        """Return how calls of these functions are written."""
        form = self._form
        if form and (not tools or form.example(self._template.source) or self._shows(tools)):
            return form
        return TOLD

    def _answer(
        self, form: ToolFormat | None, place: Place, tools: Tools | None, tally: Tally
    ) -> Answer:
        """Return what understands an answer."""
        functions = tools.functions if tools else ()
        parser: AnswerParser = form.parser(functions) if form else TextParser()
        if self._thinking:
            parser = ThinkingParser(self._thinking, place, parser)
        several = tools is None or tools.several
        return Answer(parser, form.call_id if form else str, several, tally)

    def special_ids(self, markers: Sequence[str]) -> tuple[int, ...]:
        """Return the ids of those texts that are special tokens."""
        found = (self._special_id(marker) for marker in markers)
        return tuple(token for token in found if token is not None)

    def spelling(self, marker: str, closing: Sequence[str] = ()) -> str:
        """Return a marker as grammars spell it; `closing` are those of a ToolFormat."""
        token = self._single(marker) if marker in closing else self._special_id(marker)
        return quoted(marker) if token is None else f"<[{token}]>"

    def _grammar(
        self,
        form: ToolFormat | None,
        place: Place,
        tools: Tools | None,
        text: GrammarText | None,
    ) -> GrammarText | None:
        """Return what an answer is to fit: it may think first, and then call or say something."""
        lines, body = [ANY_TEXT], ""
        thinks = form.thinks(self.spelling) if form else ""
        if self._thinking:
            lines = self._thinking.rules(self.spelling)
            thinks = self._thinking.begin(place, self.spelling)
        if text and not (tools and tools.forced):
            body = form.says(self.spelling) if form else "@text"
        if tools and form:
            source = self._template.source
            special = partial(self.spelling, closing=form.closing)
            lines.append(form.rules(tools.functions, tools.several, special, source))
            called = "calls" if tools.forced or text else "mixed"
            body = f"({body} | {called})" if body else called
        if not body:
            return None
        if body == "@text" and not thinks:
            return text
        around = "\n".join([f"start: {thinks} {body}", *lines])
        if text and not (tools and tools.forced):
            return text._replace(around=around)
        lenient = tools is not None and not tools.forced and not tools.strict
        return GrammarText("lark", around, "tools", lenient)

    def _shows(self, tools: Sequence[dict[str, Any]]) -> bool:
        """Whether the chat template tells the model of functions."""
        if self._shown is None:
            try:
                text = self._template.render([PROBE], variables={"tools": tools})
                self._shown = tools[0]["function"]["name"] in text
            except (TemplateError, LookupError, TypeError):
                return True  # the rendering of the request tells what is wrong
        return self._shown

    def _special_id(self, marker: str) -> int | None:
        """Return the id of a special token; None if the text is none."""
        token = self._single(marker)
        return token if token is not None and self._tokenizer.is_special(token) else None

    def _single(self, marker: str) -> int | None:
        """Return the id of the token that a text is; None if it is several."""
        ids = self._tokenizer.encode(marker, add_bos=False)
        return ids[0] if len(ids) == 1 else None
