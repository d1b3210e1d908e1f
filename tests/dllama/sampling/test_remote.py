"""Questions and replies in messages: the tokens of one node, short messages, and wrong ones."""

from __future__ import annotations

import base64
import json
import math
import zlib

import numpy as np
import pytest
from rows import Nodes, here, row_of, sampled

from dllama._kernels.ops.sampling import OCTAVES
from dllama.cluster.protocol import MAX_JSON
from dllama.errors import ProtocolError
from dllama.options import MAX_SEED
from dllama.sampling.changes import MOST_IDS, MOST_MASK, Allow, Penalise, Shift
from dllama.sampling.lockstep import Row, together
from dllama.sampling.log_probabilities import log_probabilities
from dllama.sampling.questions import (
    MAX_NUMBER,
    MOST_BEST,
    Best,
    Race,
    Score,
    Weigh,
    WeighBefore,
)
from dllama.sampling.remote import KINDS, ask, check_tops, reply
from dllama.sampling.sampler import Sampler, SamplerConfig
from dllama.sampling.shard import Cut, Draw, Likelihood, Masses, Shard, Winners

CONFIGS = [
    SamplerConfig(temperature=0.0, seed=1),
    SamplerConfig(temperature=1.0, top_p=1.0, seed=1),
    SamplerConfig(temperature=0.7, top_p=0.9, seed=1),
    SamplerConfig(temperature=1.3, top_p=0.95, min_p=0.01, seed=1),
    SamplerConfig(temperature=1.0, top_k=20, seed=1),
]
PENALTIES = {"repetition_penalty": 1.3, "frequency_penalty": 0.4, "logit_bias": {7: 1.5}}
PENALISED = [SamplerConfig(**{**vars(config), **PENALTIES}) for config in CONFIGS]


@pytest.mark.parametrize("config", [*CONFIGS, *PENALISED], ids=str)
@pytest.mark.parametrize("cuts", [(1,), (100, 150), (5, 6, 7, 8, 9, 10, 11)], ids=str)
def test_rows_together_have_the_tokens_that_they_have_alone(config, cuts, rng):
    logits = np.round(rng.standard_normal((20, 200)) * 2, 1).astype(np.float32)
    sampler, histories = Sampler(config), [range(at, 200, 3) for at in range(20)]
    nodes = Nodes(logits, cuts)
    together_ = [
        sampler.sample([row], history, at)
        for at, (row, history) in enumerate(zip(nodes.rows, histories, strict=True))
    ]
    found = nodes.drive(together(together_))
    assert found == [
        [sampled(sampler, row, history, at)]
        for at, (row, history) in enumerate(zip(logits, histories, strict=True))
    ]


@pytest.mark.parametrize("config", CONFIGS[:2] + CONFIGS[4:], ids=str)
@pytest.mark.parametrize("penalised", [False, True])
def test_messages_do_not_grow_in_number_with_rows(config, penalised, rng):
    logits = rng.standard_normal((32, 200)).astype(np.float32)
    sampler = Sampler(PENALISED[CONFIGS.index(config)] if penalised else config)
    counts = []
    for rows in (1, 8, 32):
        nodes = Nodes(logits[:rows], (100, 150))
        nodes.drive(together([sampler.sample([row], [3, 9], 0) for row in nodes.rows]))
        counts.append(len(nodes.messages))
    assert counts == [2 * penalised + (config.temperature > 0)] * 3


def test_the_best_may_be_the_whole_vocabulary(rng):
    """Too many for a message."""
    logits = rng.standard_normal((2, 90_000)).astype(np.float32)
    for top_k in (MOST_BEST, MOST_BEST + 1, 80_000, 1 << 31):
        sampler = Sampler(SamplerConfig(temperature=1.0, top_k=top_k, seed=1))
        nodes = Nodes(logits, (60_000,))
        found = nodes.drive(together([sampler.sample([row], [], 0) for row in nodes.rows]))
        assert found == [[sampled(sampler, row)] for row in logits]
        assert max(reply for _, reply in nodes.messages) > MAX_JSON / 3


def test_the_history_may_be_the_whole_vocabulary(rng):
    """Too long for a message, and so are the histories of several rows."""
    size = 3 * MOST_IDS - 5
    logits = rng.standard_normal((4, size)).astype(np.float32)
    sampler = Sampler(SamplerConfig(temperature=1.0, repetition_penalty=2.0, seed=1))
    history = rng.permutation(size).tolist()
    nodes = Nodes(logits, (60_000, 100_000))
    found = nodes.drive(together([sampler.sample([row], history, 0) for row in nodes.rows]))
    assert found == [[sampled(sampler, row, history)] for row in logits]
    assert len(nodes.messages) > 6


