"""What all requests for a text have, checked and converted for the rest of the server.

The fields top_k, min_p, repetition_penalty, ignore_eos, regex, choice and grammar are extensions
with the names of `LLM.generate`.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field, replace
from typing import Any

from dllama.errors import ConfigError
from dllama.options import MAX_SEED, MAX_TOP_K
from dllama.sampling.grammar import GrammarText
from dllama.sampling.sampler import SamplerConfig
from dllama.server.fields import Fields, wrong
from dllama.server.grammar_fields import take_grammar
from dllama.server.problems import ApiError

MAX_TOKENS = 1 << 31
MAX_TOP = 20  # alternatives to a token
MAX_STOPS = 16
MAX_TEXTS = 128  # that are generated for a prompt
# These tell who asks, or how to bill, store or route the response.
IGNORED = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "verbosity",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Options that all kinds of requests have.

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
        count: texts for each prompt.
        tries: how many are generated for each prompt, of which the likeliest are returned.
        echo: whether a text begins with its prompt.
        index: which of the texts that are returned this is about.
        id: of the request, unique.
        created: Unix time in seconds.
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
    count: int = 1
    tries: int = 1
    echo: bool = False
    index: int = 0
    id: str = field(default_factory=lambda: secrets.token_hex(12), compare=False)
    created: int = field(default_factory=lambda: int(time.time()), compare=False)

    @property
    def chooses(self) -> bool:
        """Whether only the likeliest texts are returned."""
        return self.tries > self.count


def take_options(
    fields: Fields, max_tokens: int | None, top: int | None, count: int = 1, tries: int = 1
) -> Options:
    """Take the fields that all kinds have; no others may be left then."""
    for name in ("frequency_penalty", "presence_penalty"):
        fields.only(name, [0, 0.0], ": use repetition_penalty instead")
    fields.only("logit_bias", [{}])
    stream = fields.boolean("stream")
    options = Options(
        model=fields.text("model"),
        max_tokens=max_tokens,
        sampling=_sampling(fields),
        stop=take_stops(fields, "stop"),
        ignore_eos=fields.boolean("ignore_eos"),
        stream=stream,
        include_usage=_include_usage(fields.take("stream_options"), stream),
        top=top,
        grammar=take_grammar(fields),
        count=count,
        tries=tries,
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


def fitting(options: Options, grammar: GrammarText | None) -> Options:
    """Return options with a grammar that another field asks for; ApiError 400 for a second one."""
    if grammar and options.grammar:
        names = f"{grammar.name} and {options.grammar.name}"
        raise ApiError(400, f"{names}: a request can have only one of them",
                       param=options.grammar.name, code="invalid_value")  # fmt: skip
    return replace(options, grammar=grammar or options.grammar)


def take_stops(fields: Fields, name: str) -> tuple[str, ...]:
    """Take the stop strings: one, or a list."""
    value = fields.take(name)
    stops = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise wrong(name, value, f"a string or a list of at most {MAX_STOPS} strings")
    if any(not isinstance(text, str) or not text for text in stops):
        raise wrong(name, value, "non-empty strings")
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
