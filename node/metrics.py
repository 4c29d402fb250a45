"""What a node counts, for Prometheus: read from the same status that `atoll status` shows, when asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from atoll.node.addresses import split_address
from atoll.protocol.errors import ConfigError


class Metrics(Collector):
    """Serves one node's numbers over HTTP, on an address that its owner chose."""

    def __init__(self, status: Callable[[], dict[str, Any]]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        for name, text in (
            ("round", "Round in progress."),
            ("height", "Commits in the ledger."),
            ("updates", "Commits that changed the anchor."),
            ("view", "View of the round in progress; above 0 if a leader was replaced."),
        ):
            yield GaugeMetricFamily(f"atoll_{name}", text, status.get(name, 0))
        yield GaugeMetricFamily("atoll_members", "Members of the round.", len(status.get("members", ())))
        moved = CounterMetricFamily("atoll_bytes", "Bytes on the wire.", labels=["kind", "direction"])
        for kind, ways in status.get("traffic", {}).items():
            for direction, count in ways.items():
                moved.add_metric([kind, direction], count)
        yield moved
        yield GaugeMetricFamily(
            "atoll_uplink_bytes_per_s",
            "What this node was seen to send; 0 if it sent too little yet.",
            status.get("uplink_bytes_per_s", 0),
        )
        repeated = CounterMetricFamily("atoll_repeated_bytes", "Bytes of states that came in vain, or twice.")
        repeated.add_metric([], status.get("repeated_bytes", 0))
        yield repeated
        rejected = CounterMetricFamily("atoll_rejected", "Messages and blobs that broke the rules.")
        rejected.add_metric([], sum(status.get("rejected", {}).values()))
        yield rejected
        training = status.get("training")
        if training and training["loss"] is not None:
            yield GaugeMetricFamily("atoll_training_loss", "Nats per token.", training["loss"])
        if training:
            yield from _trainer(training)


def _trainer(training: dict[str, Any]) -> Iterator[Metric]:
    if (share := training["utilisation"]) is not None:
        text = "Share of the last minutes in which inner steps ran."
        yield GaugeMetricFamily("atoll_training_utilisation", text, share)
    seconds = CounterMetricFamily("atoll_training_seconds", "What the trainer did.", labels=["kind"])
    for name, spent_s in training["spent"].items():
        if name != "at_s":
            seconds.add_metric([name.removesuffix("_s")], spent_s)
    yield seconds
    text = "What became of what was trained for a round."
    contributions = CounterMetricFamily("atoll_contributions", text, labels=["became"])
    for became, count in training["contributions"].items():
        contributions.add_metric([became], count)
    yield contributions


def serve_metrics(listen: str, status: Callable[[], dict[str, Any]]) -> Callable[[], None]:
    """Serve on host:port from a thread; call what is returned to stop. ConfigError if that cannot be."""
    host, port = split_address(listen)
    registry = CollectorRegistry()
    registry.register(Metrics(status))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {listen}: {error.strerror}", "--metrics", "a free port"
        ) from None

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(5)

    return stop