def test_long_replies_go_into_several_messages(rng):
    logits = rng.standard_normal((64, 3000)).astype(np.float32)
    nodes = Nodes(logits, (1500,))
    found = nodes.drive(together([log_probabilities(row, 7, 1000) for row in nodes.rows]))
    for row, one in zip(logits, found, strict=True):
        expected = here(log_probabilities(row_of(row), 7, 1000))
        assert [token for token, _ in one.best] == [token for token, _ in expected.best]
        assert one.token == pytest.approx(expected.token, abs=1e-12)
    assert 1 < len(nodes.messages) < 10


TINY, LONG = -2.2250738585072014e-308, -1.1754943508222875e-38
DRAW = Draw(1.2345678901234567e-06, MAX_SEED, MAX_NUMBER - 1)
CUT = Cut(-(1 << 22), TINY, MAX_NUMBER - 1, TINY)
IDS = np.full(1000, MAX_NUMBER - 1)
LONGEST = [
    (Penalise(np.arange(MOST_IDS), TINY), (TINY, MAX_NUMBER)),
    (Penalise(np.arange(2), TINY), (TINY, MAX_NUMBER)),
    (Shift(np.arange(MOST_IDS), np.full(MOST_IDS, LONG, np.float32)), (TINY, MAX_NUMBER)),
    (Allow(np.frombuffer(np.random.default_rng(1).bytes(MOST_MASK), np.uint8)), (TINY, MAX_NUMBER)),
    (Best(MAX_NUMBER - 1, 1000), (IDS, np.full(1000, LONG, np.float32))),
    (Weigh(DRAW), Masses(-(1 << 22), [1 << 64] * OCTAVES)),
    (Race(DRAW, CUT), Winners((TINY, MAX_NUMBER), (TINY, MAX_NUMBER, TINY))),
    (WeighBefore(DRAW, CUT), 1 << 64),
    (Score(MAX_NUMBER - 1, 1000), Likelihood(TINY, TINY, TINY, [(MAX_NUMBER, TINY)] * 1000)),
]


@pytest.mark.parametrize(("question", "answer"), LONGEST, ids=lambda one: type(one).__name__)
def test_no_question_and_reply_are_longer_than_they_say(question, answer):
    row = {"row": MAX_NUMBER, "ask": question.name, **question.as_json()}
    length = len(json.dumps(row)) + len(json.dumps(question.reply_as_json(answer)))
    assert length + 4 <= question.size() <= MAX_JSON
    assert {type(one) for one, _ in LONGEST} == set(KINDS.values())


RIGHT = {
    "penalise": (Penalise(np.arange(2), 1.5), {"logit": 0.5, "token": 3}),
    "shift": (Shift(np.arange(2), np.ones(2, np.float32)), {"logit": 0.5, "token": 3}),
    "allow": (Allow(np.array([7], np.uint8)), {"logit": 0.5, "token": 3}),
    "best": (Best(0, 2), {"ids": [4, 3], "logits": [1.0, 0.5]}),
    "weigh": (Weigh(Draw(1.0, 1, 0)), {"octave": 3, "sums": [7] * OCTAVES}),
    "race": (Race(Draw(1.0, 1, 0), Cut()), {"inside": [0.5, 4], "edge": [0.2, 3, 0.5]}),
    "weigh_before": (WeighBefore(Draw(1.0, 1, 0), Cut()), {"mass": 7}),
    "score": (Score(3, 2), {"largest": 1.0, "total": 1.5, "logit": 0.5,
                            "best": [[4, 1.0], [3, 0.5]]}),
}  # fmt: skip
NODES = [("worker 1", range(3, 6))]
WRONG_REPLIES = [
    ("penalise", {"logit": None}),
    ("penalise", {"logit": "x"}),
    ("penalise", {"token": 2}),
    ("penalise", {"token": 6}),
    ("penalise", {"token": 3.0}),
    ("shift", {"logit": None}),
    ("shift", {"token": 6}),
    ("allow", {"logit": None}),
    ("allow", {"token": 6}),
    ("best", {"ids": [4]}),
    ("best", {"ids": [4, 2]}),
    ("best", {"ids": [4, True]}),
    ("best", {"ids": [4, 3, 5], "logits": [1.0, 0.5, 0.2]}),
    ("best", {"ids": 4}),
    ("best", {"logits": [1.0]}),
    ("best", {"logits": [1.0, [2.0]]}),
    ("best", {"logits": [1.0, "x"]}),
    ("weigh", {"octave": 1 << 30}),
    ("weigh", {"octave": None}),
    ("weigh", {"sums": [7]}),
    ("weigh", {"sums": ["x"] * OCTAVES}),
    ("weigh", {"sums": None}),
    ("race", {"inside": [0.5, 2]}),
    ("race", {"inside": [0.5]}),
    ("race", {"inside": [math.nan, 7]}),
    ("race", {"edge": [0.5, 2, 0.5]}),
    ("race", {"edge": [0.5, 3, "x"]}),
    ("race", {"edge": None}),
    ("weigh_before", {"mass": None}),
    ("weigh_before", {"mass": math.inf}),
    ("score", {"largest": math.nan}),
    ("score", {"largest": None}),
    ("score", {"total": -1.0}),
    ("score", {"total": math.inf}),
    ("score", {"logit": None}),
    ("score", {"best": [[4, 1.0]]}),
    ("score", {"best": [[4, 1.0], [2, 0.5]]}),
    ("score", {"best": [[4, 1.0], [3, math.nan]]}),
    ("score", {"best": [4, 3]}),
]


