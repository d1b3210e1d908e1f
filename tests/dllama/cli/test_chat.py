"""`dllama chat`: piped, and typed into a terminal."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import signal
import sys

import pytest
from terminal import Terminal

import dllama
from dllama.cli import main
from dllama.cli.console import Console, on_interrupt
from dllama.conversation import read_messages
from dllama.text.template import ChatTemplate, Message

CODE = "import sys; from dllama.cli import main; sys.exit(main())"
# A model that takes its time, so that there is time to press Ctrl-C.
SLOW = (
    """\
import sys, time
from dllama.model_runner import ModelRunner
fast = ModelRunner.run
def slow(self, *words):
    time.sleep(0.05)
    fast(self, *words)
ModelRunner.run = slow
"""
    + CODE
)
GREEDY = ("--temperature", "0", "--threads", "1", "--ignore-eos")
readline = pytest.mark.skipif(
    importlib.util.find_spec("readline") is None, reason="Python without readline"
)


@pytest.fixture
def chat(chat_model, monkeypatch, capsys):
    """Run the command with piped lines; its exit status, stdout and stderr."""

    def chat(lines: str | bytes, *words: str) -> tuple[int, str, str]:
        data = lines if isinstance(lines, bytes) else lines.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))
        status = main(["chat", "--model", str(chat_model), *GREEDY, "--steps", "6", *words])
        return status, *capsys.readouterr()

    return chat


@pytest.fixture(scope="module")
def answers(chat_model):
    """6 greedy tokens each, after "Hello" and then after "Bye"."""
    with dllama.LLM(chat_model, threads=1) as llm:
        template, messages = ChatTemplate.of(llm.tokenizer), []
        for text in ("Hello", "Bye"):
            messages.append(Message("user", text))
            llm.continue_from(template.encode(llm.tokenizer, messages))
            tokens = llm.generate([], 6, temperature=0.0, ignore_eos=True)
            messages.append(Message("assistant", "".join(token.text for token in tokens)))
    return [message.content for message in messages[1::2]]


def test_piped_lines_are_answered(chat, answers):
    status, out, err = chat("Hello\n\n  \nBye\n")
    assert status == 0
    assert out == "".join(answer.removesuffix("\n") + "\n" for answer in answers)
    notes = r"\(cut by --steps, 6 tokens, [\d.]+ tokens/s\)\n" * 2
    assert re.fullmatch(notes, err.split("\r")[-1].split("]\n")[-1])


def test_quiet_shows_answers_only(chat, answers):
    _, out, err = chat("Hello\n/stats\n/help\nBye", "--quiet")
    assert out == "".join(answer.removesuffix("\n") + "\n" for answer in answers)
    assert err == ""


def test_a_first_message_may_be_an_option(chat, answers, tmp_path):
    assert chat("", "--prompt", "Hello", "--quiet")[1] == answers[0].removesuffix("\n") + "\n"
    (tmp_path / "first.txt").write_text("Hello")
    words = ("--prompt-file", str(tmp_path / "first.txt"), "--json", str(tmp_path / "out.json"))
    chat("Bye\n", *words)
    result = json.loads((tmp_path / "out.json").read_text())
    contents = [message["content"] for message in result["messages"]]
    assert contents == ["Hello", answers[0], "Bye", answers[1]]
    assert result["text"] == "".join(answers)
    assert len(result["tokens"]) == 12
    assert result["nodes"] == 1


def test_messages_of_several_lines(chat, tmp_path):
    talk = tmp_path / "talk.json"
    lines = (
        "one\\\ntwo\\\n\nr\u00e9sum\u00e9\n\"\"\"\n a\n\nb \n\"\"\"\n\"\"\"c\"\"\"\n//x\n"
        f"/save {talk}\n\"\"\"no end\n/exit\n"
    )  # fmt: skip
    assert chat(lines, "--steps", "1")[0] == 0
    contents = [message.content for message in read_messages(talk)]
    assert contents[::2] == ["one\ntwo\n", "r\u00e9sum\u00e9", " a\n\nb ", "c", "/x"]


def test_commands(chat, answers, tmp_path):
    talk = tmp_path / "talk.json"
    lines = (
        f"/system\n/system Shout.\n/system\nHello\n/reset\n/system \"\"\nHello\n/save {talk}\n"
        f"Bye\n/load {talk}\nBye\n/stats\n/exit\nnot read\n"
    )  # fmt: skip
    status, out, err = chat(lines)
    assert status == 0
    assert out.endswith(answers[0] + "\n" + 2 * (answers[1] + "\n"))
    for note in (
        "(there is no system prompt)\n(system: Shout.)\n(system: Shout.)\n",
        "(all messages are forgotten)\n(there is no system prompt)\n",
        f"(saved in {talk})",
        "(2 messages loaded)",
        "messages  4, 0 of them forgotten",
    ):
        assert note in err
    assert re.search(r"context +\d+ of 256 positions", err)
    assert re.search(r"prompts +\d+ tokens evaluated, \d+ kept from turn to turn, ", err)
    assert [file.name for file in tmp_path.iterdir()] == ["talk.json"]


def test_save_replaces_conversations_only(chat, tmp_path):
    talk, notes = tmp_path / "talk.json", tmp_path / "notes.txt"
    notes.write_text("mine")
    for text in ("Hello", "Bye"):
        chat(f"{text}\n/save {talk}\n")
        assert read_messages(talk)[0].content == text
    status, _, err = chat(f"/save {notes}\n")
    assert status == 1
    assert f"{notes}: JSON is broken" in err
    assert notes.read_text() == "mine"


@pytest.mark.parametrize(
    ("lines", "status", "message"),
    [
        ("/fly\n", 2, "no command /fly: /help lists them"),
        ("/sav x\n", 2, "no command /sav: perhaps /save"),
        ("/image x.png\n", 2, "no command /image: models read and write text only"),
        ("/save\n", 2, "/save needs the name of a file"),
        ("/load /none\n", 1, "/none: No such file"),
        ("/save /none/x\n", 1, "/none/x: cannot write: /none is not a folder"),
        ("a" * 300 + "\n", 1, "the message does not fit: the prompt has 3"),
        (b"a\xff\n", 2, "the text is not valid Unicode at "),
    ],
)
def test_the_first_error_ends_what_is_piped(chat, lines, status, message):
    found, out, err = chat(lines)
    assert found == status
    assert out == ""
    assert f"dllama: error: {message}" in err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--template", "/none"), 1, "template /none: No such file or directory, and it is not"),
        (("--prompt", "a", "--prompt-file", "b"), 2, "only one of the two"),
        (("--steps", "0"), 2, "--steps: found 0"),
        (("--json", "/none/x"), 1, "/none/x: cannot write"),
    ],
)
def test_wrong_options(chat, words, status, message):
    found, _, err = chat("Hello\n", *words)
    assert found == status
    assert message in err


def test_a_model_without_a_template(chat, tmp_path, chat_model):
    for file in chat_model.iterdir():
        (tmp_path / file.name).symlink_to(file)
    for name in ("tokenizer.t", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    status, _, err = chat("Hello\n", "--model", str(tmp_path))
    assert status == 1
    assert "no chat template: give one with --template FILE" in err
    status, out, _ = chat("Hello\n", "--model", str(tmp_path), "--template", "plain")
    assert status == 0
    (tmp_path / "mine.jinja").write_text("{{ messages[0].content }}")
    words = ("--model", str(tmp_path), "--template", str(tmp_path / "mine.jinja"))
    assert chat("Hello\n", *words)[1] != out


def test_variables_of_the_template(chat, tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages[0].content }}{% if thinking %} think{% endif %}")
    plain, thinking = (
        chat("Hello\n", "--template", str(file), "--quiet", "--template-kwargs", given)[1]
        for given in ('{"thinking": false}', '{"thinking": true}')
    )
    assert plain == chat("Hello\n", "--template", str(file), "--quiet")[1] != thinking
    status, _, err = chat("Hello\n", "--template-kwargs", '{"messages": []}')
    assert status == 2
    assert "--template-kwargs" in err
    assert "must not set messages" in err


def test_a_context_that_is_full_is_told(chat):
    status, _, err = chat("a\n" * 30, "--steps", "20")
    assert status == 0
    assert "(the context is full: the oldest " in err
    assert "(cut: the context is full, " in chat("a" * 150, "--steps", "200")[2]


def test_several_nodes(chat, answers):
    _, out, _ = chat("Hello\nBye\n", "--nodes", "2", "--buffer", "f32", "--quiet")
    assert out == "".join(answer.removesuffix("\n") + "\n" for answer in answers)


def test_the_demo_model_speaks(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Who are you?\n"), "utf-8"))
    assert main(["chat", "--quiet", "--threads", "1", "--seed", "1"]) == 0
    out = capsys.readouterr().out
    assert out.strip()
    assert "\n\n" not in out


def test_the_second_interrupt_is_not_caught():
    calls = []
    with on_interrupt(lambda: calls.append(1)) as pressed:
        signal.raise_signal(signal.SIGINT)
        assert pressed.is_set()
        assert calls == [1]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_comes_late_is_not_the_end(monkeypatch, capsys):
    """Between an answer and the next message, where a person means the answer."""
    console = Console()
    console.interactive = True
    typed = iter([KeyboardInterrupt, "Hello", EOFError])

    def type_it(prompt):
        found = next(typed)
        if found is KeyboardInterrupt:
            signal.raise_signal(signal.SIGINT)
        if found is EOFError:
            raise EOFError
        return found

    monkeypatch.setattr("builtins.input", lambda prompt="": type_it(prompt))
    with console:
        assert console.read() == "Hello"
        assert "(Ctrl-D or /exit ends the conversation)" in capsys.readouterr().err
        signal.raise_signal(signal.SIGINT)
        with on_interrupt(lambda: None) as pressed:
            signal.raise_signal(signal.SIGINT)
            assert pressed.is_set()
        signal.raise_signal(signal.SIGINT)
        assert console.read() is None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    piped = Console()
    piped.interactive = False
    with piped, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_an_ignored_interrupt_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with on_interrupt(lambda: pytest.fail("interrupted")):
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_a_terminal(chat_model, answers, tmp_path):
    talk = tmp_path / "talk.json"
    words = ["chat", "--model", str(chat_model), *GREEDY, "--steps", "6"]
    with Terminal(CODE, words) as terminal:
        assert "model, a context of 256 tokens. /help shows what" in terminal.wait_for("\n> ")
        terminal.type("Hello\n")
        shown = terminal.wait_for("\n> ")
        assert re.search(r"\n\(cut by --steps, 6 tokens, [\d.]+ tokens/s\)\n> $", shown)
        assert answers[0].strip() in shown
        for command, note in (
            ("/help", "/exit +end the conversation"),
            ("/fly", "(no command /fly: /help lists them; two slashes begin a message with one)"),
            ("/load /none", "(/none: No such file or directory)"),
            ("a" * 300, "the message does not fit"),
        ):
            terminal.type(command + "\n")
            assert note.replace(" +", " " * 11) in terminal.wait_for("\n> ")
        terminal.type("half a mess")
        terminal.wait_for("half a mess")  # Ctrl-C discards what nobody has read yet
        terminal.press("\x03", r"\(Ctrl-D or /exit ends the conversation\)\n> ")
        terminal.type("\n")
        terminal.wait_for("> ")
        terminal.type("By\x7fye\\\n")
        terminal.wait_for(r"\. ")
        terminal.type("now\n")
        terminal.wait_for("\n> ")
        terminal.type(f"/save {talk}\n")
        terminal.wait_for(r"saved in .*\n> ")
        terminal.type("\x04")
        assert terminal.status() == 0
    assert "Traceback" not in terminal.text
    contents = [message.content for message in read_messages(talk)]
    assert contents[:3] == ["Hello", answers[0], "Bye\nnow"]


@readline
def test_pasted_lines_are_one_message(chat_model, tmp_path):
    talk = tmp_path / "talk.json"
    with Terminal(CODE, ["chat", "--model", str(chat_model), *GREEDY, "--steps", "2"]) as terminal:
        terminal.wait_for("\n> ")
        terminal.type("\x1b[200~one\ntwo\x1b[201~\n")
        terminal.wait_for(r"tokens.*\n> ")
        terminal.type(f"/save {talk}\n")
        terminal.wait_for(r"saved in .*\n> ")
        terminal.type("/exit\n")
        assert terminal.status() == 0
    assert read_messages(talk)[0].content == "one\ntwo"


@pytest.mark.parametrize("nodes", ["1", "2"])
def test_ctrl_c_stops_the_answer_only(chat_model, nodes, tmp_path):
    talk = tmp_path / "talk.json"
    words = ["chat", "--model", str(chat_model), *GREEDY, "--nodes", nodes]
    with Terminal(SLOW, words) as terminal:
        terminal.wait_for("\n> ")
        terminal.type("Hello\n")
        terminal.wait_for("Hello\n.")
        terminal.type("\x03")
        stopped = int(re.search(r"\(stopped, (\d+) tokens?", terminal.wait_for("\n> "))[1])
        assert stopped < 200
        terminal.type(f"/save {talk}\n")
        terminal.wait_for(r"saved in .*\n> ")
        assert len(read_messages(talk)[1].content) <= stopped
        terminal.type("And now?\n")
        terminal.wait_for("now\\?\n.")
        terminal.type("\x03")
        assert "(stopped, " in terminal.wait_for("\n> ")
        terminal.type("\x04")
        assert terminal.status() == 0


def test_the_second_ctrl_c_ends_the_program(chat_model):
    """While a pass takes long."""
    stuck = """\
