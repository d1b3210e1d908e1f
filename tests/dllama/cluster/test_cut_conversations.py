"""Conversations of a root and a worker that break off, or in which a byte is wrong.

DLLAMA_SEED: where the random changes begin.
"""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from hostile import SOON, TIMEOUT, Between, Cut, frame, instead, talk

import dllama
from dllama.cluster.protocol import HEADER, Kind

pytestmark = pytest.mark.slow


def moments(conversation) -> list[tuple[str, object, int, int]]:
    """Return (sender, kind, number, size) of the messages of a conversation to cut."""
    count: dict = {}
    found = []
    for sender, kind, content in conversation:
        number = count.setdefault((sender, kind), 0)
        count[sender, kind] += 1
        many = kind in (Kind.TENSOR, "data", Kind.ASK, Kind.REPLY, Kind.RUN, Kind.TOP)
        if kind != Kind.BYE and (not many or number in (0, 1, 2, 30)):
            found.append((sender, kind, number, len(content)))
    return found


def test_conversations_that_end_early(served, expected, conversation):
    """Cut the first message of every kind at the start, in the header and in the content, and later
    ones in the content.
    """
    for sender, kind, number, size in moments(conversation):
        middle = HEADER.size + size // 2
        for at in sorted({0, 4, middle}) if number == 0 else [middle]:
            before = len(served.complaints(0))
            with Between(served.address, instead(sender, kind, Cut(at), number)) as between:
                case = f"{sender}'s {kind!r} number {number}, cut at {at}"
                begin, said = time.monotonic(), "worker 1"
                try:
                    talk(between.address)
                except dllama.DllamaError as error:
                    said = str(error)
                else:
                    # How much is one piece of "data" depends on timing.
                    assert kind == "data", case
                assert "worker 1" in said, case
                assert time.monotonic() - begin < 2 * TIMEOUT + SOON, case
            # From the session and its data link; one of the previous case may come late.
            served.is_free()
            told = served.complaints(0)[before:]
            lines = [line for line in told if "another root" not in line]
            assert len(lines) <= 4, (case, lines)
    served.check(expected)


def test_random_changes_of_a_conversation(served, expected, conversation):
    """Changing a byte of any message but weights and data gives an error or a text."""
    seed = int(os.environ.get("DLLAMA_SEED", "1"))
    rng = np.random.default_rng(seed)
    begin = time.monotonic()
    cases = [moment for moment in moments(conversation) if moment[1] not in (Kind.TENSOR, "data")]
    while time.monotonic() - begin < 4.0:
        sender, kind, number, size = cases[rng.integers(len(cases))]
        at, flip = rng.integers(size + HEADER.size), 1 << rng.integers(8)
        content = next(c for s, k, c in conversation if s == sender and k == kind)
        true = bytearray(content if kind == "hello" else frame(kind, content))
        true[at % len(true)] ^= flip
        with Between(served.address, instead(sender, kind, bytes(true), number)) as between:
            try:
                talk(between.address, timeout=0.3)
            except dllama.DllamaError:
                pass
            except Exception as error:
                pytest.fail(f"seed {seed}: {sender}'s {kind!r}, byte {at} ^ {flip}: {error!r}")
    served.check(expected)
    served.complaints(0)
