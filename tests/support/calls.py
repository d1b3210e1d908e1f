"""Calls of functions that a parser finds in an answer, in a form that is easy to compare."""

from __future__ import annotations

from dllama.server.tools.base import Arguments, Begin, Content, Function, Reasoning

PROPERTIES = {
    "city": {"type": "string"},
    "days": {"type": "array"},
    "hot": {"type": ["boolean", "null"]},
}
FUNCTIONS = [
    Function("weather", {"type": "object", "properties": PROPERTIES}),
    Function("add", {"type": "object"}),
]


def calls(*pairs):
    """What is found of calls: name and arguments, one after the other."""
    return [
        part for name, arguments in pairs for part in (("call", name), ("arguments", arguments))
    ]


def found(parser, pieces):
    """The events of a text in pieces, with neighbours of the same kind joined."""
    kinds = {Content: "content", Reasoning: "reasoning", Arguments: "arguments", Begin: "call"}
    events = [event for piece in pieces for event in parser.push(piece)] + parser.end()
    joined = []
    for event in events:
        text = event.name if isinstance(event, Begin) else event.text
        kind = kinds[type(event)]
        if joined and joined[-1][0] == kind != "call":
            joined[-1] = (kind, joined[-1][1] + text)
        else:
            joined.append((kind, text))
    return joined
