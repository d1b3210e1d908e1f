"""What Hugging Face's config files say about a tokenizer: BOS, EOS and the chat template."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dllama.checks import is_flag, is_integer
from dllama.errors import FormatError, ModelError
from dllama.git_lfs import refuse_pointer
from dllama.json_file import read_json_if_any

TEMPLATE_FILE = "chat_template.jinja"
TOOL_TEMPLATE_FILE = "additional_chat_templates/tool_use.jinja"


@dataclass(frozen=True)
class TokenizerConfig:
    """Settings of a tokenizer.

    Attributes:
        bos_id: None if no file names one.
        eos_ids: empty if no file names any.
        add_bos: None if tokenizer_config.json does not say.
        chat_template: Jinja source, or None.
        special_tokens: texts of special tokens by their names in tokenizer_config.json (bos_token,
            eos_token, ...).
    """

    bos_id: int | None
    eos_ids: tuple[int, ...]
    add_bos: bool | None
    chat_template: str | None
    special_tokens: dict[str, str] = field(default_factory=dict)


def read_tokenizer_config(
    folder: Path,
    token_to_id: Callable[[str], int | None],
    vocab_size: int,
    ends: tuple[str | None, str | None] = (None, None),
) -> TokenizerConfig:
    """Read tokenizer_config.json, generation_config.json and config.json, as far as they exist.

    EOS ids come from the generation defaults, else from the model, else from the tokenizer.

    Args:
        folder: where the files are.
        token_to_id: looks up a token's name.
        vocab_size: all ids must be below it.
        ends: BOS and EOS if no file names one.

    Raises:
        FormatError: a file is broken or an id is out of range.
        ModelError: a file cannot be read.
    """
    tokenizer = read_json_if_any(folder / "tokenizer_config.json")
    numbered = {
        path: read_json_if_any(path)
        for path in (folder / "generation_config.json", folder / "config.json")
    }
    bos = tuple(_named(tokenizer.get("bos_token"), token_to_id))
    eos = tuple(_named(tokenizer.get("eos_token"), token_to_id))
    eos_given = False
    for path, values in numbered.items():
        bos = bos or tuple(_ids(path, "bos_token_id", values, vocab_size))
        given = tuple(_ids(path, "eos_token_id", values, vocab_size))
        if given and not eos_given:
            eos, eos_given = given, True
    bos = bos or tuple(_named(ends[0], token_to_id))
    eos = eos or tuple(_named(ends[1], token_to_id))
    add_bos = tokenizer.get("add_bos_token")
    return TokenizerConfig(
        bos_id=bos[0] if bos else None,
        eos_ids=tuple(dict.fromkeys(eos)),
        add_bos=add_bos if is_flag(add_bos) else None,
        chat_template=_chat_template(folder, tokenizer.get("chat_template")),
        special_tokens=_special_tokens(tokenizer),
    )


def read_special_tokens(folder: Path) -> dict[str, str]:
    """Read special_tokens from a folder's tokenizer_config.json; empty if there is none."""
    return _special_tokens(read_json_if_any(folder / "tokenizer_config.json"))


def _special_tokens(values: dict[str, Any]) -> dict[str, str]:
    """Return the texts of all values whose names end in _token."""
    named = {name: _text(value) for name, value in values.items() if name.endswith("_token")}
    return {name: text for name, text in named.items() if text is not None}


def _text(token: object) -> str | None:
    """Return the text of a token, which is given directly or as an object with "content"."""
    name = token.get("content") if isinstance(token, dict) else token
    return name if isinstance(name, str) else None


def _named(token: object, token_to_id: Callable[[str], int | None]) -> Iterator[int]:
    name = _text(token)
    index = token_to_id(name) if name is not None else None
    if index is not None:
        yield index


def _ids(path: Path, key: str, values: dict[str, Any], vocab_size: int) -> Iterator[int]:
    """Yield the ids in a value that is a number, a list of numbers, or null."""
    value = values.get(key)
    for index in value if isinstance(value, list) else [value]:
        if index is None:
            continue
        if not is_integer(index, 0, vocab_size - 1):
            raise FormatError(path, key, repr(index), f"a token id below {vocab_size}")
        yield index


def _chat_template(folder: Path, configured: object) -> str | None:
    """Return the chat template of a folder.

    It is that of chat_template.jinja, or the default one of tokenizer_config.json. Either may have
    another one beside it for conversations with tools.
    """
    if (folder / TEMPLATE_FILE).is_file():
        tools = folder / TOOL_TEMPLATE_FILE
        return by_tools(
            _read_text(folder / TEMPLATE_FILE), _read_text(tools) if tools.is_file() else None
        )
    if isinstance(configured, list):
        entries = [entry for entry in configured if isinstance(entry, dict)]
        named = {entry.get("name"): entry.get("template") for entry in entries}
        return by_tools(named.get("default"), named.get("tool_use"))
    return configured if isinstance(configured, str) else None


def by_tools(default: object, tool_use: object) -> str | None:
    """Return one template for two; what is no text is not there.

    Args:
        default: source of a template.
        tool_use: source of that for conversations with tools.
    """
    if not isinstance(default, str) or not isinstance(tool_use, str):
        return default if isinstance(default, str) else None
    # A template loses the line break at its end, and a tag the one after it.
    texts = [f"\n{text.removesuffix(chr(10))}{{{{ '' }}}}" for text in (tool_use, default)]
    return "{% if tools %}" + "{% else %}".join(texts) + "{% endif %}"


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
        refuse_pointer(text.encode(), path)
        return text
    except UnicodeDecodeError as error:
        raise FormatError(path, "text", f"not UTF-8 ({error.reason})", "UTF-8") from error
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
