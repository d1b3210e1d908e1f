"""The recipes in docs/deploy: their commands parse, and what checks their files accepts them."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dllama.cli import parser
from dllama.cli.parser import tested as with_test
from dllama.options import FILE_OPTIONS
from dllama.options.files import read_config

DEPLOY = Path(__file__).parents[1] / "docs" / "deploy"
SERVICES = sorted(DEPLOY.glob("*.service"))
SCRIPTS = sorted(DEPLOY.glob("*.sh"))
VALUES = {
    "${addresses[@]}": "a:1",
    "$SLURM_CPUS_PER_TASK": "4",
    "$SLURMD_NODENAME": "a",
    "$port": "9999",
    "${CREDENTIALS_DIRECTORY}": "/run/x",
    "${CACHE_DIRECTORY}": "/var/cache/x",
}


def documents(name):
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def containers():
    """Arguments of the image in Kubernetes, Compose and the Dockerfile."""
    for document in documents("kubernetes.yaml"):
        if "template" in document["spec"]:
            for container in document["spec"]["template"]["spec"]["containers"]:
                yield container["args"]
    for service in documents("compose.yaml")[0]["services"].values():
        yield service["command"]
    yield json.loads(re.search(r"^CMD (.*)$", (DEPLOY / "Dockerfile").read_text(), re.M)[1])


def written():
    """Commands in scripts, services and the text."""
    for path in [*SCRIPTS, *SERVICES, *DEPLOY.glob("*.yaml"), DEPLOY / "README.md"]:
        text = path.read_text().replace("\\\n", " ")
        for name, value in VALUES.items():
            text = text.replace(name, value)
        for found in re.findall(
            r"(?:/opt/dllama/bin/|\b)dllama ((?:run|worker|serve|secret)\b[^\n|'>`)]*)", text
        ):
            yield path.name, shlex.split(found.removesuffix("&").partition("&&")[0])


COMMANDS = [
    *((name, words) for name, words in written()),
    *(("image", words) for words in containers()),
]


@pytest.mark.parametrize(("place", "words"), COMMANDS, ids=lambda value: str(value)[:40])
def test_commands_parse(place, words):
    assert parser([words[0]]).parse_args(words).command == words[0]


def test_every_recipe_has_commands():
    places = {place for place, _ in COMMANDS}
    assert {path.name for path in [*SCRIPTS, *SERVICES]} <= places
    assert len(list(containers())) == 6


def test_the_file_of_the_server_is_valid():
    values = read_config(DEPLOY / "serve.yaml", [with_test(option) for option in FILE_OPTIONS])
    assert values["workers"] == ["10.0.0.2:9999", "10.0.0.3:9999"]


def test_the_server_of_kubernetes_names_all_workers():
    byname = {(d["kind"], d["metadata"]["name"]): d["spec"] for d in documents("kubernetes.yaml")}
    workers = byname["StatefulSet", "worker"]
    (server,) = byname["Deployment", "server"]["template"]["spec"]["containers"]
    args = parser(["serve"]).parse_args(server["args"])
    named = [f"worker-{i}.{workers['serviceName']}:9999" for i in range(workers["replicas"])]
    assert args.workers == named
    assert byname["Service", workers["serviceName"]]["clusterIP"] == "None"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash(path):
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_systemd_accepts_the_service_and_finds_it_safe(path, tmp_path):
    copy = tmp_path / path.name
    copy.write_text(path.read_text().replace("/opt/dllama/bin/dllama", sys.executable))
    found = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
    safety = ["systemd-analyze", "security", "--offline=true", "--threshold=15", str(copy)]
    if (
        "unrecognized option"
        not in (rated := subprocess.run(safety, capture_output=True, text=True)).stderr
    ):
        assert rated.returncode == 0, rated.stdout


@pytest.mark.skipif(
    importlib.util.find_spec("kubernetes_validate") is None,
    reason="needs the package kubernetes-validate",
)
def test_kubernetes_accepts_the_manifest():
    words = [
        sys.executable,
        "-m",
        "kubernetes_validate",
        "--strict",
        str(DEPLOY / "kubernetes.yaml"),
    ]
    subprocess.run(words, check=True)


@pytest.mark.skipif(
    importlib.util.find_spec("check_jsonschema") is None,
    reason="needs the package check-jsonschema",
)
def test_the_schema_of_compose_accepts_the_file():
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*words, str(DEPLOY / "compose.yaml")], check=True)
