"""The bodies of requests to Ollama's API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dllama.sampling.grammar import GrammarText
from dllama.server.apis.talk import Talk
from dllama.server.desk import Conversation
from dllama.server.fields.grammar import ANY_OBJECT, schema_text
from dllama.server.fields.json_object import Fields, required, wrong
from dllama.server.fields.options import MAX_TOKENS, Options, fitting, take_options
from dllama.server.fields.tools import Tools, take_tools

ROLES = ("system", "user", "assistant", "tool")
EFFORTS = ("low", "medium", "high", "max")
# How a model is loaded, which the options of the server say.
IGNORED_OPTIONS = (
    "num_ctx", "num_keep", "num_batch", "num_gpu", "main_gpu", "num_thread", "numa", "low_vram",
    "f16_kv", "vocab_only", "use_mmap", "use_mlock", "embedding_only", "logits_all",
    "mirostat_tau", "mirostat_eta", "penalize_newline",
)  # fmt: skip
SAMPLING = (
    "temperature", "top_k", "top_p", "min_p", "presence_penalty", "frequency_penalty", "stop",
)  # fmt: skip


@dataclass(frozen=True)
class OllamaRequest:
    """A request.

    Attributes:
        conversation: what it asks for. Without messages and `raw`, only that the model is loaded.
        raw: a prompt that is no conversation; "" if there is none.
    """

    conversation: Conversation
    raw: str = ""


def parse_chat(body: object) -> OllamaRequest:
    """Parse a body of /api/chat; ApiError 400 if it is wrong."""
    fields = Fields(body)
    talk = Talk(joined=())
    for index, message in enumerate(fields.items("messages", "a list of messages")):
        _add_message(talk, message, f"messages[{index}]")
    tools = take_tools(fields)
    return OllamaRequest(_conversation(fields, talk, tools))


def parse_generate(body: object) -> OllamaRequest:
    """Parse a body of /api/generate; ApiError 400 if it is wrong."""
    fields = Fields(body)
    talk, prompt = Talk(), fields.text("prompt") or ""
    system, raw = fields.text("system"), fields.boolean("raw")
    for name, none in (("suffix", ""), ("template", ""), ("images", []), ("context", [])):
        fields.only(name, [none])
    if system and prompt:
        talk.say("system", system)
    if prompt:
        talk.say("user", prompt)
    return OllamaRequest(_conversation(fields, talk, None), prompt if raw else "")


def parse_show(body: object) -> str:
    """Parse a body of /api/show and return the name of the model; ApiError 400 if it is wrong."""
    fields = Fields(body)
    name = fields.text("model") or fields.text("name")
    fields.ignore(["name", "verbose"])
    fields.end()
    if name is None:
        raise required("model")
    return name


def _add_message(talk: Talk, value: object, where: str) -> None:
    fields = Fields(value, f"{where}.")
    role, text = fields.word("role", ROLES), fields.text("content") or ""
    fields.only("images", [[]])
    if role == "tool":
        name = fields.text("tool_name") or fields.text("name")
        talk.result(fields.text("tool_call_id"), text, name)
    elif role == "assistant":
        _add_answer(talk, fields, text, where)
    else:
        talk.say(role, text)
    fields.only("tool_calls", [[]])
    fields.ignore(["name", "tool_name", "thinking", "tool_call_id"])
    fields.end()


def _add_answer(talk: Talk, fields: Fields, text: str, where: str) -> None:
    """Add an answer of the model: what it thought, a text, and calls."""
    if thoughts := fields.text("thinking"):
        talk.think(thoughts)
    talk.say("assistant", text)
    for index, call in enumerate(fields.items("tool_calls", "a list of calls")):
        _add_call(talk, call, f"{where}.tool_calls[{index}]")


def _add_call(talk: Talk, value: object, where: str) -> None:
    fields = Fields(value, f"{where}.")
    function = Fields(fields.take("function"), f"{where}.function.")
    name, arguments = function.given_text("name"), function.take("arguments")
    if arguments is not None and not isinstance(arguments, dict):
        raise wrong(f"{where}.function.arguments", arguments, "a JSON object")
    function.ignore(["index", "description"])
    function.end()
    talk.call(fields.text("id"), name, arguments or {})
    fields.ignore(["type", "index"])
    fields.end()


def _conversation(fields: Fields, talk: Talk, tools: Tools | None) -> Conversation:
    """Take what both kinds of requests have; no other fields may be left then."""
    grammar, variables = _format(fields.take("format")), _variables(fields)
    for name in ("logprobs", "truncate", "shift"):
        fields.only(name, [False] if name == "logprobs" else [False, True])
    fields.only("top_logprobs", [0])
    stream = fields.boolean("stream", True)
    options = _options(fields.nested("options"), {"model": fields.text("model"), "stream": stream})
    fields.ignore(["keep_alive"])
    fields.end()
    return Conversation(talk.messages, fitting(options, grammar), variables, tools, talk.begin)


def _options(fields: Fields, more: dict[str, Any]) -> Options:
    """Take the field options.

    Args:
        fields: its fields.
        more: fields of the request that Options has, too.
    """
    limit = fields.integer("num_predict", -2, MAX_TOKENS)
    seed = fields.integer("seed", -1, (1 << 63) - 1)
    penalty = fields.number("repeat_penalty", 0, 100)
    last = fields.take("repeat_last_n")
    if last not in (None, -1) and penalty not in (None, 1):
        raise wrong("options.repeat_last_n", last, "-1: the penalty is for all tokens")
    fields.only("mirostat", [0])
    for name in ("tfs_z", "typical_p"):
        fields.only(name, [1, 1.0])
    given = {name: value for name in SAMPLING if (value := fields.take(name)) is not None}
    fields.ignore(IGNORED_OPTIONS)
    fields.end()
    given |= {"repetition_penalty": penalty, "seed": None if seed == -1 else seed, **more}
    return take_options(Fields(given), limit if limit and limit > 0 else None, None)


def _format(value: object) -> GrammarText | None:
    """Return what the field format asks for; None for any text."""
    if value in (None, ""):
        return None
    if value == "json":
        return GrammarText("schema", ANY_OBJECT, "format")
    if not isinstance(value, dict):
        raise wrong("format", value, "'json' or a JSON schema")
    return schema_text(value, "format", strict=False)


def _variables(fields: Fields) -> dict[str, Any]:
    """Take the field think: whether and how hard the model is to think."""
    value = fields.take("think")
    if value is None:
        return {}
    if value in EFFORTS:
        return {"reasoning_effort": value}
    if value is not True and value is not False:
        raise wrong("think", value, f"true, false, {', '.join(EFFORTS)}")
    return {"enable_thinking": value}
