"""Request bodies in OpenAI's format, checked and converted for the rest of the server.

The fields top_k, min_p, repetition_penalty, ignore_eos, regex, choice and grammar are extensions
with the names of `LLM.generate`; chat_template_kwargs is one of vLLM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dllama.errors import ConfigError
from dllama.options import MAX_SEED, MAX_TOP_K
from dllama.sampling.grammar import GrammarText
from dllama.sampling.sampler import SamplerConfig
from dllama.server.fields import Fields, required, wrong
from dllama.server.grammar_fields import take_grammar
from dllama.server.messages import parse_messages
from dllama.server.problems import ApiError
from dllama.server.tool_fields import Tools, take_tools
from dllama.text.template_variables import checked_variables

MAX_TOKENS = 1 << 31
MAX_TOP = 20  # alternatives to a token
MAX_STOPS = 16
DEFAULT_COMPLETION = 16  # tokens of /v1/completions, as in OpenAI's API
# These tell who asks, or how to bill, store or route the response.
IGNORED = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "verbosity",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Options that both kinds of requests have.

    Attributes:
        model: None means any model.
        max_tokens: None means as many as the context holds.
        sampling: arguments of LLM.generate that the request sets.
        stop: strings that end the text.
        ignore_eos: whether to go on after an EOS.
        stream: whether to stream the response.
        include_usage: whether a stream ends with the usage.
        top: number of alternatives to list for every token; None for no log probabilities.
        grammar: what the text is to fit; None for any text.
        special: ids of special tokens whose names are part of the text.
    """

    model: str | None
    max_tokens: int | None
    sampling: dict[str, Any]
    stop: tuple[str, ...]
    ignore_eos: bool
    stream: bool
    include_usage: bool
    top: int | None
    grammar: GrammarText | None = None
    special: tuple[int, ...] = ()


@dataclass(frozen=True)
class ChatRequest:
    """A request to /v1/chat/completions.

    Attributes:
        messages: each has "role" and "content", as the chat template gets them.
        options: those of all requests.
        variables: of the chat template.
        tools: functions that may be called; None if there are none.
    """

    messages: list[dict[str, Any]]
    options: Options
    variables: dict[str, Any]
    tools: Tools | None = None


@dataclass(frozen=True)
class CompletionRequest:
    """A request to /v1/completions; the prompt is text or ids."""

    prompt: str | list[int]
    options: Options


def parse_chat(body: object) -> ChatRequest:
    """Parse a body of /v1/chat/completions; ApiError 400 if it is wrong."""
    fields = Fields(body)
    messages = parse_messages(fields.take("messages"))
    variables = _variables(fields)
    limit = fields.integer("max_completion_tokens", 1, MAX_TOKENS)
    old_limit = fields.integer("max_tokens", 1, MAX_TOKENS)
    wants = fields.boolean("logprobs")
    top = fields.integer("top_logprobs", 0, MAX_TOP)
    if top is not None and not wants:
        raise ApiError(400, "top_logprobs needs logprobs to be true", param="top_logprobs")
    fields.only("modalities", [["text"]])
    fields.only("functions", [[]], ": use tools instead")
    fields.only("function_call", ["none", "auto"], ": use tool_choice instead")
    tools = take_tools(fields)
    options = _options(fields, old_limit if limit is None else limit, (top or 0) if wants else None)
    if tools and options.grammar:
        name = options.grammar.name.partition(".")[0]
        message = f"{name} and tools: a request with both needs tool_choice to be none"
        raise ApiError(400, message, param=name, code="unsupported_value")
    return ChatRequest(messages, options, variables, tools)


