"""`dllama serve`: OpenAI's HTTP API and a chat page, for one model."""

from __future__ import annotations

import argparse
import logging
import signal
from contextlib import closing
from importlib.util import find_spec
from typing import Any

from dllama.cli.addresses import check_guarded, is_public
from dllama.cli.options import open_model, sampling, settings, template_name, template_variables
from dllama.cli.parser import add_command, add_options
from dllama.cluster.protocol import read_secret
from dllama.errors import ConfigError
from dllama.options import (
    CLUSTER_OPTIONS,
    DRAFT_OPTIONS,
    LISTEN,
    LOG_QUIET,
    MODEL,
    MODEL_OPTIONS,
    QUEUE,
    SAMPLING_OPTIONS,
    SERVED,
    SERVER_OPTIONS,
    TEMPLATE,
    TEMPLATE_KWARGS,
)

log = logging.getLogger("dllama.server")

PACKAGES = ("starlette", "uvicorn", "prometheus_client")  # of the extra `serve`
EXAMPLES = """\
dllama serve
dllama serve llama --listen 127.0.0.1:8080
dllama serve llama --listen 0.0.0.0:8080 --api-key-file key.txt
dllama serve llama --workers 10.0.0.2:9999 10.0.0.3:9999"""


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = add_command(
        subparsers, "serve", run, "Serve a model over HTTP: OpenAI's API, and a page to chat.",
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
    """Answer requests until Ctrl-C or SIGTERM."""
    values = {SERVED.name: SERVED.default, **settings(args)}
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(f"serve needs {', '.join(missing)}: pip install 'dllama[serve]'")
    quiet = values.get("quiet", False)
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    key = _read_key(values.get("api_key_file"))
    address = values.get("listen", LISTEN.default)
    check_guarded(address, key, values.get("insecure", False), "--api-key-file")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # while the model is loaded
    _serve(values, address, key)
    return 0


def _serve(values: dict[str, Any], address: str, key: bytes | None) -> None:
    """Open the model and answer requests."""
    from dllama.server.app import make_app
    from dllama.server.dispatcher import Dispatcher
    from dllama.server.metrics import Metrics
    from dllama.server.served import Served
    from dllama.server.service import bind, serve, url_of

    metrics = Metrics()
    limit = values.get("queue", QUEUE.default)
    dispatcher = Dispatcher(lambda: open_model(values), metrics, limit)
    with bind(address) as listener, closing(dispatcher):
        llm = dispatcher.load()
        # Its warnings were shown; they need not come again when a lost worker is back.
        logging.getLogger("dllama.engine").setLevel(logging.ERROR)
        log.info(
            "%d requests at once, room for %d texts of %d tokens",
            llm.parallel,
            llm.contexts,
            llm.seq_len,
        )
        served = Served.of(
            llm, sampling(llm, values), template_name(llm, values), template_variables(values)
        )
        app = make_app(served, dispatcher, metrics, key, local=not is_public(address))
        ready = f"listening at {url_of(listener)}"
        serve(dispatcher, app, listener, lambda: print(ready, flush=True))


def _read_key(path: str | None) -> bytes | None:
    """The API key, if there is one; ConfigError for one that no header can hold."""
    key = read_secret(path, "DLLAMA_API_KEY")
    if key is not None and any(byte <= 32 or byte == 127 for byte in key):
        where = f"--api-key-file {path}" if path else "DLLAMA_API_KEY"
        raise ConfigError(f"{where}: expected one key, without white space in it")
    return key
