"""Bodies of requests with many fields, for each API."""

from __future__ import annotations

from tooling import CITY

FUNCTION = {"name": "f", "parameters": CITY}
RESPONSE = {
    "model": "m", "instructions": "a", "max_output_tokens": 5, "include": ["a"], "stream": True,
    "input": [
        {"role": "developer", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "a"}]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "a"},
    ],
    "tools": [{"type": "function", **FUNCTION}], "tool_choice": {"type": "function", "name": "f"},
    "text": {"format": {"type": "json_schema", "schema": CITY}}, "reasoning": {"effort": "low"},
    "stream_options": {"include_obfuscation": True}, "parallel_tool_calls": True,
}  # fmt: skip
MESSAGE = {
    "model": "m", "max_tokens": 5, "system": [{"type": "text", "text": "a"}], "top_k": 4,
    "messages": [
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "a", "signature": ""},
            {"type": "tool_use", "id": "1", "name": "f", "input": {}},
        ]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "a"}]},
    ],
    "tools": [{"name": "f", "input_schema": CITY}], "tool_choice": {"type": "tool", "name": "f"},
    "thinking": {"type": "enabled", "budget_tokens": 5}, "stop_sequences": ["a"],
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": CITY}},
}  # fmt: skip
CHAT = {
    "model": "m", "stream": False, "format": "json", "think": True,
    "messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "thinking": "a", "tool_calls": [
            {"function": {"name": "f", "arguments": {"city": "a"}}},
        ]},
        {"role": "tool", "content": "a", "tool_name": "f"},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "options": {"num_predict": 5, "stop": ["a"], "repeat_penalty": 1.1, "repeat_last_n": -1},
}  # fmt: skip
PROMPT = {"model": "m", "prompt": "a", "system": "a", "raw": True, "suffix": "", "format": CITY}
VECTORS = {"model": "m", "input": ["a", [5]], "pooling": "last", "dimensions": 4}
EMBED = {"model": "m", "input": ["a", "b"], "dimensions": 4, "truncate": True}
CHAT_COMPLETION = {
    "model": "m", "max_tokens": 5, "temperature": 0.5, "top_p": 0.5, "stop": ["a"], "seed": 1,
    "messages": [
        {"role": "system", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        ]},
        {"role": "tool", "tool_call_id": "1", "content": "a"},
    ],
    "stream": True, "stream_options": {"include_usage": True}, "logprobs": True, "top_logprobs": 2,
    "n": 1, "logit_bias": {"5": -1.0}, "response_format": {"type": "json_object"},
}  # fmt: skip
COMPLETION = {
    "model": "m", "prompt": "a", "max_tokens": 5, "stop": "a", "echo": False, "logprobs": 1,
    "n": 1, "best_of": 1, "frequency_penalty": 0.5, "presence_penalty": 0.5, "min_p": 0.1,
    "ignore_eos": True, "repetition_penalty": 1.1, "min_tokens": 1,
}  # fmt: skip
