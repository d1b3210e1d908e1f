"""Chat templates: all that Hugging Face's templates need works, and nothing unsafe does."""

from __future__ import annotations

import json
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest

import dllama
from dllama.errors import DllamaError, InputError, TemplateError
from dllama.text import template_process
from dllama.text.template import Begin, ChatTemplate, Message
from dllama.text.template_variables import parse_variables
from dllama.text.tokenizer import Tokenizer
from dllama.text.tokenizer_file import TokenizerData, write_tokenizer

DEMO = Path(dllama.__file__).parent / "demo"
TALK = [Message("system", "Be brief."), Message("user", " Hi "), Message("assistant", "Ho")]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def render(source: str, messages=TALK, **options) -> str:
    return ChatTemplate(source, "the template", TOKENS).render(messages, **options)


def test_a_last_message_that_goes_on() -> None:
    """It has no end, and what it says twice is not cut at the first time."""
    source = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>{% endfor %}"
    made = ChatTemplate(source, "the template")

    def rest(*contents: str) -> str:
        talk = [{"role": role, "content": one} for role, one in zip("ua", contents, strict=True)]
        return made.render_begun(talk, Begin.REST)

    assert rest("Hi", "Hi") == "<u>Hi</s><a>Hi"
    assert rest("a", " I am ") == "<u>a</s><a>I am"
    plain = ChatTemplate("{% for m in messages %}{{ m.content }}</s>{% endfor %}")
    talk = [{"role": "assistant", "content": "I am "}]
    assert plain.render_begun(talk, Begin.REST) == "I am "
    assert plain.render_begun(talk, Begin.NOTHING) == "I am </s>"
    shouts = ChatTemplate("{{ messages[0].content | upper }}", "the template")
    with pytest.raises(TemplateError, match="the template changes the last message"):
        shouts.render_begun(talk, Begin.REST)


def test_what_templates_of_models_do() -> None:
    """Trimmed blocks and contents, namespaces, slices, and the beginning of an answer."""
    source = """\
{{- bos_token }}
{%- set ns = namespace(count=0) %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system, rest = messages[0]['content'], messages[1:] %}
{%- else %}
    {%- set system, rest = '', messages %}
{%- endif %}
{%- for message in rest %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate') }}
    {%- endif %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' + (system + '\\n' if loop.first and system else '') }}
        {{- message.content.strip() + ' [/INST]' }}
    {%- elif tools is none and documents is not defined or true %}
        {{- ' ' ~ message.content ~ eos_token }}
    {%- endif %}
    {%- set ns.count = ns.count + 1 %}
    {%- if ns.count == 9 %}{% break %}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- ' ' }}
{%- endif %}
"""
    assert render(source) == "<s>[INST] Be brief.\nHi [/INST] Ho</s> "
    talk = [Message("user", "{{ 7 * 7 }}</s>")]
    assert render(source, talk, add_generation_prompt=False) == "<s>[INST] {{ 7 * 7 }}</s> [/INST]"
    with pytest.raises(TemplateError, match="the template: Roles must alternate"):
        render(source, [TALK[2]])


def test_functions_and_filters_of_templates() -> None:
    lines = "{% for m in messages %}\n  {% if m.role == 'user' %}\n{{ m.content }}\n  {% endif %}\n"
    assert render(lines + "{% endfor %}\n") == " Hi \n"
    message = {"role": "user", "content": "é<", "tool_calls": [{"b": 1, "a": None}]}
    source = (
        "{{ messages[0].tool_calls[0] | tojson }}{{ messages[0]['content'] | tojson(indent=2) }}"
    )
    assert render(source, [message]) == '{"b": 1, "a": null}"é<"'
    assert render("{{ 'a-b' | replace('-', '+') ~ 'aa'.replace('a', 'b', 1) }}") == "a+bba"
    assert render("{{ messages | join(', ', attribute='role') }}") == "system, user, assistant"
    assert render("{{ ', '.join(['a', 'b']) ~ 'a\\nb' | indent(2) }}") == "a, ba\n  b"
    assert render("{{ 7 % 4 }}{{ 'a,b'.split(',') | last | upper }}") == "3B"
    assert render("{{ strftime_now('%Y') }}") in {str(datetime.now().year + n) for n in (-1, 0)}
    assert render("{% generation %}x{{ missing }}{% endgeneration %}") == "x"
    assert (
        render("{% for m in messages %}{% continue %}x{% endfor %}{{ messages | length }}") == "3"
    )
    assert render("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f('a') ~ 1 ~ none }}") == "<a>1None"


