"""Options and the files that set them."""

from __future__ import annotations

import json

import pytest

from dllama.errors import ConfigError, FormatError, InputError
from dllama.options.files import generation_defaults, read_config
from dllama.options.option import Option

STEPS = Option("steps", int, "how many", least=0)
TOP_P = Option("top_p", float, "how likely", least=0, most=1, above=True)
BUFFER = Option("buffer", str, "which", choices=("q80", "f32"))
QUIET = Option("quiet", bool, "silence")
STOP = Option("stop", str, "where", many=True)
OPTIONS = (STEPS, TOP_P, BUFFER, QUIET, STOP)


@pytest.fixture
def read(tmp_path):
    """Read a text as a configuration file."""

    def read(text: str) -> dict:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return read_config(path, OPTIONS)

    return read


@pytest.mark.parametrize(
    ("option", "word", "value"),
    [(STEPS, "0", 0), (TOP_P, "1", 1.0), (TOP_P, "1e-3", 0.001), (BUFFER, "f32", "f32")],
)
def test_a_word_of_the_command_line(option, word, value):
    parsed = option.parse(word)
    assert parsed == value
    assert type(parsed) is option.type


@pytest.mark.parametrize(
    ("option", "word", "expected"),
    [
        (STEPS, "-1", "found -1, expected an integer of at least 0"),
        (STEPS, "1.5", "found '1.5', expected an integer of at least 0"),
        (TOP_P, "0", "found 0.0, expected a number of more than 0 and at most 1"),
        (TOP_P, "nan", "found nan, expected a number of more than 0 and at most 1"),
        (TOP_P, "inf", "found inf, expected a number of more than 0 and at most 1"),
        (BUFFER, "f64", "found 'f64', expected one of q80, f32"),
    ],
)
def test_a_wrong_word(option, word, expected):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        option.parse(word)
    assert str(error.value) == expected


def test_an_unbounded_number_takes_no_infinity():
    with pytest.raises(ValueError, match=r"expected a number$"):
        Option("x", float, "").parse("inf")


def test_a_file_sets_options(read):
    text = "# shared\nsteps: 3\ntop-p: 1\nbuffer: q80\nquiet: true\nstop: [a, b]\n"
    expected = {"steps": 3, "top_p": 1.0, "buffer": "q80", "quiet": True, "stop": ["a", "b"]}
    assert read(text) == expected


def test_one_value_where_many_may_stand(read):
    assert read("stop: a") == {"stop": ["a"]}


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n"])
def test_an_empty_file_sets_nothing(read, text):
    assert read(text) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 3\nstpes: 4", "line 2: stpes: no such option, expected one of buffer, quiet,"),
        ("steps: 3\n\nsteps: 4", "line 3: steps: steps is given twice"),
        ("top_p: 0.5\ntop-p: 0.5", "line 2: top-p: top_p is given twice"),
        ("steps: many", "line 1: steps: found 'many', expected an integer of at least 0"),
        ("steps: true", "line 1: steps: found True, expected an integer"),
        ("steps: 1.0", "line 1: steps: found 1.0, expected an integer"),
        ("steps:", "line 1: steps: found None, expected an integer"),
        ("steps: -1", "line 1: steps: found -1, expected an integer of at least 0"),
        ("top_p: 1.1", "line 1: top_p: found 1.1, expected a number of more than 0 and at most 1"),
        ("quiet: 1", "line 1: quiet: found 1, expected true or false"),
        ("buffer: f64", "line 1: buffer: found 'f64', expected one of q80, f32"),
        ("stop: [a, 1]", "line 1: stop: found 1, expected a text"),
        ("stop: !!python/name:os.system x", "line 1: stop: could not determine a constructor"),
        ("- steps", "found no keys, expected lines of the form key: value"),
        ("steps: [", "not YAML"),
        ("[" * 5000, "not YAML: nested more than 16 deep"),
        ("stop: " + "[" * 5000 + "]" * 5000, "not YAML: nested more than 16 deep"),
        ("steps: !!bool maybe", "tag:yaml.org,2002:bool does not fit the value"),
        ("steps: !!timestamp 99-99-99", "tag:yaml.org,2002:timestamp does not fit the value"),
        ("steps: [&a [1, 1], &b [*a, *a], &c [*b, *b]]", "found [[1, 1], [[1, 1], [1, 1]], "),
    ],
)
def test_a_wrong_file_is_named_with_its_line(read, text, message):
    with pytest.raises(ConfigError) as error:
        read(text)
    assert "run.yaml" in str(error.value)
    assert message in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: No such file"):
        read_config(tmp_path / "none.yaml", OPTIONS)


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"x\.yaml: not YAML"):
        read_config(tmp_path / "x.yaml", OPTIONS)


