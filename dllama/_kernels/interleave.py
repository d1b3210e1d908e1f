"""The order of stages in which the halves of a batch take turns: one computes, the other is sent.

A half goes through the tasks of a graph as any batch does. It is cut into pieces, three for each
all-reduce: the work before it, in two parts, and the sums in its middle. The first half is always
two pieces ahead. So each exchange of a half has the time of a piece of work of the other half:

    first half   w0 w1 >    sum >    < w0 .    w1 >    ...
    second half         w0      w1 >      sum >    < w0 ...

w0 and w1 are the parts of the work, > begins an exchange. An exchange ends before the next piece of
the same half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from dllama._kernels.tasks import Kind

# A stage: the index of its task, and which of the stages of the task.
Step = tuple[int, int]
LEAST_ROWS = 64  # of a batch that is cut: each half still has enough for the products of a matrix
LEAD = 2  # pieces
# Stages of an all-reduce before the end of its first exchange, and before that of its second one.
FIRST_BEGUN, SECOND_BEGUN = 2, 5


def interleaved(
    tasks: Sequence[Any], stages: Sequence[int], cost: Callable[[Any], float]
) -> Iterator[tuple[int, int, int]]:
    """Yield the half, 0 or 1, the index of the task and the stage of it that come next.

    Args:
        tasks: of a graph, but for those of the wanted rows alone.
        stages: how many each task has.
        cost: of a task, in any unit.
    """
    pieces = _pieces(tasks, stages, cost)
    for number in range(len(pieces) + LEAD):
        for half, index in ((1, number - LEAD), (0, number)):
            if 0 <= index < len(pieces):
                yield from ((half, *step) for step in pieces[index])


def _pieces(
    tasks: Sequence[Any], stages: Sequence[int], cost: Callable[[Any], float]
) -> list[list[Step]]:
    """The pieces of a half, in order."""

    def steps(some: Iterable[int]) -> list[Step]:
        return [(index, stage) for index in some for stage in range(stages[index])]

    pieces: list[list[Step]] = []
    rest: list[Step] = []  # of the all-reduce before
    block: list[int] = []
    for index, task in enumerate(tasks):
        if task.op != "all_reduce":
            block.append(index)
            continue
        cut = _middle([tasks[one] for one in block], cost)
        begin, middle = steps([index])[:FIRST_BEGUN], steps([index])[FIRST_BEGUN:SECOND_BEGUN]
        pieces += [rest + steps(block[:cut]), steps(block[cut:]) + begin, middle]
        rest, block = steps([index])[SECOND_BEGUN:], []
    return [*pieces, rest + steps(block)]


def _middle(tasks: Sequence[Any], cost: Callable[[Any], float]) -> int:
    """How many tasks of a block belong to the first part of its work.

    All nodes begin exchanges in the same order. So a block with other transfers is cut after the
    last of them; the costs of nodes differ.
    """
    transfers = [index for index, task in enumerate(tasks) if task.kind is Kind.TRANSFER]
    if transfers:
        return transfers[-1] + 1
    costs = [cost(task) for task in tasks]
    done = [sum(costs[: index + 1]) for index in range(len(tasks))]
    return next((index + 1 for index, so_far in enumerate(done) if 2 * so_far >= done[-1]), 0)
