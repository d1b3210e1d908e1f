"""A server whose chat template has functions and thoughts."""

from __future__ import annotations

import pytest
from serving import serving

TEMPLATE = """\
{%- if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}
{%- for message in messages %}
{{- '<|' + message.role + '|>' }}
{%- if message.reasoning_content %}
{{- '<think>' + message.reasoning_content + '</think>' }}
{%- endif %}
{{- message.content }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>' + call.function.name + call.function.arguments.city + '</tool_call>' }}
{%- endfor %}
{%- if message.role == 'tool' %}{{ message.name + message.tool_call_id }}{% endif %}
{%- endfor %}
{{- '<|assistant|>' }}
{%- if enable_thinking is defined %}
{{- '<think>\n' if enable_thinking else '<think>\n\n</think>\n\n' }}
{%- endif %}"""


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "tools.jinja"
    path.write_text(TEMPLATE)
    with serving(limit=2, template=path) as started:
        yield started
