"""Probes and metrics of an institution: what they say, to whom, and that nothing upsets them."""

import http.client
import json
import socket
import threading
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from clients.health import HealthServer, pages_of
from clients.loopback import loopback_of
from clients.metrics import Metrics
from clients.pulse import CONTACT_SECONDS, TURN_SECONDS, Pulse, Standing
from federation.errors import ConfigurationError
from federation.privacy.accountant import epsilon_of
from federation.privacy.ledger_rules import Balance, PopulationBalance
from federation.privacy.units import BudgetUnits, Delta
from tests.flower_processes import free_port

DELTA = Delta(1e-6)


class Time:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


def side(charged: int, left: int) -> PopulationBalance:
    return PopulationBalance(
        charged_lifetime=BudgetUnits(charged),
        charged_in_window=BudgetUnits(charged),
        left_lifetime=BudgetUnits(left + 5),
        left_in_window=BudgetUnits(left),
    )


BALANCE = Balance(
    trained=side(10**12, 7),
    held_out=side(0, 3),
    open_plans=(),
    recovered=(),
    answers_last_hour=0,
)


def standing(**changes) -> Standing:
    settings_ = {"sequence": 4, "balance": BALANCE, "trouble": "", "is_prepared": True}
    return Standing(**{**settings_, **changes})


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def pulse(time):
    """Of an institution that is ready."""
    found = Pulse(time)
    found.stands(standing())
    found.turned(True)
    return found


# The pulse.


def test_an_institution_that_answers_is_alive_and_ready(pulse):
    assert pulse.why_dead() == pulse.why_not_ready() == ()


def test_a_loop_that_stands_still_is_dead_and_one_that_works_is_not(pulse, time):
    time.at += TURN_SECONDS
    assert pulse.why_dead() == ()
    time.at += 1
    assert "has not turned" in pulse.why_dead()[0]
    assert pulse.why_dead()[0] in pulse.why_not_ready()
    with pulse.working("answering Open"):
        assert pulse.why_dead() == ()
        time.at += 10 * TURN_SECONDS
        assert pulse.why_dead() == ()
    assert pulse.why_dead() == ()  # what was long has just ended


def test_work_that_fails_is_work_that_has_ended(pulse, time):
    with pytest.raises(ConfigurationError), pulse.working("reading the table"):
        raise ConfigurationError("the disk is full")
    time.at += TURN_SECONDS + 1
    assert pulse.why_dead()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda pulse: pulse.stands(standing(is_prepared=False)), "no snapshot"),
        (lambda pulse: pulse.stands(standing(balance=None, trouble="disk")), "used: disk"),
        (lambda pulse: pulse.stops(), "told to stop"),
    ],
)
def test_what_keeps_it_from_answering_is_said(pulse, spoil, told):
    spoil(pulse)
    (reason,) = pulse.why_not_ready()
    assert told in reason


def test_a_coordinator_that_was_not_reached_lately_is_said(pulse, time):
    time.at += CONTACT_SECONDS + 1
    pulse.turned(False)
    assert pulse.why_not_ready() == ("the coordinator has not been reached for 31 seconds",)
    assert pulse.why_dead() == ()
    with pulse.working("answering Open"):  # nobody asks meanwhile
        assert pulse.why_not_ready() == ()
    pulse.turned(True)
    assert pulse.why_not_ready() == ()


def test_a_process_that_starts_says_what_it_does():
    pulse = Pulse(Time())
    assert pulse.why_not_ready() == ("it is starting: opening its state",)
    with pulse.working("reading the table"):
        assert pulse.why_not_ready() == ("it is starting: reading the table",)
    pulse.stands(standing())
    assert pulse.why_not_ready() == ("the coordinator has not been reached yet",)


# The figures.


def figures(metrics: Metrics) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def test_metrics_say_what_was_asked_answered_charged_and_left(pulse, time):
    metrics = Metrics(pulse, DELTA)
    metrics.answered("Open", "Upload", 0.2)
    metrics.answered("Open", "policy", 0.3)
    metrics.audited(True)
    time.at += 3
    found = figures(metrics)
    assert found["fedscore_requests_total", "Open", "Upload"] == 1
    assert found["fedscore_requests_total", "Open", "policy"] == 1
    assert found["fedscore_answer_seconds_count", "Open"] == 2
    assert found["fedscore_audits_total", "passed"] == 1
    assert found["fedscore_audits_total", "failed"] == 0
    assert found["fedscore_last_contact_age_seconds",] == 3
    assert found["fedscore_connected",] == found["fedscore_ready",] == found["fedscore_up",] == 1
    assert found["fedscore_ledger_entries_total",] == 4
    assert found["fedscore_open_plans",] == 0
    assert found["fedscore_budget_units", "charged_ever", "trained"] == 10**12
    assert found["fedscore_budget_units", "left_now", "trained"] == 7
    assert found["fedscore_budget_units", "held_out", "left_ever"] == 8
    assert found["fedscore_budget_epsilon", "charged_ever", "trained"] == pytest.approx(
        epsilon_of(BudgetUnits(10**12), DELTA)
    )
    assert found["fedscore_budget_epsilon", "charged_ever", "held_out"] == 0
    ((build, *versions),) = [key for key in found if key[0] == "fedscore_build_info"]
    assert build
    assert "not installed" not in versions


