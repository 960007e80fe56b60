"""What operators watch: counts, times and queues, in the form that Prometheus reads."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """One registry a service, so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        of: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("onepeace_requests_total", "Requests answered", ["route", "status"], **of)
        self.seconds = Histogram("onepeace_request_seconds", "Time to an answer", ["route"], buckets=SECONDS, **of)
        self.items = Counter("onepeace_items_total", "Inputs by what became of them", ["modality", "outcome"], **of)
        self.batch = Histogram(
            "onepeace_batch_windows", "Windows in a forward pass", ["modality"], buckets=(1, 2, 4, 8, 16, 32, 64), **of
        )
        self.forward = Histogram(
            "onepeace_forward_seconds",
            "Time of a forward pass",
            ["modality"],
            buckets=SECONDS,
            **of,
        )
        self.waiting = Gauge("onepeace_waiting_windows", "Windows that wait for the model", **of)
        self.running = Gauge("onepeace_running_requests", "Requests that are being worked on", **of)
        self.ready = Gauge("onepeace_ready", "1 while the model can be used", **of)
        self.starts = Gauge("onepeace_worker_starts", "Processes of the model that were started", **of)
        self.left = Gauge("onepeace_threads_left", "Threads busy with what was given up", ["work"], **of)
        self.stored = Gauge("onepeace_index_items", "Items of a store", ["index"], **of)
