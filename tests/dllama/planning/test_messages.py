"""The bytes of transfers, against those that a cluster counts."""

from __future__ import annotations

import pytest

import dllama
from dllama.planning.messages import all_reduce, broadcast, control, rounds_of
from dllama.planning.work import Shape, transfers
from dllama.run_config import RunConfig
from dllama.runtime.node import graph_of

PROMPT, TOKENS = 40, 3


def predicted(spec, config, shape, embedded):
    """Bytes that the root sends and receives in a pass."""
    graph = graph_of(spec, config, 0)
    rounds = [*control(spec, config, shape)]
    for task in transfers(graph):
        rounds += rounds_of(task, graph, config, shape.rows, embedded)
    return sum(one.sent[0] for one in rounds), sum(one.received[0] for one in rounds)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (None, {"nodes": 2}),
        (None, {"nodes": 4, "buffer": "f16"}),
        (None, {"nodes": 3, "buffer": "q60"}),
        (None, {"nodes": 4, "all_reduce": "two-step"}),
        (None, {"nodes": 3, "buffer": "f32", "shares": [2, 1, 1]}),
        ("mixtral", {"nodes": 3, "all_reduce": "exchange"}),
        ("olmo2", {"nodes": 3}),
    ],
)
def test_equal_those_that_the_root_counts(converted, standing, name, options):
    model = name and converted(name, "q80")
    others = {key: value for key, value in options.items() if key != "nodes"}
    workers = standing(options["nodes"] - 1)
    with dllama.LLM(model, threads=1, workers=workers, transport="unix", **others) as llm:
        list(llm.generate(range(1, PROMPT + 1), TOKENS, temperature=0.0, ignore_eos=True))
        steps, spec = llm.stats.steps, llm.spec
        config = RunConfig.of(spec, **options)
    shapes = [Shape(PROMPT, PROMPT)] + [Shape(1, PROMPT + n) for n in range(1, TOKENS)]
    found = [(step.sent_bytes, step.received_bytes) for step in steps]
    assert found == [predicted(spec, config, shape, 2) for shape in shapes]


@pytest.mark.parametrize("nodes", [2, 3, 5, 8])
@pytest.mark.parametrize("algorithm", ["exchange", "two-step", "auto"])
def test_what_is_sent_is_received(nodes, algorithm):
    sums = [1 + rank % 2 for rank in range(nodes)]
    rounds = all_reduce(sums, 288, "q80", 7, algorithm) + broadcast(1001, nodes)
    assert all(sum(one.sent) == sum(one.received) for one in rounds)
    assert sum(sum(one.sent) for one in broadcast(1001, nodes)) == 1001 * (nodes - 1)