def asked(question, content):
    """What a question finds if worker 1 sends this."""
    row = Row(Shard(np.zeros(3, np.float32)), tops=[(0.0, 3)])
    return ask([(row, question)], NODES, lambda *_: [content], MAX_JSON)


def exchange(contents):
    def exchange(_, meanwhile):
        meanwhile()
        return contents

    return exchange


@pytest.mark.parametrize("name", RIGHT)
def test_right_replies_are_read(name):
    question, right = RIGHT[name]
    row = Row(Shard(np.zeros(3, np.float32)), tops=[(0.0, 3)])
    (found,) = ask([(row, question)], NODES, exchange([{"replies": [right]}]), MAX_JSON)
    assert len(found) == 2
    assert json.loads(json.dumps(question.reply_as_json(found[1]))) == right


@pytest.mark.parametrize(("name", "change"), WRONG_REPLIES, ids=str)
def test_wrong_replies_are_errors_that_name_the_node(name, change):
    question, right = RIGHT[name]
    with pytest.raises(ProtocolError, match=f"^worker 1: wrong reply to {name}: "):
        asked(question, {"replies": [right | change]})


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("reply", [None, 5, "x", [], {}, [1, 2], True], ids=str)
def test_replies_of_other_types_are_errors(name, reply):
    with pytest.raises(ProtocolError, match=f"^worker 1: wrong reply to {name}: "):
        asked(RIGHT[name][0], {"replies": [reply]})


@pytest.mark.parametrize("replies", [None, 5, "x", {}, [], [{}, {}]], ids=str)
def test_other_numbers_of_replies_are_errors(replies):
    with pytest.raises(ProtocolError, match=r"^worker 1: replies are .*, expected 1$"):
        asked(RIGHT["best"][0], {"replies": replies})
    with pytest.raises(ProtocolError, match=r"^worker 1: replies are None, expected 1$"):
        asked(RIGHT["best"][0], {})


def test_a_top_of_another_shard_is_an_error():
    check_tops([(1.0, 3)], NODES)
    with pytest.raises(ProtocolError, match=r"^worker 1: best token is 6"):
        check_tops([(1.0, 6)], NODES)


def ids_of(*ids: int) -> str:
    return base64.b64encode(np.array(ids, "<i4").tobytes()).decode()


def amounts_of(*amounts: float) -> str:
    return base64.b64encode(np.array(amounts, "<f4").tobytes()).decode()


def mask_of(*parts: bytes) -> str:
    return base64.b64encode(b"".join(parts)).decode()


