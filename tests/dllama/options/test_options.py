"""Every option of the list reaches each of its readers, with the same default, range and help."""

from __future__ import annotations

import argparse
import inspect
import math
import re
from dataclasses import fields

import pytest

import dllama
from dllama import cli, options
from dllama._kernels.comm.communicator import ALGORITHMS, WIRES
from dllama.cli.options import LLM_ARGUMENTS
from dllama.errors import ConfigError, ProtocolError
from dllama.options import planning
from dllama.options.files import read_config
from dllama.options.option import Option
from dllama.run_config import FIELDS, NUMBERS, RunConfig
from dllama.sampling.sampler import SamplerConfig

(SUBPARSERS,) = (
    action for action in cli.parser()._actions if isinstance(action, argparse._SubParsersAction)
)
COMMANDS = SUBPARSERS.choices
VALUES = [
    value if isinstance(value, tuple) else (value,)
    for module in (options, planning)
    for value in vars(module).values()
]
LISTED = {option for values in VALUES for option in values if isinstance(option, Option)}
# What an option takes, where any text does not do.
TEXTS = {"transport": "unix", "workers": "127.0.0.1:9999", "listen": "127.0.0.1:8080",
         "logit_bias": "15=-2.5"}  # fmt: skip
CONFIG = RunConfig((1.0, 2.0), seq_len=64, kv_cache="f16", batch=8, logits=4, buffer="q80")


def name_of(option: Option) -> str:
    return option.name


def good(option: Option) -> object:
    """A value that the option takes."""
    if option.choices:
        value: object = option.choices[-1]
    elif option.type in (int, float):
        value = option.type(option.most if option.most < math.inf else max(option.least, 0) + 3)
    else:
        value = True if option.type is bool else TEXTS.get(option.name, "some text")
    return [value] if option.is_list else value


def bad(option: Option) -> list[object]:
    """Values that it does not take: of another type, and out of range."""
    values: list[object] = [1] if option.type in (bool, str) else ["x", True]
    if option.choices:
        values.append("another")
    if option.least > -math.inf:
        values.append(option.type(option.least - 1))
    if option.most < math.inf:
        values.append(option.type(option.most + 1))
    return [[value] for value in values] if option.is_list else values


def bounded(listed: tuple[Option, ...]) -> list[Option]:
    return [option for option in listed if option.choices or option.type in (int, float)]


# The command line.


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_command_line_has_the_options_of_the_list(command):
    parser = COMMANDS[command]
    known = parser.get_default("known") or []
    actions = {flag: action for action in parser._actions for flag in action.option_strings}
    for option in known:
        action = actions[option.flag]
        assert option in LISTED
        assert action.dest == option.name
        assert action.default is None
        assert action.help == option.description.replace("%", "%%")
        assert (option.short or option.flag) in action.option_strings


