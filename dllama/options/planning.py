"""Options of `dllama plan`: what is described, measured or found, and what is generated."""

from __future__ import annotations

from dataclasses import replace

from dllama.options import (
    DISCOVER,
    GIVEN_NODES,
    INFO_OPTIONS,
    PARALLEL,
    PLAIN,
    PROMPT_TOKENS,
    SECRET_FILE,
    STEPS,
    TIMEOUT,
)
from dllama.options.option import Option

CLUSTER = Option(
    "cluster", str, "a YAML file that describes nodes and links", metavar="FILE",
)  # fmt: skip
PLAN_NODES = replace(
    GIVEN_NODES, default=None, help="measure this machine and predict so many nodes on it; with "
    "--discover, over this many machines",
)  # fmt: skip
PLAN_DISCOVER = replace(
    DISCOVER, help="measure this machine and the free workers of the local network that announce "
    "themselves and know the secret, and predict a run on them, in the order of their names",
)  # fmt: skip
LINK_RATE = Option(
    "rate", str, "with --discover: of each link in each direction, such as 100 Mbit/s",
    metavar="RATE", otherwise="1 Gbit/s",
)  # fmt: skip
LATENCY = Option(
    "latency", str, "with --discover: of a short message, one way, besides the processors' time "
    "for it, such as 80 us", metavar="TIME",
    otherwise="half of the round trips that TCP has measured, or 100 us",
)  # fmt: skip
# With PLAN_DISCOVER alone.
FINDING_OPTIONS = (LINK_RATE, LATENCY, TIMEOUT, SECRET_FILE, PLAIN)
PLANNED_OPTIONS = (
    replace(PROMPT_TOKENS, default=512, otherwise=""),
    replace(STEPS, least=1, default=128, otherwise=""),
    PARALLEL,
)
PLAN_OPTIONS = tuple(
    PLAN_NODES if option is GIVEN_NODES else option
    for option in INFO_OPTIONS
    if option is not PARALLEL
)
