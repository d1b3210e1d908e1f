"""`dllama run`."""

from __future__ import annotations

import json
import re

import pytest

import dllama
from dllama.cli import main
from dllama.cli.report import plural
from dllama.cluster.layout import thread_count
from dllama.model_path import DEMO

THREADS = thread_count(2)
GREEDY = ["run", "--temperature", "0", "--threads", "2"]
KEYS = {"tokens", "text", "prompt_tokens", "steps", "summary", "nodes", "transport", "buffer",
        "threads", "model"}  # fmt: skip
STEP_KEYS = {"phase", "tokens", "total_ms", "inference_ms", "transfer_ms", "sample_ms",
             "sent_bytes", "received_bytes"}  # fmt: skip
SUMMARY_KEYS = {"prompt_tokens_per_s", "tokens_per_s", "avg_total_ms", "avg_inference_ms",
                "avg_transfer_ms", "avg_sent_bytes", "avg_received_bytes", "drafted",
                "accepted"}  # fmt: skip


@pytest.fixture(scope="module")
def greedy():
    """The 8 tokens that follow the demo prompt."""
    with dllama.LLM(threads=2) as llm:
        return list(llm.generate("MACBETH:\n", 8, temperature=0.0))


@pytest.fixture
def run(capsys):
    """Run the command; its exit status, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        status = main([*GREEDY, *words])
        return status, *capsys.readouterr()

    return run


def test_options_of_tokens(run, greedy):
    """Biases forbid and end; the penalties and min_tokens reach the text."""
    first = greedy[0].id
    _, text, _ = run("MACBETH:\n", "--steps", "8", "--quiet", "--stop-ids", str(first), "7")
    assert text == "\n"
    words = [
        "--logit-bias",
        f"{first}=-100",
        "--frequency-penalty",
        "0.5",
        "--stop-ids",
        str(first),
    ]
    words += ["--presence-penalty", "0.1", "--min-tokens", "2"]
    _, text, _ = run("MACBETH:\n", "--steps", "8", "--quiet", *words)
    with dllama.LLM(threads=2) as llm:
        tokens = llm.generate(
            "MACBETH:\n", 8, temperature=0.0, logit_bias={first: -100}, frequency_penalty=0.5,
            presence_penalty=0.1, min_tokens=2, stop_ids=[first],
        )  # fmt: skip
        assert text == "".join(token.text for token in tokens) + "\n"


def test_prints_the_prompt_and_the_text(run, greedy):
    status, out, _ = run("--steps", "8")
    assert status == 0
    assert out == "MACBETH:\n" + "".join(token.text for token in greedy) + "\n"


def test_prints_a_row_for_every_step_and_the_summary(run):
    _, _, err = run("--steps", "8")
    table, summary = err.strip().split("\n\n")
    rows = table.splitlines()
    assert len({len(row) for row in rows}) == 1
    assert [row.split()[0] for row in rows] == ["phase", "prefill"] + 7 * ["decode"]
    assert summary.splitlines()[0] == f"1 node, {plural(THREADS, 'thread')}, q40 weights"
    assert [line.split()[0] for line in summary.splitlines()[1:]] == [
        "prompt",
        "generation",
        "per",
        "traffic",
    ]


def test_quiet_prints_the_generated_text_only(run, greedy):
    _, out, err = run("--steps", "8", "--quiet")
    assert out == "".join(token.text for token in greedy) + "\n"
    assert err == ""


def test_a_prompt_from_a_file(run, greedy, tmp_path):
    (tmp_path / "prompt.txt").write_text("MACBETH:\n")
    _, out, _ = run("--steps", "8", "--quiet", "--prompt-file", str(tmp_path / "prompt.txt"))
    assert out == "".join(token.text for token in greedy) + "\n"


def test_a_seed_repeats_a_text(capsys):
    words = ["run", "--quiet", "--steps", "16", "--seed", "5", "--top-k", "40", "--min-p", "0.01"]
    texts = []
    for _ in range(2):
        assert main(words) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_json_has_the_keys_of_the_contract(run, greedy, tmp_path):
    path = tmp_path / "run.json"
    assert run("--steps", "8", "--json", str(path))[0] == 0
    result = json.loads(path.read_text(encoding="utf-8"))
    assert set(result) == KEYS
    assert result["tokens"] == [token.id for token in greedy]
    assert result["text"] == "".join(token.text for token in greedy)
    assert [set(step) for step in result["steps"]] == 8 * [STEP_KEYS]
    assert set(result["summary"]) == SUMMARY_KEYS
    assert result["prompt_tokens"] == result["steps"][0]["tokens"]
    assert (result["nodes"], result["transport"], result["threads"]) == (1, None, THREADS)
    assert result["buffer"] == "q80"
    assert result["model"].endswith("model.m")
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_json_replaces_a_file(run, tmp_path):
    path = tmp_path / "run.json"
    path.write_text("old")
    run("--steps", "1", "--json", str(path))
    assert len(json.loads(path.read_text())["tokens"]) == 1


def test_json_goes_through_a_link(run, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run.json")
    run("--steps", "1", "--json", str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "run.json").is_file()


def test_json_to_a_device(run):
    status, out, _ = run("--steps", "1", "--quiet", "--json", "/dev/null")
    assert status == 0
    assert out


def test_the_command_line_wins_over_the_file(run, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("steps: 3\nquiet: true\nprompt: ROMEO\ncontext: 64\n")
    path = tmp_path / "run.json"
    run("--config", str(config), "--json", str(path))
    assert len(json.loads(path.read_text())["tokens"]) == 3
    run("--config", str(config), "--json", str(path), "--steps", "2")
    assert len(json.loads(path.read_text())["tokens"]) == 2


def test_a_prompt_file_wins_over_the_prompt_of_the_file(run, tmp_path):
    (tmp_path / "run.yaml").write_text("prompt: ROMEO\n")
    (tmp_path / "prompt.txt").write_text("JULIET\n")
    _, out, _ = run(
        "--config", str(tmp_path / "run.yaml"),
        "--prompt-file", str(tmp_path / "prompt.txt"),
        "--steps", "1",
    )  # fmt: skip
    assert out.startswith("JULIET\n")


def test_ends_before_a_stop_text(run, greedy):
    text = "".join(token.text for token in greedy)
    stop = text[len(text) // 2 :][:3]
    _, out, _ = run("--steps", "8", "--quiet", "--stop", stop, "--stop", "never")
    assert out == text[: text.index(stop)] + "\n"


def test_default_steps_fit_in_a_short_context(run):
    status, out, _ = run("--max-seq-len", "16", "--quiet")
    assert status == 0
    assert out.strip()


def test_a_model_without_a_tokenizer_takes_and_prints_ids(run, converted, fixtures):
    folder = converted("llama-gqa", "f32")
    with dllama.LLM(folder, threads=2) as llm:
        ids = [token.id for token in llm.generate([1, 15, 9], 4, temperature=0.0)]
    _, out, _ = run("--model", str(folder), "--prompt", "1 15, 9", "--steps", "4")
    assert out.split() == ["1", "15,", "9", *map(str, ids)]


def test_generation_config_gives_defaults(run, tmp_path, greedy):
    """The demo's, changed to take the likeliest of one token."""
    for file in DEMO.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "generation_config.json").write_text('{"do_sample": true, "top_k": 1}')
    words = ["--model", str(tmp_path), "--steps", "8", "--quiet", "--prompt", "MACBETH:\n"]
    _, out, _ = run(*words, "--temperature", "2")
    assert out == "".join(token.text for token in greedy) + "\n"