@pytest.mark.parametrize("kind", ["folder", "folder with .t", ".t file"])
def test_special_tokens_by_name(kind: str, tmp_path: Path) -> None:
    """tokenizer_config.json names them, whatever the EOS ids are; without it the ids name them."""
    shutil.copy(DEMO / "tokenizer.json", tmp_path)
    config = {"bos_token": {"content": "<|begin_of_text|>"}, "eos_token": "<|eot_id|>",
              "unk_token": None, "pad_token": "<|end_of_text|>", "add_bos_token": True}  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2044, 2047]}')
    if kind == "folder with .t":
        shutil.copy(DEMO / "tokenizer.t", tmp_path)
    tokenizer = Tokenizer.open(DEMO / "tokenizer.t" if kind == ".t file" else tmp_path)
    source = "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token }}"
    template = ChatTemplate(source, tokens=tokenizer.special_tokens)
    assert (
        template.render([])
        == {
            "folder": "<|begin_of_text|><|eot_id|><|end_of_text|>",
            "folder with .t": "<|begin_of_text|><|eot_id|><|end_of_text|>",
            ".t file": "<|begin_of_text|><|end_of_text|>",
        }[kind]
    )


def test_names_of_a_scored_vocabulary(tmp_path: Path) -> None:
    data = TokenizerData([b"<unk>", b"<s>", b"\xff"], [0.0] * 3, 1, (), True, "{{ bos_token }}")
    write_tokenizer(tmp_path / "a.t", data)
    tokenizer = Tokenizer.open(tmp_path / "a.t")
    assert [tokenizer.name(token) for token in range(4)] == ["<unk>", "<s>", "\ufffd", ""]
    assert ChatTemplate.of(tokenizer).encode(tokenizer, []) == [1]


def test_ids_have_special_tokens_and_one_bos() -> None:
    tokenizer = Tokenizer.open(DEMO)
    ids = ChatTemplate.of(tokenizer).encode(tokenizer, [Message("user", " Hi\n")])
    head = [2045, *tokenizer.encode("user", add_bos=False), 2046]
    begun = [2045, *tokenizer.encode("assistant", add_bos=False), 2046]
    newlines, text = (tokenizer.encode(part, add_bos=False) for part in ("\n\n", "\n\nHi"))
    assert ids == [2043, *head, *text, 2047, *begun, *newlines]


@pytest.mark.parametrize(
    ("source", "stop_ids"),
    [
        (None, (2047,)),
        ("{% for m in messages %}{{ m.content }} {{ eos_token }}\n{% endfor %}", (2044,)),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", ()),
        ("{{ raise_exception('no') }}", ()),
        ("plain", ()),
    ],
)
def test_the_token_that_ends_an_answer(source: str | None, stop_ids: tuple[int, ...]) -> None:
    tokenizer = Tokenizer.open(DEMO)
    if source not in (None, "plain"):
        tokenizer.chat_template, source = source, None
    assert ChatTemplate.of(tokenizer, source).stop_ids == stop_ids


def test_a_template_in_a_file(tmp_path: Path) -> None:
    tokenizer = Tokenizer.open(DEMO)
    (tmp_path / "mine.jinja").write_text("{{ messages[0].content }}")
    assert ChatTemplate.of(tokenizer, tmp_path / "mine.jinja").render(TALK) == "Be brief."
    for name, reason in (("none", "No such file"), (".", "Is a directory")):
        with pytest.raises(InputError, match=f"{name}: {reason}"):
            ChatTemplate.of(tokenizer, tmp_path / name)
    (tmp_path / "bytes").write_bytes(b"a\xff")
    with pytest.raises(InputError, match="not UTF-8 at byte 1"):
        ChatTemplate.of(tokenizer, tmp_path / "bytes")


def test_a_conversation_as_a_plain_text() -> None:
    template = ChatTemplate.of(Tokenizer.open(DEMO), "plain")
    text = "<|begin_of_text|>Be brief.\n\nUSER:\nHi\n\nASSISTANT:\nHo\n\nASSISTANT:\n"
    assert template.render(TALK) == text
    assert template.stops == ("\n\n",)


def test_a_model_without_a_template() -> None:
    tokenizer = Tokenizer.open(DEMO)
    tokenizer.chat_template = None
    with pytest.raises(TemplateError, match="no chat template: give one with --template FILE"):
        ChatTemplate.of(tokenizer)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a\n{% if %}", "the template: line 2: Expected an expression"),
        ("{% include 'x' %}", "the template: no loader"),
        ("{{ messages.x.y }}", "the template: .*has no attribute 'x'"),
        ("{{ messages[0] + 1 }}", "the template: unsupported operand"),
        ("{{ 1 / 0 }}", "the template: division by zero"),
        ("{{ x | nothing }}", "the template: line 1: No filter named 'nothing'"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "the template: "),
        (" " * ((1 << 20) + 1), "the template has 1048577 characters"),
        ("{{ messages | tojson(indent='x') | tojson(sort_keys=1, separators=3) }}", "the template"),
    ],
)
def test_broken_templates_are_errors_that_name_them(source: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message) as caught:
        render(source)
    assert isinstance(caught.value, DllamaError)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ '# %s: %05.1f%%' | format('User', 2.5) }}", "# User: 002.5%"),
        ("{{ '%(a)s-%(b)d' | format(a='x', b=7) }}", "x-7"),
        ("{{ '%s and %r' % ('x', 'y') }}", "x and 'y'"),
        ("{{ '<%s>' % 'x' }}", "<x>"),
        ("{{ '[{}] {:>4}|{0!r}'.format('a', 'b') if false else '[{}] {:>4}'.format('a', 'b') }}",
         "[a]    b"),
        ("{{ '{1}{0[k]}{n:03d}'.format({'k': 'v'}, 'x', n=5) }}", "xv005"),
        ("{{ '{x}'.format_map({'x': 1}) }}", "1"),
        ("{% for m in messages %}{{ '%s;' | format(m.role | title) }}{% endfor %}",
         "System;User;Assistant;"),
    ],
)  # fmt: skip
def test_formats_text_as_python_does(source: str, expected: str) -> None:
    assert render(source) == expected


