"""Some trials of each kind, the same in every run; `make soak` does more (docs/reliability.md)."""

from __future__ import annotations

import json
import random

import pytest
import soak
from mutations import damaged, damaged_json, damaged_text
from trials import Fault, accepted, check_message

from dllama.errors import FormatError

TRIALS = {
    "models": 150, "tokenizers": 20, "gguf": 50, "checkpoints": 25, "configs": 80, "templates": 30,
    "strangers": 40, "http": 40,
}  # fmt: skip
SLOW = ("strangers", "http")  # they start processes
TIMED = {"sessions", "kills", "load"}  # what a busy machine may make too late


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.slow) if kind in SLOW else kind for kind in TRIALS],
)
def test_no_trial_fails(kind, tmp_path):
    counts = soak.run(kind, 1, TRIALS[kind], 120.0, tmp_path)
    assert counts.faults == []
    assert counts.trials == TRIALS[kind]


def test_every_kind_is_tried_here_but_those_that_measure_time():
    assert {*soak.KINDS} - {*TRIALS} == TIMED


def test_the_same_number_does_the_same_damage():
    value = {"a": [1, {"b": "c"}], "d": None}
    for number in range(50):
        for damage in (
            lambda rng: damaged(b"abcdefgh" * 20, rng),
            lambda rng: damaged_json(value, rng),
            lambda rng: damaged_text("a b: {c, 1}", rng, ("x",)),
        ):
            assert damage(random.Random(number)) == damage(random.Random(number))
    assert len({damaged(bytes(200), random.Random(number)) for number in range(50)}) > 40
    assert value == {"a": [1, {"b": "c"}], "d": None}


def test_a_refusal_names_the_file():
    def refuse():
        raise FormatError("a/model.m", "size", 1, 2)

    assert not accepted(refuse, "model.m")
    assert accepted(lambda: None, "model.m")
    with pytest.raises(Fault, match=r"none of other\.m is in: a/model\.m: size is 1, expected 2"):
        accepted(refuse, "other.m")
    with pytest.raises(ZeroDivisionError):
        accepted(lambda: 1 / 0)


@pytest.mark.parametrize("message", ["", "x" * 20000, "unexpected KeyError: 1", "x: Traceback"])
def test_messages_of_faults_are_found(message):
    with pytest.raises(Fault):
        check_message(message)


def test_what_a_failed_trial_read_is_kept(tmp_path):
    (tmp_path / "run" / "case").mkdir(parents=True)
    (tmp_path / "run" / "case" / "model.m").write_bytes(b"x")
    counts = soak.Counts()
    soak.count(counts, "models", {"number": 7, "fault": "bad"}, tmp_path / "run", tmp_path)
    soak.count(counts, "models", {"number": 8, "accepted": True}, tmp_path / "run", tmp_path)
    assert (counts.trials, counts.faults) == (2, ["models 7: bad"])
    assert (tmp_path / "models-7" / "model.m").read_bytes() == b"x"
    assert "| models | 2 | 1 | 0 | 1 |" in [*soak.table({"models": counts})][-1]


class Broken:
    """A kind whose trials end as nothing may."""

    def __init__(self, _):
        pass

    def trial(self, rng):
        raise KeyError("x")

    def close(self):
        pass


def test_other_errors_are_faults(tmp_path):
    said = soak.result(Broken(tmp_path), 3)
    assert "KeyError: 'x'" in said["fault"]
    assert json.dumps(said)
