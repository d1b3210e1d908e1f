"""Descriptions of clusters, and the units in them."""

from __future__ import annotations

import pytest

from dllama.errors import ConfigError, InputError
from dllama.model.weight_types import WeightType
from dllama.planning.description import read_cluster
from dllama.planning.timing import LinkSpeed
from dllama.planning.units import BANDWIDTH, COMPUTE, MEMORY, RATE, TIME

NODE = "{name: pi, memory: 8 GB, bandwidth: 9 GB/s, compute: 34 GMAC/s, threads: 4}"
LINK = "link: {rate: 1 Gbit/s, latency: 80 us}"


@pytest.mark.parametrize(
    ("quantity", "text", "value"),
    [
        (MEMORY, "8 GB", 8e9),
        (MEMORY, "1.5GiB", 1.5 * 2**30),
        (BANDWIDTH, "9 GB/s", 9e9),
        (COMPUTE, "34 GMAC/s", 34e9),
        (RATE, "2.5 Gbit/s", 2.5e9 / 8),
        (RATE, "1 GB/s", 1e9),
        (TIME, "80 us", 80e-6),
        (TIME, "1e2 ns", 1e-7),
    ],
)
def test_quantities(quantity, text, value):
    assert quantity.parse(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["8", "8 gb", "GB", "-1 GB", "0 GB", "1.2.3 GB", "1e999 GB", 8])
def test_wrong_quantities_name_the_units(text):
    with pytest.raises(ValueError, match=r"found .*, expected e.g. 8 GB \(units: kB, MB, GB"):
        MEMORY.parse(text)


def cluster(folder, text):
    path = folder / "cluster.yaml"
    path.write_text(text)
    return read_cluster(path)


def test_nodes_of_a_description(tmp_path):
    text = f"nodes:\n  - {NODE}\n  - {{bandwidth: 1 GB/s, compute: 2 GMAC/s, count: 2}}\n{LINK}\n"
    root, *others = cluster(tmp_path, text)
    assert (root.name, root.memory, root.threads, root.share) == ("pi", 8e9, 4, None)
    assert (root.link.rate, root.link.latency) == (125e6, pytest.approx(80e-6))
    assert root.speed.kernels[WeightType.Q40].bandwidth == 9e9
    assert [one.name for one in others] == ["node-2", "node-3"]


def test_a_node_may_have_a_link_and_a_share_of_its_own(tmp_path):
    own = NODE.replace("}", ", share: 2, link: {rate: 100 Mbit/s, latency: 1 ms}}")
    own = own.replace("pi", "pi-2")
    first, second = cluster(tmp_path, f"nodes: [{NODE}, {own}]\n{LINK}\n")
    assert (second.link, second.share) == (LinkSpeed(12.5e6, 1e-3), 2.0)
    assert first.link.rate == 125e6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "nodes: expected a list"),
        ("nodes: []", "nodes: expected a list"),
        ("nodes: [3]\n" + LINK, "line 1: expected a node with name, count, memory, bandwidth"),
        (f"nodes: [{NODE}]", "line 1: a node without a link"),
        (f"nodes: [{NODE}]\n{LINK}\nspeed: 3", "line 3: speed: expected nodes and link"),
        ("nodes:\n  - {bandwidth: 9 GB/s}\n" + LINK, "line 2: a node without compute"),
        (f"nodes: [{NODE}]\nlink: {{rate: 1 Gbit/s}}", "line 2: a link without latency"),
        (f"nodes: [{NODE}]\nlink: fast", "line 2: expected a link with rate, latency"),
        (f"nodes: [{NODE}]\n{LINK.replace('80 us', '80')}", "line 2: latency: found '?80"),
        (f"nodes: [{NODE.replace('9 GB/s', '9 GB')}]\n{LINK}", "bandwidth: found '9 GB'"),
        (f"nodes: [{NODE.replace('name', 'nome')}]\n{LINK}", "nome: expected each of name,"),
        (f"nodes: [{NODE.replace('}', ', count: 999}')}]\n{LINK}", "count: found 999, expected"),
        ("nodes:\n" + "- {bandwidth: 9 GB/s, compute: 9 GMAC/s, count: 200}\n" * 2 + LINK,
         "400 nodes, expected at most 256"),
        (f"nodes:\n- {NODE}\n- {NODE}\n{LINK}", "line 3: there is another node pi$"),
        ("nodes:\n" + f"- {NODE.replace('}', ', count: 2}')}\n" * 2 + LINK,
         "line 3: there is another node pi-1$"),
        ("nodes: [", "not YAML"),
    ],
)  # fmt: skip
def test_wrong_descriptions_name_file_line_and_key(tmp_path, text, words):
    with pytest.raises(ConfigError, match=rf"^cluster description .*cluster\.yaml.*{words}"):
        cluster(tmp_path, text)


def test_a_missing_description(tmp_path):
    with pytest.raises(InputError, match="nothing"):
        read_cluster(tmp_path / "nothing.yaml")
