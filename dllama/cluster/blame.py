"""Which worker is at fault when a pass fails.

One lost node breaks the exchanges of all others. The root itself only notices which link failed, so
it listens to what the workers report before it names one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from dllama.cluster import protocol
from dllama.cluster.member import Member
from dllama.errors import DllamaError, NodeError, TransportError, TransportTimeoutError

# How much of the timeout is for reports of workers. Waiting for data takes the rest.
LISTENING = 0.2


def blame(error: DllamaError, members: Sequence[Member], failed_rank: int | None) -> DllamaError:
    """Return the error that names the worker at fault, with its rank.

    That is the worker whose connection has ended; if there is none, the one that reports a failure
    of its own; else the one that the others wait for.

    Args:
        error: what the root noticed.
        members: all workers.
        failed_rank: the node that the root's own exchange waited for, if it timed out; 0 if it
            waited for all of them.
    """
    silent, reports = list(members), list[NodeError]()
    late = isinstance(error, TransportTimeoutError)
    suspects = {failed_rank} if late else set()
    end = time.monotonic() + LISTENING * members[0].control.timeout
    if isinstance(error, NodeError):
        reports.append(error)
    # Once every silent worker is a suspect, nobody is left to listen to.
    while {member.rank for member in silent} - suspects and time.monotonic() < end:
        for member in [m for m in silent if m.control.failed or m.control.wait(0.001)]:
            report = _last_words(member)
            if isinstance(report, TransportError):
                gone = TransportError(f"{member.name} has gone: the connection is closed")
                gone.rank = member.rank
                return gone
            silent.remove(member)
            if report:
                report.rank = member.rank if report.blames is None else report.blames
                reports.append(report)
        suspects |= {report.blames for report in reports if report.late}
        if any(report.blames is None for report in reports):
            break
    for report in reports:
        if report.blames is None:
            return report
    for member in silent:
        if failed_rank == 0 or member.rank in {report.blames for report in reports} | suspects:
            timeout = member.control.timeout
            hangs = TransportTimeoutError(f"{member.name} does not reply within {timeout:g} s")
            hangs.rank = member.rank
            return hangs
    return reports[0] if reports and not late else error


def _last_words(member: Member) -> NodeError | TransportError | None:
    """Return the report of a worker after a failure, or how its link ended; None if neither came.

    Messages that it sent before are skipped.
    """
    try:
        while member.control.failed or member.control.wait(0.0):
            _, length = protocol.receive_header(member.control)
            if length > protocol.MAX_JSON:
                return None
            member.control.recv_into(bytearray(length))
    except NodeError as report:
        return report
    except TransportTimeoutError:
        return None
    except TransportError as error:
        return error
    return None
