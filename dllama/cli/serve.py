"""`dllama serve`: HTTP APIs and a chat page, for one model."""

from __future__ import annotations

import argparse
import logging
from contextlib import closing
from importlib.util import find_spec
from typing import Any

from dllama import LLM
from dllama.cli.addresses import check_guarded
from dllama.cli.options import (
    ONE_OF,
    open_model,
    sampling,
    settings,
    template_name,
    template_variables,
)
from dllama.cli.parser import add_command, add_options
from dllama.cluster.secrets import read_secret
from dllama.errors import ConfigError
from dllama.options import (
    ALIAS,
    CLUSTER_OPTIONS,
    DRAFT_OPTIONS,
    HOST,
    LISTEN,
    LOG_QUIET,
    MODEL,
    MODEL_OPTIONS,
    POOLING,
    PORT,
    QUEUE,
    SAMPLING_OPTIONS,
    SERVED,
    SERVER_OPTIONS,
    TEMPLATE,
    TEMPLATE_KWARGS,
)
from dllama.transports import is_public
from dllama.transports.sockets import format_tcp, parse_tcp

log = logging.getLogger("dllama.server")

# If the command line has one of these, the file's are ignored.
PLACES = ((LISTEN.name, HOST.name), (LISTEN.name, PORT.name))
PACKAGES = ("starlette", "uvicorn", "prometheus_client")  # of the extra `serve`
EXAMPLES = """\
dllama serve
dllama serve llama --port 9090
dllama serve llama --host 0.0.0.0 --port 8080 --api-key-file key.txt
dllama serve llama --workers 10.0.0.2:9999 10.0.0.3:9999"""


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = add_command(
        subparsers, "serve", run,
        "Serve a model over HTTP: the APIs of OpenAI, Anthropic and Ollama, and a page to chat.",
        EXAMPLES,
    )  # fmt: skip
    groups = {
        "server": SERVER_OPTIONS,
        "model": (*MODEL_OPTIONS, TEMPLATE, TEMPLATE_KWARGS),
        "sampling, where a request says nothing (defaults: generation_config.json of the model "
        "folder, or as given here)":
            tuple(option for option in SAMPLING_OPTIONS if option.name != "seed"),
        "cluster": CLUSTER_OPTIONS,
        "drafts": DRAFT_OPTIONS,
        "log": (LOG_QUIET,),
    }  # fmt: skip
    add_options(parser, groups, MODEL)


def run(args: argparse.Namespace) -> int:
    """Answer requests until Ctrl-C, SIGTERM or SIGHUP."""
    values = {SERVED.name: SERVED.default, **settings(args, (*ONE_OF, *PLACES))}
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(f"serve needs {', '.join(missing)}: pip install 'dllama[serve]'")
    quiet = values.get("quiet", False)
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    key = _read_key(values.get("api_key_file"))
    address, insecure = _address(values), values.get("insecure", False)
    check_guarded(address, key, insecure, "--api-key-file")
    if "*" in values.get("cors_origins", ()) and key is None and not insecure:
        raise ConfigError(
            "--cors-origins *: pages of all web sites could use the server: give --api-key-file, "
            "or --insecure"
        )
    _serve(values, address, key)
    return 0


def _serve(values: dict[str, Any], address: str, key: bytes | None) -> None:
    """Open the model and answer requests."""
    from dllama.server.app import make_app
    from dllama.server.desk import Desk
    from dllama.server.http.guard import Access
    from dllama.server.http.service import bind, serve, url_of
    from dllama.server.queue.dispatcher import Dispatcher
    from dllama.server.queue.metrics import Metrics
    from dllama.server.served import Served
    from dllama.server.turns import keep_short

    keep_short()
    metrics = Metrics()
    limit = values.get("queue", QUEUE.default)
    dispatcher = Dispatcher(lambda: open_model(values, dispatcher.status.report), metrics, limit)
    desk = Desk(dispatcher)

    def prepare(llm: LLM) -> None:
        # Its warnings were shown; they need not come again when a lost worker is back.
        logging.getLogger("dllama.engine").setLevel(logging.ERROR)
        log.info(
            "%d requests at once, room for %d texts of %d tokens",
            llm.parallel,
            llm.contexts,
            llm.seq_len,
        )
        served = Served.of(
            llm,
            sampling(llm, values),
            template_name(llm, values),
            template_variables(values),
            values.get(ALIAS.name),
            values.get(POOLING.name),
        )
        desk.open(served)

    access = Access(key, not is_public(address), tuple(values.get("cors_origins", ())))
    with bind(address) as listener, closing(dispatcher):
        app = make_app(desk, dispatcher, metrics, access)
        url = url_of(listener)
        log.info("loading the model, %s/ready says how far it is", url)
        serve(dispatcher, app, listener, prepare, lambda: print(f"listening at {url}", flush=True))


def _address(values: dict[str, Any]) -> str:
    """Where to listen; ConfigError if it is said twice."""
    for other in ("host", "port"):
        if "listen" in values and other in values:
            raise ConfigError(f"--listen and --{other}: only one of the two can be given")
    host, port = parse_tcp(values.get("listen", LISTEN.default))
    return format_tcp(values.get("host", host), values.get("port", port))


def _read_key(path: str | None) -> bytes | None:
    """The API key, if there is one; ConfigError for one that no header can hold."""
    key = read_secret(path, "DLLAMA_API_KEY")
    if key is not None and any(byte <= 32 or byte == 127 for byte in key):
        where = f"--api-key-file {path}" if path else "DLLAMA_API_KEY"
        raise ConfigError(f"{where}: expected one key, without white space in it")
    return key
