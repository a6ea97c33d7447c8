"""What is counted, in Prometheus' format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The service's counters, in a registry of their own.

    Every accepted request is finished once: accepted = sum of finished + slots in use. Every
    request is counted once in `requests` when it ends; 499 stands for a client that left.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "vlv_requests", "Requests that ended.", ["route", "status"], registry=self.registry
        )
        self.latency = Histogram(
            "vlv_request_seconds",
            "Time to the end of the answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.accepted = Counter("vlv_accepted", "Requests that got a slot.", registry=self.registry)
        self.finished = Counter(
            "vlv_finished",
            "Requests that gave their slot back.",
            ["outcome"],
            registry=self.registry,
        )
        self.refused = Counter(
            "vlv_refused", "Requests that got no slot.", ["reason"], registry=self.registry
        )
        self.slots = Gauge("vlv_slots", "Slots there are.", registry=self.registry)
        self.slots_used = Gauge("vlv_slots_used", "Slots that are taken.", registry=self.registry)
        self.waiting = Gauge(
            "vlv_queue_depth", "Jobs that the model has not begun.", registry=self.registry
        )
        self.running = Gauge("vlv_running", "Jobs that the model works on.", registry=self.registry)
        self.tokens = Counter("vlv_tokens", "Tokens of finished captions.", registry=self.registry)
        self.first_token = Histogram(
            "vlv_time_to_first_token_seconds",
            "From the slot to the first text of a streamed caption.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.restarts = Counter("vlv_worker_restarts", "Workers that died.", registry=self.registry)
        self.ready = Gauge(
            "vlv_ready", "Whether a worker with the model answers.", registry=self.registry
        )

    def page(self) -> bytes:
        """What Prometheus reads."""
        return generate_latest(self.registry)
