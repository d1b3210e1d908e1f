"""What all requests for a text have, checked and converted for the rest of the server.

Besides OpenAI's there are fields that are named after arguments of `LLM.generate`, as those of vLLM
are.
"""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass, field, replace
from typing import Any

from dllama.options import MAX_SEED, SAMPLING_OPTIONS, SEED
from dllama.options import MAX_TOKENS as MAX_TOKENS
from dllama.options.biases import EXPECTED, is_bias
from dllama.sampling.grammar import GrammarText
from dllama.server.fields.grammar import only_one, take_grammar
from dllama.server.fields.json_object import Fields, is_ids, wrong
from dllama.server.problems import ApiError, shown

MAX_TOP = 20  # alternatives to a token
MAX_STOPS = 16
MAX_STOP = 1024  # characters
MAX_IDS = 4096  # in a field: the thread of the model looks at all of them for every token
MAX_TEXTS = 128  # that are generated for a prompt
# These tell who asks, how to bill, store or route the response, or how to be faster.
IGNORED = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "prediction", "cache_salt", "cache_prompt", "priority", "request_id",
    "id_slot",
)  # fmt: skip
# Fields of other servers, with the values that ask for nothing else than what this one does.
HARMLESS: dict[str, list[object]] = {
    "verbosity": ["medium"],
    "use_beam_search": [False],
    "length_penalty": [1, 1.0],
    "skip_special_tokens": [True],
    "spaces_between_special_tokens": [True],
    "include_stop_str_in_output": [False],
    "bad_words": [[]],
    "return_token_ids": [False],
    "return_tokens_as_token_ids": [False],
    "timings_per_token": [False],
}
# Names of llama.cpp, and those that stand for the same here.
RENAMED = {"repeat_penalty": "repetition_penalty", "n_predict": "max_tokens"}


@dataclass(frozen=True)
class Options:
    """Options that all kinds of requests have.

    Attributes:
        model: None means any model.
        max_tokens: None means as many as the context holds.
        sampling: arguments of LLM.generate that the request sets.
        stop: strings that end the text.
        stop_ids: token ids that end it.
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
    stop_ids: tuple[int, ...] = ()
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
    for name, allowed in HARMLESS.items():
        fields.only(name, allowed)
    for name, other in RENAMED.items():
        fields.only(name, [], f": use {other} instead")
    stream = fields.boolean("stream")
    options = Options(
        model=fields.text("model"),
        max_tokens=max_tokens,
        sampling=_sampling(fields),
        stop=take_stops(fields, "stop"),
        stop_ids=_stop_ids(fields.take("stop_token_ids")),
        ignore_eos=fields.boolean("ignore_eos"),
        stream=stream,
        include_usage=_include_usage(fields.take("stream_options"), stream),
        top=top,
        grammar=take_grammar(fields),
        count=count,
        tries=tries,
    )
    _check_least(options)
    fields.ignore(IGNORED)
    fields.end()
    return options


def _sampling(fields: Fields) -> dict[str, Any]:
    """Take the sampling fields that are present."""
    options = [option for option in SAMPLING_OPTIONS if option is not SEED]
    values: dict[str, Any] = {option.name: fields.option(option) for option in options}
    values["seed"] = fields.integer("seed", -(1 << 63), MAX_SEED)
    values["logit_bias"] = _biases(fields.take("logit_bias"))
    given = {name: value for name, value in values.items() if value is not None}
    if "seed" in given:
        given["seed"] &= MAX_SEED  # OpenAI allows negative seeds
    return given


def _biases(value: object) -> dict[int, float] | None:
    """Return what to add to the logits of token ids, which JSON has as texts."""
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) > MAX_IDS:
        expected = f"a JSON object with a number for each token id, at most {MAX_IDS}"
        raise wrong("logit_bias", value, expected)
    biases: dict[int, float] = {}
    for name, bias in value.items():
        token = int(name) if re.fullmatch("[0-9]{1,10}", name) else -1
        if not is_bias(token, bias):
            message = f"logit_bias of {shown(name)} is {shown(bias)}, expected {EXPECTED}"
            raise ApiError(400, message, param="logit_bias", code="invalid_value")
        biases[token] = bias
    return biases


def _stop_ids(value: object) -> tuple[int, ...]:
    """Return the token ids that end the text."""
    if value is None:
        return ()
    if not is_ids(value) or len(value) > MAX_IDS:
        raise wrong("stop_token_ids", value, f"a list of at most {MAX_IDS} token ids")
    return tuple(value)


def _check_least(options: Options) -> None:
    """Raise ApiError 400 if a text is to have more tokens than it may have."""
    least, most = options.sampling.get("min_tokens", 0), options.max_tokens
    if most is not None and least > most:
        raise wrong("min_tokens", least, f"at most the limit of tokens, which is {most}")


def fitting(options: Options, grammar: GrammarText | None) -> Options:
    """Return options with a grammar that another field asks for; ApiError 400 for a second one."""
    return replace(options, grammar=only_one(grammar, options.grammar))


def take_stops(fields: Fields, name: str) -> tuple[str, ...]:
    """Take the stop strings: one, or a list."""
    value = fields.take(name)
    stops = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise wrong(name, value, f"a string or a list of at most {MAX_STOPS} strings")
    if any(not isinstance(text, str) or not 0 < len(text) <= MAX_STOP for text in stops):
        raise wrong(name, value, f"non-empty strings of at most {MAX_STOP} characters")
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
