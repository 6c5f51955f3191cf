"""What a monitoring system may count of an institution: no figure says how many people it has.

Seconds of answers grow with the table; they are this institution's own, as all of this, and stay on
its own machine.
"""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from clients.pulse import Pulse
from federation.message import PROTOCOL_VERSION
from federation.privacy.accountant import epsilon_of
from federation.privacy.units import Delta, Population

# When each counter began: twice the lines, and nothing to learn.
disable_created_metrics()  # type: ignore[no-untyped-call]  # its own signature is untyped

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_ANSWER_SECONDS: Final = (0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0)


class Metrics:
    """All figures of one process."""

    def __init__(self, pulse: Pulse, delta: Delta) -> None:
        """Starts with every counter at zero.

        Args:
            pulse: of the process.
            delta: of the policy, at which epsilons are stated.
        """
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "fedscore_requests",
            "Requests of the coordinator, by what became of them",
            ("request", "outcome"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "fedscore_answer_seconds",
            "Seconds from a request to its answer",
            ("request",),
            buckets=_ANSWER_SECONDS,
            registry=self._registry,
        )
        self._audits = Counter(
            "fedscore_audits",
            "Uploads of this institution that were computed again after the audit coin fell on it",
            ("outcome",),
            registry=self._registry,
        )
        self._unopened = Counter(
            "fedscore_messages_without_answer",
            "Messages that the coordinator has not sealed, that are too old, or came before",
            registry=self._registry,
        )
        for outcome in ("passed", "failed"):
            self._audits.labels(outcome)
        self._registry.register(_OfPulse(pulse, delta))

    def answered(self, request: str, outcome: str, seconds: float) -> None:
        """Counts one request.

        Args:
            request: its kind.
            outcome: kind of the reply, or code of the refusal.
            seconds: that it took.
        """
        self._requests.labels(request, outcome).inc()
        self._seconds.labels(request).observe(seconds)

    def not_opened(self) -> None:
        """Counts a message that was not the coordinator's, or came before: it got no answer."""
        self._unopened.inc()

    def audited(self, passed: bool) -> None:
        """Counts one audit."""
        self._audits.labels("passed" if passed else "failed").inc()

    def text(self) -> bytes:
        """Returns all figures as Prometheus reads them."""
        return generate_latest(self._registry)


class _OfPulse(Collector):
    """Figures that are read off the pulse whenever somebody looks."""

    def __init__(self, pulse: Pulse, delta: Delta) -> None:
        self._pulse = pulse
        self._delta = delta

    def collect(self) -> Iterator[Metric]:
        """Yields the figures; those that are not known yet are left out."""
        pulse = self._pulse
        yield InfoMetricFamily(
            "fedscore_build",
            "What runs",
            value={
                "version": _version_of("fedscore"),
                "flwr": _version_of("flwr"),
                "protocol": str(PROTOCOL_VERSION),
            },
        )
        yield _gauge(
            "fedscore_up", "The main loop turns or an answer is made", not pulse.why_dead()
        )
        yield _gauge(
            "fedscore_ready", "As /readyz says, which gives the reasons", not pulse.why_not_ready()
        )
        yield _gauge(
            "fedscore_connected", "The coordinator's SuperLink answered lately", pulse.is_connected
        )
        age = pulse.contact_age
        if age is not None:
            yield _gauge(
                "fedscore_last_contact_age_seconds", "Since the SuperLink answered last", age
            )
        yield from self._of_the_ledger()

    def _of_the_ledger(self) -> Iterator[Metric]:
        standing = self._pulse.standing
        if standing is None or standing.balance is None:
            return
        balance = standing.balance
        yield CounterMetricFamily(
            "fedscore_ledger_entries", "Sequence of the ledger's last entry", standing.sequence
        )
        yield _gauge(
            "fedscore_open_plans", "Plans with an open reservation", len(balance.open_plans)
        )
        units = GaugeMetricFamily(
            "fedscore_budget_units", "Privacy budget, mu^2 / 10^-12", labels=("people", "what")
        )
        epsilons = GaugeMetricFamily(
            "fedscore_budget_epsilon",
            f"The same as epsilon at delta {self._delta:g}; epsilons do not add up",
            labels=("people", "what"),
        )
        for population in Population:
            side = balance.of(population)
            for what, value in (
                ("charged_ever", side.charged_lifetime),
                ("charged_in_365_days", side.charged_in_window),
                ("left_ever", side.left_lifetime),
                ("left_now", side.left),
            ):
                units.add_metric((str(population), what), value)
                epsilons.add_metric((str(population), what), epsilon_of(value, self._delta))
        yield units
        yield epsilons


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
