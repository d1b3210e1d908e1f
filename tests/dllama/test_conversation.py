"""Conversations: what is evaluated, forgotten and saved."""

from __future__ import annotations

import json

import pytest

import dllama
from dllama.conversation import MAX_FILE, Conversation, read_messages, to_json
from dllama.errors import (
    ConfigError,
    ContextError,
    FormatError,
    InputError,
    ModelError,
    TemplateError,
)
from dllama.text.stream import End
from dllama.text.template import ChatTemplate, Message

GREEDY = {"temperature": 0.0, "ignore_eos": True}
TALK = [Message("user", "Hi"), Message("assistant", "Ho\n\"é\""), Message("user", "?"),
        Message("assistant", "!")]  # fmt: skip


@pytest.fixture(scope="module", params=[1, 2])
def llm(request, chat_model):
    with dllama.LLM(chat_model, nodes=request.param, threads=1) as model:
        yield model


@pytest.fixture
def template(llm):
    llm.reset()
    return ChatTemplate.of(llm.tokenizer)


def say(conversation, text):
    return "".join(token.text for token in conversation.say(text))


def test_ids_that_end_an_answer(llm, template):
    """They do, besides the end of a turn, also where that is ignored."""
    (first, second, *_) = Conversation(llm, template, steps=6, **GREEDY).say("Hello")
    for options in (GREEDY, {"temperature": 0.0}):
        llm.reset()
        made = Conversation(llm, template, steps=6, stop_ids=(second.id,), **options)
        assert say(made, "Hello") == ("" if first.id == second.id else first.text)


def test_only_what_is_new_is_evaluated(llm, template):
    """The answers equal those of a context that is evaluated as a whole."""
    conversation = Conversation(llm, template, "Be brief.", 12, **GREEDY)
    messages, answers = [Message("system", "Be brief.")], []
    for turn, text in enumerate(("Hello", "And now?", "Good bye")):
        steps = len(llm.stats.steps)
        answer = say(conversation, text)
        prompt = [*messages, Message("user", text)]
        answers.append((template.encode(llm.tokenizer, prompt), answer))
        messages = [*prompt, Message("assistant", answer)]
        assert conversation.messages == messages
        evaluated = llm.stats.steps[steps].tokens
        head = len(template.encode(llm.tokenizer, [Message("user", text)]))
        assert evaluated <= (head + 1 if turn else len(answers[0][0]))
    for ids, answer in answers:
        llm.reset()
        assert "".join(token.text for token in llm.generate(ids, 12, **GREEDY)) == answer


def test_the_oldest_turns_go_when_the_context_is_full(llm, template):
    """Half of the context becomes free, and the system prompt stays."""
    conversation = Conversation(llm, template, "Be brief.", 16, **GREEDY)
    seen = []
    for turn in range(12):
        say(conversation, f"Message {turn}")
        seen.append(conversation.forgotten)
        visible = conversation.messages[:1] + conversation.turns[conversation.forgotten :]
        ids = template.encode(llm.tokenizer, visible[:-1])
        assert list(llm.tokens[: len(ids)]) == ids
        assert llm.position <= llm.seq_len
        if turn and seen[-1] > seen[-2]:
            assert len(ids) <= llm.seq_len // 2
    assert seen[-1] > 0
    assert len(set(seen)) < 7
    assert len(conversation.turns) == 24


def test_a_long_conversation_is_cut_at_once(llm, template, monkeypatch):
    """A saved conversation may have very many turns, but only a few prompts are encoded."""
    conversation = Conversation(llm, template, None, 4, **GREEDY)
    conversation.restore([*TALK] * 500)
    calls = []
    encode = ChatTemplate.encode
    monkeypatch.setattr(ChatTemplate, "encode", lambda *w: calls.append(1) or encode(*w))
    say(conversation, "Hello")
    assert len(calls) < 15
    visible = conversation.turns[conversation.forgotten : -1]
    assert 60 < len(encode(template, llm.tokenizer, visible)) <= llm.seq_len // 2
    assert visible[0].role == "user"


def test_an_answer_may_fill_the_context(llm, template):
    conversation = Conversation(llm, template, **GREEDY)
    tokens = list(conversation.say("a" * 150))
    assert tokens[-1].end is End.LENGTH
    assert llm.position == llm.seq_len
    assert say(conversation, "b")
    assert conversation.forgotten == 2


def test_a_message_that_is_too_long_changes_nothing(llm, template):
    conversation = Conversation(llm, template, None, 4, **GREEDY)
    say(conversation, "Hello")
    before, tokens = conversation.messages, llm.tokens
    for text, error in (("a" * 300, ContextError), ("\ud800", ConfigError)):
        with pytest.raises(error):
            conversation.say(text)
        assert conversation.messages == before
        assert (conversation.forgotten, llm.tokens) == (0, tokens)


def test_a_stopped_answer_stays(llm, template):
    conversation = Conversation(llm, template, **GREEDY)
    texts = []
    for token in conversation.say("Hello"):
        texts.append(token.text)
        if len(texts) == 3:
            llm.interrupt()
    assert len(texts) == 4
    assert conversation.turns[-1] == Message("assistant", "".join(texts))
    steps = len(llm.stats.steps)
    say(conversation, "Go on")
    new = len(template.encode(llm.tokenizer, [Message("user", "Go on")]))
    assert llm.stats.steps[steps].tokens <= new + 1


