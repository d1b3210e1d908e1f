"""Asking all nodes about many rows of a pass at once.

Sampling a row takes a few questions about its logits, one after another. It is written as a
generator, an `Asking`, which yields questions and is sent their replies. `together` makes one of
several, so a pass takes as many round trips as the row with the most questions.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

from dllama.sampling.questions import Question
from dllama.sampling.shard import Shard, Top

T = TypeVar("T")


class Row:
    """A wanted row of a pass, with its logits in the vocabulary shards of all nodes.

    Args:
        *own: the shards in this process, in the order of the ids.
        number: of the row among the wanted ones, by which other nodes know it.
        tops: the tops of the other nodes' shards; empty if there are no other nodes.
    """

    def __init__(self, *own: Shard, number: int = 0, tops: Sequence[Top] = ()) -> None:
        self.number = number
        self._own = own
        self._tops = tops

    def tops(self) -> list[Top]:
        """Return the top of every shard, before any penalty; ValueError if one is not usable."""
        return [*(shard.top() for shard in self._own), *self._tops]

    def ask(self, question: Question[T]) -> Asking[list[T]]:
        """Return the reply of every shard. It yields nothing if all are here."""
        if not self._tops:
            return self.reply(question)
        (replies,) = yield [(self, question)]
        return replies

    def reply(self, question: Question[T]) -> list[T]:
        """Return the replies of the shards in this process."""
        return [question.answer(shard) for shard in self._own]


# Questions about different rows, and for each the replies of all shards.
Questions = list[tuple[Row, Question[Any]]]
Replies = list[list[Any]]
Asking = Generator[Questions, Replies, T]


def drive(asking: Asking[T], ask: Callable[[Questions], Replies]) -> T:
    """Run an asking to its end and return its result.

    Args:
        asking: not begun.
        ask: sends questions to all nodes and returns the replies.
    """
    try:
        questions = next(asking)
        while True:
            questions = asking.send(ask(questions))
    except StopIteration as stop:
        result: T = stop.value
        return result


def together(
    askings: Sequence[Asking[T]], last: Callable[[int, T], bool] = lambda number, result: False
) -> Asking[list[T]]:
    """Run askings in lockstep: what it yields are the next questions of all.

    Args:
        askings: not begun.
        last: last(number, result) says that the askings after this one do not count. They do not
            go on once that is known, or do not even begin.

    Returns:
        Their results, up to the first one that is the last.
    """
    running = [_Running(asking) for asking in askings]
    replies: Iterator[list[Any]] = iter(())
    while True:
        for number, one in enumerate(running):
            one.go_on(replies)
            if one.done and last(number, one.result):
                del running[number + 1 :]
        questions = [question for one in running for question in one.questions]
        if not questions:
            return [one.result for one in running]
        replies = iter((yield questions))


class _Running(Generic[T]):
    """An asking among several.

    Attributes:
        questions: that it waits for.
        done: whether it has ended.
        result: then.
    """

    result: T

    def __init__(self, asking: Asking[T]) -> None:
        self.questions: Questions = []
        self.done = False
        self._asking = asking

    def go_on(self, replies: Iterator[list[Any]]) -> None:
        """Take the replies to its questions, and go on to the next ones."""
        if self.done:
            return
        own = list(islice(replies, len(self.questions)))
        try:
            self.questions = self._asking.send(own) if own else next(self._asking)
        except StopIteration as stop:
            self.questions, self.done, self.result = [], True, stop.value
