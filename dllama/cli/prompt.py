"""The prompt that the options give, as a text or as token ids."""

from __future__ import annotations

from typing import Any

from dllama import LLM
from dllama.cli.files import read_text
from dllama.errors import ConfigError


def prompt_text(values: dict[str, Any]) -> str | None:
    """The text of --prompt or --prompt-file, None without them."""
    if "prompt" in values and "prompt_file" in values:
        raise ConfigError("--prompt and --prompt-file: only one of the two can be given")
    if "prompt_file" in values:
        return read_text(values["prompt_file"], "--prompt-file")
    return values.get("prompt")


def written_ids(text: str) -> list[int]:
    """The token ids that are written in a prompt, for a model without a tokenizer."""
    try:
        return [int(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise ConfigError(
            f"prompt is {text!r}, expected token ids such as '1 15 9': the model has no tokenizer"
        ) from None


def prompt_ids(llm: LLM, text: str, most: int | None = None) -> list[int]:
    """The ids of a prompt at the beginning of a context; for `most` see Tokenizer.encode."""
    return llm.tokenizer.encode(text, most=most) if llm.tokenizer else written_ids(text)
