"""What Ollama's clients ask about models: names, sizes and what they can do."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from hashlib import sha256
from typing import Any

from dllama.errors import TemplateError
from dllama.server.served import Served

VERSION = "0.12.6"  # of Ollama, whose API this follows; clients ask it what they may use
TAG = ":latest"
FOREVER = "9999-12-31T23:59:59Z"


def listed(served: Served) -> str:
    """Return the name of the model with a tag, as clients expect it."""
    return served.name if ":" in served.name else served.name + TAG


def named(name: str | None, served: Served) -> str | None:
    """Return the name of the model for one that clients know it by, which may have a tag."""
    return served.name if name == listed(served) else name


def tags(served: Served) -> dict[str, Any]:
    """Return the model as /api/tags lists it."""
    return {**_base(served), "modified_at": time_text(served.created)}


def running(served: Served) -> dict[str, Any]:
    """Return the model as /api/ps lists it."""
    more = {"expires_at": FOREVER, "size_vram": 0, "context_length": served.seq_len}
    return {**_base(served), **more}


def described(served: Served) -> dict[str, Any]:
    """Return what /api/show tells of the model."""
    facts, template = served.facts, served.template
    defaults = [f"{name} {value}" for name, value in served.defaults.items()]
    return {
        "modelfile": f"FROM {served.name}",
        "parameters": "\n".join(defaults),
        "template": "" if isinstance(template, TemplateError) else template.source,
        "modified_at": time_text(served.created),
        "details": _details(served),
        "model_info": {
            "general.architecture": facts.family,
            "general.parameter_count": facts.parameters,
            f"{facts.family}.context_length": served.seq_len,
            f"{facts.family}.embedding_length": facts.width,
            f"{facts.family}.block_count": facts.layers,
        },
        "capabilities": _capabilities(served),
    }


def _base(served: Served) -> dict[str, Any]:
    name, facts = listed(served), served.facts
    identity = f"{name} {served.created} {facts.nbytes}"
    return {
        "name": name,
        "model": name,
        "size": facts.nbytes,
        "digest": sha256(identity.encode(errors="replace")).hexdigest(),
        "details": _details(served),
    }


def _details(served: Served) -> dict[str, Any]:
    facts = served.facts
    return {
        "parent_model": "",
        "format": facts.format,
        "family": facts.family,
        "families": [facts.family],
        "parameter_size": _short(facts.parameters),
        "quantization_level": re.sub(r"(?<=Q\d)(?=\w)", "_", facts.weights),  # Q4_K for Q4K
    }


def _capabilities(served: Served) -> list[str]:
    """Return what the model can do."""
    if isinstance(served.template, TemplateError):
        return ["completion"]
    can = {"tools": served.answers.calls, "thinking": served.answers.thinks}
    return ["completion", *(name for name, holds in can.items() if holds)]


def _short(count: int) -> str:
    """Return a number of parameters as Ollama writes it: 999.89K, 7.2B."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= unit:
            digits = 2 if unit < 1e9 else 1
            return f"{count / unit:.{digits}f}{name}"
    return str(count)


def time_text(seconds: float) -> str:
    """Return a Unix time as Ollama writes it."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")
