"""The command line as people type it, and what it says where they mistype."""

from __future__ import annotations

import pytest

from dllama import cli
from dllama.cli import main
from dllama.errors import ConfigError
from dllama.model_path import DEMO

GREEDY = ["--temperature", "0", "--threads", "1", "--steps", "4", "--quiet"]


def parse(*words: str) -> dict:
    """The values that a command line gives."""
    values = vars(cli.parser().parse_args(words))
    ignored = ("known", "run", "command", "debug")
    return {k: v for k, v in values.items() if v is not None and k not in ignored}


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["run", "a b"], {"prompt": "a b"}),
        (["run", "-p", "a b"], {"prompt": "a b"}),
        (["run", "--prompt", "a b"], {"prompt": "a b"}),
        (["run", ""], {"prompt": ""}),
        (["run", "-m", "x", "a"], {"model": "x", "prompt": "a"}),
        (["run", "a", "-m", "x"], {"model": "x", "prompt": "a"}),
        (["run", "--steps", "3", "a", "--quiet"], {"steps": 3, "prompt": "a", "quiet": True}),
        (["run", "--quiet", "--", "-a"], {"quiet": True, "prompt": "-a"}),
        (["chat", "x"], {"model": "x"}),
        (["chat", "x", "-p", "a"], {"model": "x", "prompt": "a"}),
        (["serve", "x"], {"model": "x"}),
        (["serve", "-m", "x"], {"model": "x"}),
        (["serve", "--queue", "3", "x"], {"model": "x", "queue": 3}),
        (["bench", "x", "--nodes", "1,2"], {"model": "x", "nodes": [1, 2]}),
        (["bench", "--nodes", "1", "2", "-m", "x"], {"model": "x", "nodes": [1, 2]}),
        (["info", "x"], {"model": "x"}),
        (["info", "-m", "x"], {"model": "x"}),
        (["info", "--model", "x"], {"model": "x"}),
        (["perplexity", "text", "-m", "x"], {"file": "text", "model": "x"}),
    ],
)
def test_spellings(words, values):
    assert parse(*words) == values


def test_all_spellings_of_a_prompt_give_the_same_text(capsys):
    texts = []
    for words in (["ROMEO:"], ["-p", "ROMEO:"], ["--prompt=ROMEO:"]):
        assert main(["run", *words, *GREEDY]) == 0
        texts.append(capsys.readouterr().out)
    assert len(set(texts)) == 1


@pytest.mark.parametrize("words", [[str(DEMO)], ["-m", str(DEMO)], ["--model", str(DEMO)]])
def test_info_takes_a_model_in_every_spelling(words, capsys):
    assert main(["info", *words]) == 0
    assert str(DEMO / "model.m") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "a", "-p", "b"], "TEXT 'a' and --prompt: only one of the two can be given"),
        (["run", "a", "--prompt", "b"], "TEXT 'a' and --prompt: only one"),
        (["chat", "x", "-m", "y"], "MODEL 'x' and --model: only one of the two can be given"),
        (["serve", "-m", "y", "x"], "MODEL 'x' and --model: only one"),
        (["info", "x", "--model", "y"], "MODEL 'x' and --model: only one"),
        (["bench", "x", "--model", "y"], "MODEL 'x' and --model: only one"),
        (["run", "Once", "upon"], "unexpected argument 'upon': put a text of several words in"),
        (["serve", "x", "y"], "unexpected argument 'y' (see dllama serve --help)"),
        (["run", "--temprature", "0"], "unrecognized option --temprature, did you mean --temper"),
        (["serve", "--prompt", "a"], "unrecognized option --prompt"),
        (["run", "--top_k=3"], "unrecognized option --top_k, did you mean --top-k?"),
    ],
)
def test_mistakes(words, message):
    with pytest.raises(ConfigError) as error:
        parse(*words)
    assert message in str(error.value)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_wrong_option_shows_the_usage_of_its_command(command, capsys):
    required = {"convert": ["x", "--output", "y"], "pull": ["x"], "perplexity": ["x"]}
    assert main([command, *required.get(command, []), "--bogus", "1"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"usage: dllama {command} ")
    assert err.splitlines()[-1].startswith("dllama: error: unrecognized option --bogus")
    assert f"(see dllama {command} --help)" in err


def test_a_wrong_option_before_the_command_shows_the_usage_of_all(capsys):
    assert main(["--bogus", "info"]) == 2
    assert capsys.readouterr().err.startswith("usage: dllama [-h]")


@pytest.mark.parametrize("command", ["run", "chat", "serve", "bench", "info"])
def test_help_shows_what_may_stand_without_a_flag(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    word = "TEXT" if command == "run" else "MODEL"
    assert f"[{word}]" in text.partition("positional arguments")[0]
    assert "the same as --" in text


def test_a_text_that_names_a_model_is_asked_about(capsys, caplog):
    assert main(["run", str(DEMO), *GREEDY]) == 0
    assert f"{DEMO} is taken as the text; -m {DEMO} would name a model" in caplog.text
    caplog.clear()
    assert main(["run", "x" * 300, *GREEDY]) == 0
    assert "taken as the text" not in caplog.text
