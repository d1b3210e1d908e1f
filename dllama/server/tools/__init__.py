"""Calls of functions in the text of an answer: one file for each format that models write."""

from __future__ import annotations

from dllama.server.tools.base import ToolFormat
from dllama.server.tools.deepseek import DeepSeek
from dllama.server.tools.gemma import FunctionGemma, Gemma
from dllama.server.tools.glm import Glm
from dllama.server.tools.harmony import Harmony
from dllama.server.tools.hermes import Hermes
from dllama.server.tools.llama import Llama
from dllama.server.tools.mistral import Mistral
from dllama.server.tools.qwen_coder import QwenCoder

ALL: tuple[ToolFormat, ...] = (
    Harmony(), Mistral(), DeepSeek(), Gemma(), FunctionGemma(), Glm(), QwenCoder(), Hermes(),
    Llama(),
)  # fmt: skip


def tool_format(source: str) -> ToolFormat | None:
    """Return the format of a chat template, found by its markers; None if it has none of these."""
    return next((form for form in ALL if form.recognises(source)), None)
