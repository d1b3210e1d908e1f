"""What the options of a command say: from its command line, a YAML file and the model's folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dllama
from dllama.cli.parser import tested
from dllama.model_path import DEMO, model_folder
from dllama.options import (
    CLUSTER_OPTIONS,
    CONTEXTS,
    DRAFT_OPTIONS,
    FILE_OPTIONS,
    GRAMMAR_OPTIONS,
    LOGIT_BIAS,
    MODEL_OPTIONS,
    PARALLEL,
    SAMPLING_OPTIONS,
)
from dllama.options.biases import parse_bias
from dllama.options.files import generation_defaults, read_config
from dllama.progress import Progress, Report, nobody
from dllama.text.template import PLAIN
from dllama.text.template_variables import parse_variables

# Options that exclude each other: if the command line gives one, the file's are ignored.
OneOf = Sequence[Sequence[str]]
ONE_OF: OneOf = (
    ("prompt", "prompt_file"),
    ("nodes", "workers"),
    ("workers", "discover"),
    tuple(option.name for option in GRAMMAR_OPTIONS),
)
LLM_ARGUMENTS = tuple(
    option.name for option in (*MODEL_OPTIONS, *CLUSTER_OPTIONS, *DRAFT_OPTIONS, PARALLEL, CONTEXTS)
)


def settings(args: argparse.Namespace, one_of: OneOf = ONE_OF) -> dict[str, Any]:
    """The values of options that are given, by the command line or else by the --config file.

    Args:
        args: of the command line.
        one_of: groups of options that exclude each other. If the command line gives one, the
            file's are ignored.
    """
    names = [option.name for option in args.known]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if not getattr(args, "config", None):
        return given
    values = read_config(Path(args.config), [tested(option) for option in FILE_OPTIONS])
    for group in one_of:
        if any(name in given for name in group):
            values = {name: value for name, value in values.items() if name not in group}
            if "workers" in group:
                values = _without_ranks(values)
    return {name: value for name, value in values.items() if name in names} | given


def _without_ranks(values: dict[str, Any]) -> dict[str, Any]:
    """The values without those for single nodes, which are not the file's nodes any more."""
    return {
        name: value
        for name, value in values.items()
        if name not in ("threads", "shares") or not isinstance(value, list)
    }


def sampling(llm: dllama.LLM, values: dict[str, Any]) -> dict[str, Any]:
    """How to sample: the options that are given, else the defaults of the model's folder."""
    folder = model_folder(llm.model_path)
    defaults = {} if folder is None else generation_defaults(folder, SAMPLING_OPTIONS)
    given = {option.name: values[option.name] for option in SAMPLING_OPTIONS
             if option.name in values}  # fmt: skip
    if biases := values.get(LOGIT_BIAS.name):
        given[LOGIT_BIAS.name] = dict(map(parse_bias, biases))
    return defaults | given


def template_name(llm: dllama.LLM, values: dict[str, Any]) -> str | None:
    """The template for ChatTemplate.of: the one that is given; else plain for the demo model."""
    default = PLAIN if llm.model_path.parent == DEMO else None
    return values.get("template", default)


def template_variables(values: dict[str, Any]) -> dict[str, Any]:
    """The variables for ChatTemplate.of."""
    return parse_variables(values.get("template_kwargs", "{}"))


def open_model(values: dict[str, Any], report: Report = nobody) -> dllama.LLM:
    """Open the model that the options ask for; report: as in Progress."""
    arguments = {name: values[name] for name in LLM_ARGUMENTS if name in values}
    progress = Progress(not values.get("quiet", False), report)
    return dllama.LLM(**arguments, trace="trace" in values, progress=progress)