def test_help_says_range_and_default(capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for option in COMMANDS["run"].get_default("known"):
        assert option.description in text
        if option.default is not None and option.type is not bool:
            assert f"default: {option.default_text})" in text


@pytest.mark.parametrize("option", bounded(options.FILE_OPTIONS), ids=name_of)
def test_the_command_line_refuses_what_is_out_of_range(option):
    for command, parser in COMMANDS.items():
        if option not in (parser.get_default("known") or []):
            continue
        for value in bad(option):
            word = str(value[0] if isinstance(value, list) else value)
            with pytest.raises(ConfigError) as error:
                cli.parser().parse_args([command, f"{option.flag}={word}"])
            assert option.flag in str(error.value)
            assert f"expected {option.expected}" in str(error.value)


# Files.


def read(tmp_path, option: Option, value: object) -> object:
    path = tmp_path / "options.yaml"
    path.write_text(f"{option.name}: {value}\n")
    return read_config(path, options.FILE_OPTIONS)[option.name]


@pytest.mark.parametrize("option", options.FILE_OPTIONS, ids=name_of)
def test_a_file_sets_it(tmp_path, option):
    assert read(tmp_path, option, good(option)) == good(option)
    for value in bad(option):
        with pytest.raises(ConfigError) as error:
            read(tmp_path, option, value)
        assert f"options.yaml, line 1: {option.name}: found" in str(error.value)
        assert f"expected {option.expected}" in str(error.value)


def test_names_in_files_are_unique():
    names = [option.name for option in options.FILE_OPTIONS]
    assert len(names) == len(set(names))


# LLM().


def test_llm_has_the_arguments_of_the_list():
    parameters = inspect.signature(dllama.LLM).parameters
    assert list(parameters) == [option.name for option in options.LLM_OPTIONS]
    for option in options.LLM_OPTIONS:
        default = parameters[option.name].default
        assert default == (() if option is options.WORKERS else option.default)
    assert set(LLM_ARGUMENTS) <= set(parameters)


def test_the_documentation_of_llm_has_them_too():
    text = " ".join(inspect.getdoc(dllama.LLM).split())
    for option in options.LLM_OPTIONS:
        assert f" {option.name}: {option.help}" in text
        assert not option.default_text or f"default: {option.default_text}" in text
        assert all(choice in text for choice in option.choices or ())


@pytest.mark.parametrize(
    "option",
    [option for option in bounded(options.LLM_OPTIONS) if option is not options.SHARES],
    ids=name_of,
)
def test_llm_refuses_what_is_out_of_range(option):
    for value in bad(option):
        with pytest.raises(ConfigError) as error:
            dllama.LLM(**{option.name: value})
        most = 512 if option is options.MAX_SEQ_LEN else None  # of the demo model
        expected = f"an integer from 1 to {most}" if most else option.expected
        assert str(error.value) == f"{option.name} is {value!r}, expected {expected}"


def test_llm_refuses_shares_that_are_none():
    for value in bad(options.SHARES):
        with pytest.raises(ConfigError, match=r"shares are .*, expected for each a number"):
            dllama.LLM(shares=value)
    with pytest.raises(ConfigError, match="expected a list of addresses"):
        dllama.LLM(workers="127.0.0.1:9999")


def test_sampling_has_the_defaults_of_the_list():
    generate = inspect.signature(dllama.LLM.generate).parameters
    config = {field.name: field.default for field in fields(SamplerConfig)}
    names = [option.name for option in options.SAMPLING_OPTIONS]
    assert list(config) == [*names, "logit_bias"]
    for option in options.SAMPLING_OPTIONS:
        assert config[option.name] == generate[option.name].default == option.default


@pytest.mark.parametrize("option", options.SAMPLING_OPTIONS, ids=name_of)
def test_sampling_refuses_what_is_out_of_range(option):
    for value in bad(option):
        expected = re.escape(f"{option.name} is {value!r}, expected {option.expected}")
        with pytest.raises(ConfigError, match=f"^{expected}$"):
            SamplerConfig(**{option.name: value})


# Messages between nodes.


def as_json(config: RunConfig) -> dict[str, object]:
    return {field.name: getattr(config, field.name) for field in fields(config)}


def test_a_configuration_comes_back_as_it_was():
    assert RunConfig.from_json(as_json(CONFIG), "peer") == CONFIG


@pytest.mark.parametrize("option", FIELDS, ids=name_of)
def test_a_message_is_refused_that_is_out_of_range(option):
    content = as_json(CONFIG)
    for value in [*bad(option), None, {}]:
        with pytest.raises(ProtocolError) as error:
            RunConfig.from_json({**content, option.name: value}, "worker 1")
        assert str(error.value).startswith(f"worker 1: config: {option.name}: found")
    del content[option.name]
    with pytest.raises(ProtocolError, match=f"{option.name}: found None"):
        RunConfig.from_json(content, "worker 1")


def test_ranges_of_messages_are_those_of_the_options():
    given = {option.name: option for option in FIELDS}
    for name, option in (("batch", options.BATCH_SIZE), ("timeout", options.TIMEOUT),
                         ("shares", options.SHARES), ("contexts", options.CONTEXTS)):  # fmt: skip
        assert (given[name].least, given[name].most) == (option.least, option.most)
    for content in (None, [], "x"):
        with pytest.raises(ProtocolError, match="peer: config is"):
            RunConfig.from_json(content, "peer")


def test_choices_are_those_of_the_kernels():
    assert set(options.ALL_REDUCE.choices) == set(ALGORITHMS)
    assert set(options.BUFFER.choices) == set(WIRES)
    assert set(options.KV_CACHE.choices) == {"auto", *NUMBERS}