@pytest.fixture
def generation(tmp_path):
    """The defaults of a folder whose generation_config.json holds a value."""

    def generation(value: object) -> dict:
        (tmp_path / "generation_config.json").write_text(json.dumps(value))
        return generation_defaults(tmp_path, (STEPS, TOP_P))

    return generation


def test_a_model_without_defaults(tmp_path):
    assert generation_defaults(tmp_path, OPTIONS) == {}


def test_defaults_of_a_model(generation):
    assert generation({"do_sample": True, "top_p": 1, "steps": None, "eos": 3}) == {"top_p": 1.0}


@pytest.mark.parametrize("value", [{"top_p": 0.5}, {"do_sample": False, "top_p": 0.5}])
def test_defaults_count_only_for_sampling(generation, value):
    assert generation(value) == {}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"do_sample": True, "top_p": 2}, "top_p is 2, expected a number of more than 0"),
        ({"do_sample": True, "top_p": "1"}, "top_p is '1', expected a number"),
        ([], "JSON is list, expected an object"),
    ],
)
def test_wrong_defaults_of_a_model(generation, value, message):
    with pytest.raises(FormatError, match=r"generation_config\.json") as error:
        generation(value)
    assert message in str(error.value)


def test_broken_defaults_of_a_model(tmp_path):
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(FormatError, match="broken"):
        generation_defaults(tmp_path, OPTIONS)


def check_address(text):
    if text.isupper():
        raise ConfigError(f"address is {text!r}")


WORKERS = Option("workers", str, "where", several=True, test=check_address)
SHARES = Option("shares", float, "how much", least=0, above=True, commas=True)
THREADS = Option("threads", int, "for computing", least=1)
NODES = Option("nodes", int, "how many", least=1)
CLUSTER = (NODES, WORKERS, SHARES, THREADS)


def read_cluster(tmp_path, text):
    path = tmp_path / "cluster.yaml"
    path.write_text(text, encoding="utf-8")
    return read_config(path, CLUSTER)


def test_a_list_of_nodes(tmp_path):
    text = "nodes:\n  - share: 2\n  - {address: 'a:1', threads: 3}\n  - address: b:2\n"
    assert read_cluster(tmp_path, text) == {
        "workers": ["a:1", "b:2"],
        "threads": [None, 3, None],
        "shares": [2.0, 1.0, 1.0],
    }
    assert read_cluster(tmp_path, "nodes: 4") == {"nodes": 4}
    assert read_cluster(tmp_path, "nodes: [{}, {address: 'a:1'}]") == {"workers": ["a:1"]}
    assert read_cluster(tmp_path, "shares: [1, 2.5]") == {"shares": [1.0, 2.5]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes: [{threads: 1}]", "line 1: nodes: expected the root, without an address"),
        ("nodes:\n- address: a:1\n- address: b:1", "line 2: nodes: expected the root"),
        ("nodes:\n- {}\n- share: 1", "line 2: nodes: expected an address for every node but"),
        ("nodes:\n- {}\n- a:1", "line 3: expected a node with address, share, threads"),
        ("nodes:\n- {}\n- address: a:1\n  port: 1", "line 4: port: expected each of address"),
        ("nodes:\n- threads: 0\n- address: a:1", "line 2: threads: found 0, expected an integer"),
        ("nodes:\n- share: 0\n- address: a:1", "line 2: share: found 0, expected a number from"),
        ("nodes:\n- {}\n- share: 1\n  address: A", "line 4: address: address is 'A'"),
        ("\nworkers: [a, B]", "line 2: workers: address is 'B'"),
        ("nodes:\n- [1]: 2\n- address: a:1", "line 2: "),
        ("nodes: four", "line 1: nodes: found 'four', expected an integer"),
        ("workers: [x]\nnodes: [{}, {address: y}]", "line 2: nodes: workers is given twice"),
        ("shares: [1, x]", "line 1: shares: found 'x', expected a number of more than 0"),
    ],
)
def test_a_wrong_list_of_nodes_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(ConfigError) as error:
        read_cluster(tmp_path, text)
    assert f"cluster.yaml, {message}" in str(error.value)


def test_words_with_commas():
    assert SHARES.parse("1,2.5") == [1.0, 2.5]
    with pytest.raises(ValueError, match="found 'x', expected a number of more than 0"):
        SHARES.parse("1,x")