def test_a_message_without_any_token_is_not_kept(llm, template):
    conversation = Conversation(llm, template, **GREEDY)
    conversation.say("never asked for")
    answer = conversation.say("closed at once")
    answer.close()
    assert conversation.messages == []


def test_the_token_after_a_turn_ends_an_answer(llm, template):
    """The model's EOS is another token."""
    assert template.stop_ids == (4,)
    assert llm.tokenizer.eos_ids == (2,)
    options = {"temperature": 0.0}
    tokens = list(Conversation(llm, template, None, 9, **options).say("Hello"))
    template.stop_ids = (tokens[5].id,)
    ended = list(Conversation(llm, template, None, 9, **options).say("Hello"))
    assert ended[-1].end is End.EOS
    assert ended[-1].text == ""
    assert len(ended) <= 6


def test_another_system_prompt(llm, template):
    conversation = Conversation(llm, template, None, 4, **GREEDY)
    say(conversation, "Hello")
    conversation.set_system("Shout.")
    say(conversation, "Hello")
    prompt = conversation.messages[:-1]
    assert prompt[0] == Message("system", "Shout.")
    ids = template.encode(llm.tokenizer, prompt)
    assert list(llm.tokens[: len(ids)]) == ids
    refusing = ChatTemplate("{% if messages[0].role == 'system' %}{{ raise_exception('none') }}"
                            "{% endif %}{{ messages[0].content }}")  # fmt: skip
    with pytest.raises(TemplateError, match="none"):
        Conversation(llm, refusing, "Shout.")
    conversation = Conversation(llm, refusing)
    with pytest.raises(TemplateError, match="none"):
        conversation.set_system("Shout.")
    assert conversation.system is None


def test_a_seed_repeats_a_conversation_but_not_its_draws(llm, template):
    options = {"temperature": 2.0, "ignore_eos": True, "seed": (1 << 64) - 1}
    talks = []
    for _ in range(2):
        conversation = Conversation(llm, template, None, 6, **options)
        talks.append([say(conversation, "Hello") for _ in range(3)])
    assert talks[0] == talks[1]
    assert len(set(talks[0])) == 3


def test_reset_forgets_all_but_the_system_prompt(llm, template):
    conversation = Conversation(llm, template, "Be brief.", 4, **GREEDY)
    first = say(conversation, "Hello")
    say(conversation, "Hello")
    conversation.reset()
    assert conversation.messages == [Message("system", "Be brief.")]
    assert say(conversation, "Hello") == first


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_saved_conversation_goes_on(llm, template, system, tmp_path):
    conversation = Conversation(llm, template, system, 6, **GREEDY)
    for text in ("Hello", "And now?"):
        say(conversation, text)
    path = tmp_path / "talk.json"
    path.write_text(json.dumps(to_json(conversation.messages)))
    last = say(conversation, "Bye")
    other = Conversation(llm, template, "Shout.", 6, **GREEDY)
    other.restore(read_messages(path))
    assert other.system == system
    assert say(other, "Bye") == last
    assert other.messages == conversation.messages


def test_a_model_without_a_tokenizer_has_no_conversation(converted):
    template = ChatTemplate("{{ messages }}")
    with (
        dllama.LLM(converted("llama-gqa", "q40"), threads=1) as llm,
        pytest.raises(ModelError, match="no tokenizer, and a conversation needs one"),
    ):
        Conversation(llm, template)


def saved(*messages, **changes):
    return json.dumps({**to_json(list(messages)), **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "JSON is broken"),
        ("\udcff", "JSON is broken"),
        ("[" * 100_000, "JSON is broken"),
        ("[]", "content is something else, expected a dllama conversation of version 1"),
        ("{}", "content is something else"),
        (saved(version=2), "content is something else"),
        (saved(messages=None), "messages is NoneType, expected a list"),
        (saved(messages=[3]), "message 0 is something else"),
        (saved(messages=[{"role": "user", "content": 3}]), "message 0 is something else"),
        (saved(messages=[{"role": "user"}]), "message 0 is something else"),
        (saved(Message("user", "\ud800")), "message 0 is not valid Unicode"),
        (saved(TALK[1]), "role of message 0 is 'assistant', expected user"),
        (saved(*TALK, TALK[1]), "role of message 4 is 'assistant', expected user"),
        (saved(TALK[0], Message("system", "x")), "role of message 1 is 'system', expected assis"),
        (saved(Message("\x1b" * 99, "x")), r"role of message 0 is '\\x1b\\x1b"),
        (saved(*TALK[:3]), "last message is from the user, expected an answer"),
    ],
)
def test_files_that_are_not_conversations(text, message, tmp_path):
    path = tmp_path / "talk.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(FormatError, match=message) as error:
        read_messages(path)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 300 + len(str(path))


def test_files_that_cannot_be_read(tmp_path):
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError, match=reason):
            read_messages(path)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(MAX_FILE + 1)
    with pytest.raises(FormatError, match="size is more than"):
        read_messages(tmp_path / "huge")


def test_what_is_saved_is_read(tmp_path):
    for messages in ([], TALK, [Message("system", "s"), *TALK]):
        path = tmp_path / "talk.json"
        path.write_text(json.dumps(to_json(messages)))
        assert read_messages(path) == messages