def test_metrics_leave_out_what_is_not_known_yet():
    found = {key[0] for key in figures(Metrics(Pulse(Time()), DELTA))}
    assert "fedscore_budget_units" not in found
    assert "fedscore_last_contact_age_seconds" not in found
    assert "fedscore_connected" in found


def test_no_figure_counts_people(pulse):
    """Every name is listed here, so that a new one is looked at by somebody."""
    metrics = Metrics(pulse, DELTA)
    names = {family.name for family in text_string_to_metric_families(metrics.text().decode())}
    assert names == {
        "fedscore_requests", "fedscore_answer_seconds", "fedscore_audits", "fedscore_build_info",
        "fedscore_up", "fedscore_ready", "fedscore_connected",
        "fedscore_last_contact_age_seconds", "fedscore_ledger_entries", "fedscore_open_plans",
        "fedscore_budget_units", "fedscore_budget_epsilon", "fedscore_messages_without_answer",
    }  # fmt: skip


# The server.


@contextmanager
def served(pulse, host="127.0.0.1"):
    port = free_port()
    with HealthServer(f"{host}:{port}", pages_of(pulse, Metrics(pulse, DELTA))):
        yield port


@pytest.fixture
def port(pulse):
    with served(pulse) as found:
        yield found


def asked(port: int, path: str, method: str = "GET", **headers: str):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_probes_are_answered_with_a_verdict_and_its_reasons(port, pulse):
    for path in ("/livez", "/readyz", "/readyz?verbose"):
        status, body = asked(port, path)
        assert (status, json.loads(body)) == (200, {"ok": True, "reasons": []})
    pulse.stands(standing(is_prepared=False))
    status, body = asked(port, "/readyz")
    reasons = ["no snapshot of the table is prepared"]
    assert (status, json.loads(body)) == (503, {"ok": False, "reasons": reasons})
    assert asked(port, "/livez")[0] == 200
    status, body = asked(port, "/metrics")
    assert status == 200
    assert b"fedscore_ready 0.0" in body
    assert asked(port, "/livez", "HEAD") == (200, b"")


@pytest.mark.parametrize("host", ["localhost:9", "127.0.0.1:9", "[::1]:9", "127.0.0.1"])
def test_programs_on_this_machine_are_answered(port, host):
    assert asked(port, "/livez", Host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9", "10.0.0.1", "[", "a b"])
def test_a_browser_that_was_led_here_gets_nothing(port, host):
    assert asked(port, "/metrics", Host=host)[0] == 421


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/", "GET", 404), ("/../livez", "GET", 404), ("/metrics", "POST", 501), ("/x", "PUT", 501)],
)
def test_nothing_else_is_there(port, path, method, status):
    code, body = asked(port, path, method)
    assert code == status
    assert b"<" not in body


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.binary(max_size=300)
    | st.builds(
        lambda path, more: b"GET " + path + b" HTTP/1.1\r\n" + more + b"\r\n\r\n",
        st.binary(max_size=60),
        st.binary(max_size=200),
    )
)
def test_whatever_bytes_arrive_nothing_is_said_on_standard_error(port, capfd, sent):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    assert asked(port, "/livez")[0] == 200
    assert capfd.readouterr().err == ""


def test_who_says_nothing_does_not_keep_others_from_an_answer(port):
    silent = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(4)]
    assert asked(port, "/livez")[0] == 200
    for one in silent:
        one.close()


def test_who_opens_many_connections_is_hung_up_on_and_uses_few_threads(port):
    before = threading.active_count()
    many = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(40)]
    assert sum(_is_hung_up(one) for one in many) >= 30
    assert threading.active_count() - before <= 8
    for one in many:
        one.close()


def _is_hung_up(connection: socket.socket) -> bool:
    connection.settimeout(0.02)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True


def test_a_page_that_cannot_be_made_is_logged_and_the_next_one_is_served(pulse, caplog):
    def broken():
        raise ZeroDivisionError("secret")

    port = free_port()
    pages = pages_of(pulse, Metrics(pulse, DELTA))
    with HealthServer(f"127.0.0.1:{port}", {**pages, "/livez": broken}):
        with pytest.raises(http.client.HTTPException):
            asked(port, "/livez")
        assert asked(port, "/readyz")[0] == 200
    assert "could not be made" in caplog.text


def test_ipv6_is_served_as_well(pulse):
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    with served(pulse, "[::1]") as port:
        connection = http.client.HTTPConnection("::1", port, timeout=5)
        connection.request("GET", "/livez")
        assert connection.getresponse().status == 200
        connection.close()


def test_a_taken_port_is_named(pulse, port):
    with pytest.raises(ConfigurationError, match="cannot be listened on"):
        HealthServer(f"127.0.0.1:{port}", {})


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:9464", "10.0.0.1:9464", "[::]:9464", "localhost:9464", "127.0.0.1", "127.0.0.1:0",
     "127.0.0.1:65536", "127.0.0.1:x", "127.0.0.1:\u0661", "", ":", "[::1:9464x"],
)  # fmt: skip
def test_only_this_machines_own_addresses_are_listened_on(address):
    with pytest.raises(ConfigurationError, match="loopback"):
        loopback_of(address)


def test_loopback_addresses_are_understood():
    assert loopback_of("127.0.0.1:9464") == ("127.0.0.1", 9464)
    assert loopback_of("[::1]:9464") == ("::1", 9464)