import sys, time, dllama
from dllama.model_runner import ModelRunner
ModelRunner.run = lambda *words: print("pass", flush=True) or time.sleep(600)
dllama.LLM.interrupt = lambda self: print("asked", flush=True)
"""
    with Terminal(stuck + CODE, ["chat", "--model", str(chat_model), *GREEDY]) as terminal:
        terminal.wait_for("\n> ")
        terminal.type("Hello\n")
        terminal.wait_for("pass")
        terminal.type("\x03")
        terminal.wait_for("asked")
        terminal.type("\x03")
        assert terminal.status() == 130
    assert "Traceback" not in terminal.text


def test_a_conversation_outlives_its_model(chat_model, tmp_path):
    talk = tmp_path / "talk.json"
    failing = """\
from dllama.errors import TransportError
from dllama.cluster.root import Root
run, passes = Root.run, []
def fails(*words):
    passes.append(words)
    if len(passes) > 8:
        raise TransportError("worker 1 has gone")
    run(*words)
Root.run = fails
"""
    with Terminal(failing + CODE, ["chat", "--model", str(chat_model), *GREEDY]) as terminal:
        terminal.wait_for("\n> ")
        terminal.type("Hello\n")
        shown = terminal.wait_for("\n> ")
        assert "(worker 1 has gone)\n(the model cannot go on; /save keeps" in shown
        terminal.type("Hello?\n")
        assert "cannot go on: worker 1 has gone" in terminal.wait_for("\n> ")
        terminal.type(f"/save {talk}\n")
        terminal.wait_for(r"saved in .*\n> ")
        terminal.type("\x04")
        assert terminal.status() == 1
    assert terminal.text.endswith("dllama: error: worker 1 has gone\n")
    assert [message.content for message in read_messages(talk)][::2] == ["Hello"]
