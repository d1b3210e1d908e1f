"""The grammar that the options ask for."""

from __future__ import annotations

from typing import Any

from dllama import LLM
from dllama.cli.files import read_text
from dllama.errors import ConfigError
from dllama.options import GRAMMAR, GRAMMAR_OPTIONS, JSON_SCHEMA
from dllama.sampling.grammar import Grammar, Grammars, GrammarText


def grammar_text(values: dict[str, Any]) -> GrammarText | None:
    """The grammar that the options give, None for any text.

    Raises:
        ConfigError: there are several.
        InputError: a file cannot be read.
    """
    given = [option for option in GRAMMAR_OPTIONS if option.name in values]
    if len(given) > 1:
        flags = " and ".join(option.flag for option in given)
        raise ConfigError(f"{flags}: only one of them can be given")
    for option in given:
        value, name = values[option.name], option.flag
        if option in (JSON_SCHEMA, GRAMMAR):
            value, name = read_text(value, option.flag), f"{option.flag} {value}"
        kind = "schema" if option is JSON_SCHEMA else option.name
        return GrammarText(kind, value, name)
    return None


def compiled(llm: LLM, text: GrammarText | None) -> Grammar | None:
    """The grammar for the tokens of a model; ConfigError names the option."""
    return Grammars(llm.tokenizer, llm.model_path).compile(text) if text else None