def parse_completion(body: object) -> CompletionRequest:
    """Parse a body of /v1/completions; ApiError 400 if it is wrong."""
    fields = Fields(body)
    prompt = _prompt(fields.take("prompt"))
    limit = fields.integer("max_tokens", 1, MAX_TOKENS)
    top = fields.integer("logprobs", 0, MAX_TOP)
    fields.only("best_of", [1])
    fields.only("echo", [False])
    fields.only("suffix", [""])
    options = _options(fields, DEFAULT_COMPLETION if limit is None else limit, top)
    return CompletionRequest(prompt, options)


def _variables(fields: Fields) -> dict[str, Any]:
    """Take the variables of the chat template, as vLLM and llama.cpp do."""
    value = fields.take("chat_template_kwargs")
    try:
        given = {} if value is None else checked_variables(value)
    except ValueError as error:
        message = f"chat_template_kwargs: {error}"
        raise ApiError(400, message, param="chat_template_kwargs", code="invalid_value") from error
    effort = fields.text("reasoning_effort")
    return given if effort is None else {"reasoning_effort": effort, **given}


def _options(fields: Fields, max_tokens: int | None, top: int | None) -> Options:
    """Take the fields that both kinds have; no others may be left then."""
    fields.only("n", [1], ": send one request for each choice")
    for name in ("frequency_penalty", "presence_penalty"):
        fields.only(name, [0, 0.0], ": use repetition_penalty instead")
    fields.only("logit_bias", [{}])
    stream = fields.boolean("stream")
    options = Options(
        model=fields.text("model"),
        max_tokens=max_tokens,
        sampling=_sampling(fields),
        stop=_stops(fields.take("stop")),
        ignore_eos=fields.boolean("ignore_eos"),
        stream=stream,
        include_usage=_include_usage(fields.take("stream_options"), stream),
        top=top,
        grammar=take_grammar(fields),
    )
    fields.ignore(IGNORED)
    fields.end()
    return options


def _sampling(fields: Fields) -> dict[str, Any]:
    """Take the sampling fields that are present."""
    values: dict[str, Any] = {
        "temperature": fields.number("temperature", 0, 2),
        "top_p": fields.number("top_p", 0, 1),
        "top_k": fields.integer("top_k", 0, MAX_TOP_K),
        "min_p": fields.number("min_p", 0, 1),
        "repetition_penalty": fields.number("repetition_penalty", 0, 100),
        "seed": fields.integer("seed", -(1 << 63), MAX_SEED),
    }
    given = {name: value for name, value in values.items() if value is not None}
    if "seed" in given:
        given["seed"] &= MAX_SEED  # OpenAI allows negative seeds
    try:
        SamplerConfig(**given)
    except ConfigError as error:
        raise ApiError(400, str(error), param=str(error).split()[0], code="invalid_value") from None
    return given


def _stops(value: object) -> tuple[str, ...]:
    """Parse the stop strings: one, or a list."""
    stops = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise wrong("stop", value, f"a string or a list of at most {MAX_STOPS} strings")
    if any(not isinstance(text, str) or not text for text in stops):
        raise wrong("stop", value, "non-empty strings")
    return tuple(stops)


def _include_usage(value: object, stream: bool) -> bool:
    """Whether the stream ends with the usage."""
    if value is None:
        return False
    if not stream:
        raise ApiError(400, "stream_options needs stream to be true", param="stream_options")
    fields = Fields(value, "stream_options.")
    include = fields.boolean("include_usage")
    fields.ignore(["include_obfuscation"])
    fields.end()
    return include


def _prompt(value: object) -> str | list[int]:
    """Parse a prompt, or a list that holds one."""
    if value is None:
        raise required("prompt")
    if isinstance(value, list) and value and isinstance(value[0], (str, list)):
        if len(value) > 1:
            message = f"prompt has {len(value)} prompts, expected one: send one request for each"
            raise ApiError(400, message, param="prompt", code="unsupported_value")
        value = value[0]
    if isinstance(value, list) and all(type(token) is int for token in value):
        return value
    if not isinstance(value, str):
        raise wrong("prompt", value, "a string or a list of token ids")
    return value
