"""What a worker tells a root about itself, over a connection of its own, also while it works."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dllama._kernels import cpu
from dllama._kernels.comm.link import Link
from dllama.checks import shown
from dllama.cluster import names, protocol
from dllama.cluster.protocol import Kind
from dllama.errors import ProtocolError
from dllama.options import MAX_THREADS
from dllama.options.option import Option, checked
from dllama.runtime.kept_speed import kept_speed
from dllama.version import __version__

MEMINFO = Path("/proc/meminfo")
MAX_FILL = 1 << 18  # bytes


@dataclass(frozen=True)
class About:
    """A worker about itself.

    Args:
        name: of the worker, "" for none.
        version: of dllama.
        cores: that it may use.
        threads: that compute, unless a root asks for another number.
        memory: bytes of the machine.
        available: bytes of it that programs can still have.
        kernels: the instruction set that they use.
        bandwidth: bytes of weights per second that they read for a token, of the weight type that
            they read fastest; 0 if that was not measured yet.
        busy: whether it serves a root.
        root: name of that root, "" for none.
    """

    name: str
    version: str
    cores: int
    threads: int
    memory: int
    available: int
    kernels: str
    bandwidth: float
    busy: bool
    root: str

    @classmethod
    def here(cls, name: str, threads: int, root: str | None) -> About:
        """Return what is true of this process; root: that it serves, None for none."""
        found = memory()
        kept = kept_speed(threads)
        bandwidths = [one.bandwidth for one in kept.kernels.values()] if kept else []
        return cls(
            name=name,
            version=__version__,
            cores=len(cpu.cores()),
            threads=threads,
            memory=found.get("MemTotal", 0),
            available=found.get("MemAvailable", 0),
            kernels=cpu.isa(),
            bandwidth=max(bandwidths, default=0.0),
            busy=root is not None,
            root=root or "",
        )

    @classmethod
    def from_json(cls, content: dict[str, Any], peer: str) -> About:
        """Check the content of a reply; ProtocolError names the peer and the wrong field."""
        try:
            values = checked(FIELDS, content)
        except ValueError as error:
            raise ProtocolError(f"{peer}: {error}") from None
        shown = {
            field: names.clean(values[field], names.OTHERS + ".")
            for field in ("name", "version", "kernels", "root")
        }
        return cls(**values | shown)

    def as_json(self) -> dict[str, Any]:
        """Return the content of a reply."""
        return asdict(self)


FIELDS = (
    Option("name", str, "of the worker"),
    Option("version", str, "of dllama"),
    Option("cores", int, "that it may use", least=1, most=1 << 20),
    Option("threads", int, "that compute", least=1, most=MAX_THREADS),
    Option("memory", int, "bytes of the machine", least=0, most=1 << 60),
    Option("available", int, "bytes that programs can still have", least=0, most=1 << 60),
    Option("kernels", str, "their instruction set"),
    Option("bandwidth", float, "bytes per second", least=0, most=1e18),
    Option("busy", bool, "whether it serves a root"),
    Option("root", str, "the name of that root"),
)


def ask(link: Link, fill: int = 0) -> About:
    """Ask a worker about itself.

    Args:
        link: a new connection that was greeted.
        fill: bytes that the reply is to have besides, to measure how fast they come.

    Raises:
        ProtocolError, TransportError: the worker does not reply as it should.
    """
    protocol.send_json(link, Kind.ABOUT, {"fill": fill})
    return About.from_json(protocol.receive_json(link, Kind.REPLY), link.peer)


def tell(link: Link, content: dict[str, Any], about: About) -> None:
    """Reply to ABOUT; ProtocolError if the content is wrong."""
    fill = content.get("fill")
    if type(fill) is not int or not 0 <= fill <= MAX_FILL:
        raise ProtocolError(f"{link.peer}: fill is {shown(fill)}, expected 0 to {MAX_FILL}")
    protocol.send_json(link, Kind.REPLY, {**about.as_json(), "fill": "x" * fill})


def memory() -> dict[str, int]:
    """Return bytes of this machine by name, as Linux tells them; {} on other systems."""
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return {}
    words = [line.split() for line in lines]
    return {one[0].rstrip(":"): 1024 * int(one[1]) for one in words if one[2:] == ["kB"]}
