"""The server's metrics for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Buckets in seconds, from one token of a small model to a long text of a large one.
SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
TOKEN_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class Metrics:
    """The metrics of one server; any thread may change them."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter(
            "dllama_http_requests", "HTTP requests.", ["path", "status"], registry=registry
        )
        self.waiting = Gauge("dllama_requests_waiting", "Requests in the queue.", registry=registry)
        self.running = Gauge("dllama_requests_running", "Requests generating.", registry=registry)
        self.up = Gauge("dllama_model_up", "1 while the model can answer.", registry=registry)
        self.lost = Counter("dllama_cluster_lost", "Times a worker was lost.", registry=registry)
        self.prompt = Counter("dllama_prompt_tokens", "Tokens of prompts.", registry=registry)
        self.cached = Counter(
            "dllama_prompt_tokens_cached",
            "Tokens of prompts that an earlier request had evaluated.",
            registry=registry,
        )
        self.generated = Counter("dllama_generated_tokens", "Tokens generated.", registry=registry)
        self.drafted = Counter(
            "dllama_drafted_tokens", "Tokens that were drafted and checked.", registry=registry
        )
        self.accepted = Counter(
            "dllama_accepted_tokens", "Drafted tokens that turned out right.", registry=registry
        )
        self.queue_seconds = _seconds("queue_time", "Time in the queue.", SECONDS, registry)
        self.first_seconds = _seconds(
            "time_to_first_token",
            "Time from a request's arrival to its first token.",
            SECONDS,
            registry,
        )
        self.token_seconds = _seconds(
            "token", "Time of every token after the first.", TOKEN_SECONDS, registry
        )

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


def _seconds(
    name: str, text: str, buckets: tuple[float, ...], registry: CollectorRegistry
) -> Histogram:
    return Histogram(f"dllama_{name}_seconds", text, buckets=buckets, registry=registry)