def test_an_interrupted_text_is_kept(run, greedy, monkeypatch):
    def interrupted(self, prompt, limit, **options):
        yield from greedy[:3]
        raise KeyboardInterrupt

    monkeypatch.setattr(dllama.LLM, "generate", interrupted)
    status, out, err = run()
    assert status == 130
    assert out == "MACBETH:\n" + "".join(token.text for token in greedy[:3]) + "\n"
    assert "Traceback" not in err


def test_the_text_fits_what_is_asked_for(run, tmp_path):
    schema, grammar = tmp_path / "schema.json", tmp_path / "grammar.gbnf"
    fields = {"name": {"enum": ["A", "B"]}}
    asked = {"type": "object", "properties": fields, "required": ["name"]}
    schema.write_text(json.dumps(asked))
    grammar.write_text('root ::= "Exit" [a-z]* "."')
    quiet = ["--quiet", "--steps", "60"]
    _, out, _ = run(*quiet, "--json-schema", str(schema))
    assert json.loads(out) in ({"name": "A"}, {"name": "B"})
    assert run(*quiet, "--choice", "Exeunt", "--choice", "Exit")[1] in ("Exeunt\n", "Exit\n")
    assert re.fullmatch(r"[A-Z]{3,5}:\n", run(*quiet, "--regex", "[A-Z]{3,5}:")[1])
    assert re.fullmatch(r"Exit[a-z]*\.\n", run(*quiet, "--grammar", str(grammar))[1])
    config = tmp_path / "config.yaml"
    config.write_text(f"grammar: {grammar}\nquiet: true\n")
    assert run("--config", str(config))[1].startswith("Exit")
    assert run("--config", str(config), "--choice", "Exeunt")[1] == "Exeunt\n"


def test_what_cannot_be_fitted_names_option_and_file(run, tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "x"}')
    missing = tmp_path / "none"
    for words, status, message in [
        (["--json-schema", str(schema)], 2, f"--json-schema {schema}: Invalid type: x"),
        (["--grammar", str(missing)], 1, f"--grammar {missing}: No such file or directory"),
        (["--regex", "("], 2, "--regex: unclosed group"),
        (["--regex", "a", "--choice", "b"], 2, "--regex and --choice: only one of them can be"),
    ]:
        found, out, err = run(*words)
        assert (found, out) == (status, "")
        assert err.splitlines()[-1].startswith(f"dllama: error: {message}")