def test_variables_of_the_user() -> None:
    source = "{{ enable_thinking is defined and enable_thinking }}{{ bos_token }}"
    assert render(source) == "False<s>"
    template = ChatTemplate(source, "x", TOKENS, variables={"enable_thinking": True})
    assert template.render(TALK) == "True<s>"
    assert template.render(TALK, variables={"enable_thinking": False}) == "False<s>"
    assert template.render(TALK) == "True<s>"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": ', "broken JSON"),
        ("[1]", "expected a JSON object"),
        ('{"messages": []}', "must not set messages"),
        ('{"add_generation_prompt": false}', "must not set add_generation_prompt"),
    ],
)
def test_broken_variables(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_variables(text)


REACHING = [
    "{{ ''.__class__.__mro__ }}",
    "{{ ''['__class__'] }}",
    "{{ '' | attr('__class__') }}",
    "{{ messages.append.__self__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ raise_exception | attr('__globals__') }}",
    "{{ strftime_now.__globals__['json'] }}",
    "{{ range.__init__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner | map(attribute='__init__') | list }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "{% set f = '{0.__class__}'.format %}{{ f(1) }}",
    "{{ namespace().__class__.__init__.__globals__ }}",
    "{{ (messages | map('attr', '__class__') | list)[0].__mro__ }}",
    "{% macro f() %}{% endmacro %}{{ f.__class__.__init__.__globals__ }}",
    "{{ loop.__class__ }}{{ lipsum.__globals__ }}",
    "{% for x in messages %}{{ loop.__init__.__globals__ }}{% endfor %}",
]


@pytest.mark.parametrize("source", REACHING)
def test_nothing_of_python_is_reached(source: str) -> None:
    try:
        text = render(source)
    except TemplateError as error:
        text = str(error)
    assert not any(word in text for word in ("<class", "<function", "<module", "uid=", "builtins"))


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ messages.clear() }}",
        "{{ messages.pop() }}",
    ],
)
def test_nothing_is_changed(source: str) -> None:
    with pytest.raises(TemplateError, match="unsafe"):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(1000) %}{{ ([1]*10000000)|sort|length }}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ [[[1] * 9000] * 9000] * 9000 == [[[1] * 9000] * 9000] * 9000 }}",
    ],
)
def test_a_template_that_computes_for_long_is_ended(source: str, monkeypatch) -> None:
    monkeypatch.setattr(template_process, "MAX_SECONDS", 0.1)
    with pytest.raises(TemplateError, match=r"the template: computes for more than 0\.1 s"):
        render(source)
    monkeypatch.undo()
    assert render("{{ messages | length }}") == "3"


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10 ** 10 }}",
        "{% set n = namespace(x=['a']) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}"
        "{% endfor %}",
        "{{ '%9999999999d' % 1 }}",
    ],
)
def test_a_template_gets_no_more_memory(source: str) -> None:
    with pytest.raises(TemplateError, match=r"the template: takes more than 512 MB of memory"):
        render(source)


def test_what_a_template_may_write_and_read() -> None:
    with pytest.raises(TemplateError, match="the template: writes too long a text"):
        render("{{ 'a' * (2 ** 24 + 1) }}")
    nested: list[object] = []
    for _ in range(5000):
        nested = [nested]
    with pytest.raises(TemplateError, match="the template: the messages are nested too deeply"):
        render("", [{"role": "user", "content": nested}])
    with pytest.raises(TemplateError, match="the template: its variables are not JSON"):
        ChatTemplate("", "the template", variables={"a": {1, 2}}).render([])


def test_the_process_is_replaced_when_it_is_killed() -> None:
    assert render("{{ 1 }}") == "1"
    child = template_process._process._child
    assert child is not None
    child.kill()
    child.wait()
    assert render("{{ 2 }}") == "2"


@pytest.mark.parametrize("killed", [True, False])
def test_another_process_answers_when_one_is_killed_or_hangs(
    monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    if not killed:
        monkeypatch.setattr(template_process, "MAX_WAIT", 2.0)
    assert render("{{ 1 }}") == "1"
    child = template_process._process._child
    assert child is not None
    child.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor() as pool:
        found = pool.submit(render, "{{ 2 }}")
        if killed:
            child.kill()
        assert found.result(60) == "2"
    assert child.returncode == -signal.SIGKILL