GOOD = {
    "penalise": {"ids": ids_of(1, 2), "penalty": 1.5},
    "shift": {"ids": ids_of(1, 2), "amounts": amounts_of(0.5, -math.inf)},
    "allow": {"mask": mask_of(zlib.compress(b"\x06"))},
    "best": {"first": 0, "count": 2},
    "weigh": {"draw": [0.8, 3, 0]},
    "race": {"draw": [0.8, 3, 0], "cut": [-2000, -1e30, -1, -1e30]},
    "weigh_before": {"draw": [0.8, 3, 0], "cut": [-2000, -1e30, -1, -1e30]},
    "score": {"token": 1, "count": 1},
}
DRAWS = [[t, 3, 0] for t in (0, -1, 1e-300, math.nan, math.inf)]
DRAWS += [[1.0, -1, 0], [1.0, 1 << 64, 0], [1.0, 3, -1], [1.0, 3, 1 << 31], [1.0, 3], None]
CUTS = [[10**30, 0, 1, 0], [0, math.nan, 1, 0], [0, 0, -2, 0], [0, 0, 1 << 31, 0],
        [0, 0, 1, math.nan], [0, 0, 1], None]  # fmt: skip
WRONG_QUESTIONS = [
    *[("penalise", {"ids": ids}) for ids in
      (None, "x", "A", "AAA=", "\xff", [1], ids_of(-1), ids_of(2, 1), ids_of(1, 1))],
    *[("penalise", {"penalty": value}) for value in (None, "x", 0, -1, math.nan, math.inf)],
    *[("shift", {"ids": ids}) for ids in (None, "x", ids_of(2, 1), ids_of(1))],
    *[("shift", {"amounts": amounts}) for amounts in
      (None, "x", amounts_of(1), amounts_of(1, math.nan), amounts_of(math.inf, 1))],
    *[("allow", {"mask": mask}) for mask in
      (None, 5, "x", "", "AA==", mask_of(b"\x06"), mask_of(zlib.compress(b"\x06")[:-1]),
       mask_of(zlib.compress(b"\x06"), b"\x00"), mask_of(zlib.compress(bytes(MOST_MASK + 1))))],
    *[("best", {"first": first}) for first in (-1, 1 << 31, None, "x")],
    *[("best", {"count": count}) for count in (0, -1, MOST_BEST + 1, None, math.nan)],
    *[(name, {"draw": draw}) for name in ("weigh", "race", "weigh_before") for draw in DRAWS],
    *[(name, {"cut": cut}) for name in ("race", "weigh_before") for cut in CUTS],
    *[("score", {"token": token}) for token in (-1, 1 << 31, None, "x")],
    *[("score", {"count": count}) for count in (-1, MOST_BEST + 1, None, "x")],
]  # fmt: skip
ROWS = [Shard(np.zeros(3, np.float32)) for _ in range(2)]


@pytest.mark.parametrize("name", GOOD)
def test_right_questions_are_replied_to(name):
    questions = [{"row": row, "ask": name, **GOOD[name]} for row in (1, 0)]
    content = reply(ROWS, {"questions": questions}, MAX_JSON)
    assert len(json.loads(json.dumps(content))["replies"]) == 2


@pytest.mark.parametrize(("name", "change"), WRONG_QUESTIONS, ids=str)
def test_wrong_questions_are_errors(name, change):
    question = {"row": 0, "ask": name, **GOOD[name], **change}
    with pytest.raises(ProtocolError, match=r"^wrong questions "):
        reply(ROWS, {"questions": [question]}, MAX_JSON)


@pytest.mark.parametrize(
    "questions",
    [
        None, 5, "x", [5], [None], ["weigh"], [[]],
        [{}], [{"row": 0}], [{"ask": "best"}],
        *[[{"row": row, "ask": "best", "first": 0, "count": 1}]
          for row in (-1, 2, None, "0", 10**30, True)],
        *[[{"row": 0, "ask": name}] for name in ("best", "nothing", "__class__", None, ["best"])],
        [{"row": 0, "ask": "best", "first": 0, "count": 1}] * 2,
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_list_of_questions_is_an_error(questions):
    with pytest.raises(ProtocolError, match=r"^wrong questions "):
        reply(ROWS, {"questions": questions}, MAX_JSON)
    with pytest.raises(ProtocolError, match=r"^wrong questions "):
        reply(ROWS, {}, MAX_JSON)


def test_questions_whose_replies_are_too_long_for_a_message_are_an_error():
    questions = [{"row": row, "ask": "best", "first": 0, "count": MOST_BEST} for row in (0, 1)]
    reply(ROWS, {"questions": questions[:1]}, MAX_JSON)
    with pytest.raises(ProtocolError, match=r"2 questions about 2 rows, [0-9]+ bytes"):
        reply(ROWS, {"questions": questions}, MAX_JSON)
