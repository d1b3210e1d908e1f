"""No value of a field of config.json is an error without a name, in any family."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest

from dllama.converter import families
from dllama.converter.convert import read_spec
from dllama.errors import DllamaError, FormatError
from dllama.json_file import parse_json
from dllama.model.weight_types import WeightType

VALUES = [
    *(2**70, -(2**70), 10**400, 2**31, 2**31 - 1, -1, 0, 1, 1.5, 1e308, 1e-320, -0.0),
    *(float("nan"), float("inf"), None, True, "", "1", "\ud800", "\x00", "a" * 5000),
    *([], [[]], [None], [2**70], {}, {"a": {"b": []}}, {"rope_type": 2**70, "factor": 1e308}),
]
EACH = 1  # value of a field; all of them take a minute


def changed(config: dict, rng: random.Random) -> Iterator[dict]:
    """The config, with a field at a time changed; in objects and lists too."""
    for name, value in config.items():
        for other in rng.sample(VALUES, EACH):
            yield {**config, name: other}
        if isinstance(value, dict):
            for inner in changed(value, rng):
                yield {**config, name: inner}
        if isinstance(value, list) and value:
            for other in rng.sample(VALUES, EACH):
                yield {**config, name: [other, *value[1:]]}


def test_fields_of_all_families(fixtures):
    count, rng = 0, random.Random(1)
    for path in sorted(fixtures.glob("*/config.json")):
        for config in changed(json.loads(path.read_text()), rng):
            count += 1
            try:
                read = parse_json(json.dumps(config).encode(), path)
                family, spec = read_spec(read, WeightType.F32, path)
                families.sources_of(family, spec, read, path)
            except DllamaError:
                pass
            except Exception as error:
                pytest.fail(f"{path}: {error!r} of {str(config)[:2000]}")
    assert count > 1000


@pytest.mark.parametrize("value", [2**70, 2**31 - 1, 4097, 10**400])
def test_sizes_are_those_of_model_files(fixtures, value):
    path = fixtures / "llama-gqa" / "config.json"
    config = {**json.loads(path.read_text()), "num_hidden_layers": value}
    with pytest.raises(FormatError, match=r"num_hidden_layers is .*, expected an integer from"):
        read_spec(config, WeightType.F32, path)


def test_halves_of_surrogate_pairs_are_refused(tmp_path):
    path = tmp_path / "config.json"
    for text in ('{"a": "\\ud800"}', '{"\\uDFFF": 1}', '{"a": ["\\ude00\\ud83d"]}'):
        with pytest.raises(FormatError, match="half a surrogate pair"):
            parse_json(text.encode(), path)
    assert parse_json(b'{"a": "\\ud83d\\ude00"}', path) == {"a": "\U0001f600"}
