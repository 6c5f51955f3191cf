"""What a watch counts while a real institution answers, and that it changes no answer."""

import dataclasses

import msgspec
import pytest

from clients import audit
from clients.health import pages_of
from clients.metrics import Metrics
from clients.pulse import Pulse
from clients.service_manager import ServiceManager
from clients.watching import Watch
from federation.errors import ConfigurationError, ProtocolError
from federation.messages import Begin, Invite, RefusalCode, Refuse, decode_reply, encode
from federation.plan import plan_toml
from federation.privacy.ledger_rules import Limits
from federation.privacy.units import Delta
from tests.exchanges import Wire, train
from tests.federations import KEY, Federation, federation


def watch_of(seat, limits: Limits, directory) -> tuple[Watch, Pulse, Metrics]:
    pulse = Pulse(lambda: 0.0)
    metrics = Metrics(pulse, Delta(1e-6))
    watch = Watch(
        pulse=pulse,
        metrics=metrics,
        service=ServiceManager({}, 1),
        ledger=seat.ledger,
        limits=limits,
        snapshot=directory / "seats" / seat.name / "snapshot",
        now=lambda: 0.0,
    )
    return watch, pulse, metrics


@pytest.fixture
def fed(tmp_path) -> Federation:
    return federation(tmp_path, institutions=3)


@pytest.fixture
def seats(fed):
    with fed.seats() as found:
        yield found


@pytest.fixture
def watched(fed, seats):
    return watch_of(seats["bank-00"], fed.members[0].policy.limits, fed.directory)


def counted(metrics: Metrics, name: str) -> dict[str, str]:
    lines = metrics.text().decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if line.startswith(name))


def test_requests_are_counted_by_kind_and_by_what_became_of_them(fed, seats, watched):
    watch, _, metrics = watched
    handle = watch.answering(seats["bank-00"].institution.handle)
    early = encode(Begin(plan=fed.plan.digest, session=bytes(32)))
    assert decode_reply(handle(early)) == Refuse(code=RefusalCode.OUT_OF_ORDER)
    handle(encode(Invite(plan=plan_toml(fed.plan))))
    for noise in (b"", b"\x00" * 50, msgspec.msgpack.encode({"type": "income 4711"})):
        handle(noise)
    assert counted(metrics, "fedscore_requests_total") == {
        'fedscore_requests_total{outcome="out-of-order",request="Begin"}': "1.0",
        'fedscore_requests_total{outcome="Accept",request="Invite"}': "1.0",
        'fedscore_requests_total{outcome="out-of-order",request="other"}': "3.0",
    }


def test_a_refusal_is_logged_in_words_with_the_code_that_was_sent(fed, seats, caplog):
    seat = seats["bank-00"]
    watch, _, _ = watch_of(seat, fed.members[0].policy.limits, fed.directory)
    seat.institution._log = watch.log
    caplog.set_level("INFO")
    seat.institution.handle(encode(Begin(plan=fed.plan.digest, session=bytes(32))))
    assert "refused (out-of-order): we take part in no plan" in caplog.messages


def test_an_answer_is_the_institutions_own_byte_for_byte(watched):
    watch, _, _ = watched
    assert watch.answering(lambda request: request[::-1])(b"abc") == b"cba"


def test_what_ends_an_answer_ends_the_work(watched):
    watch, pulse, _ = watched

    def fails(_: bytes) -> bytes:
        raise ConfigurationError("the disk is full")

    with pytest.raises(ConfigurationError):
        watch.answering(fails)(b"")
    assert pulse._work == ""


def test_what_does_not_open_is_counted_and_gets_no_answer(watched):
    watch, _, metrics = watched

    def fails(_: bytes) -> bytes:
        raise ProtocolError("not sealed")

    with pytest.raises(ProtocolError):
        watch.opening(fails)(b"")
    assert watch.opening(bytes.upper)(b"a") == b"A"
    assert list(counted(metrics, "fedscore_messages").values()) == ["1.0"]


def test_ledger_and_snapshot_are_looked_at_after_each_answer(fed, seats, watched):
    watch, pulse, _ = watched
    watch.ready()
    assert pulse.standing.is_prepared
    assert pulse.standing.sequence == 0
    watch.answering(seats["bank-00"].institution.handle)(encode(Invite(plan=plan_toml(fed.plan))))
    assert pulse.standing.sequence == 1
    assert pulse.standing.balance.open_plans == (fed.plan.digest,)
    seats["bank-00"].ledger.close()
    watch.ready()
    assert "closed" in pulse.standing.trouble
    assert pages_of(pulse, watch._metrics)["/readyz"]().status == 503


def test_audits_are_counted_as_the_institutions_log_tells_them(tmp_path):
    fed = federation(tmp_path, institutions=3)
    participation = msgspec.structs.replace(fed.plan.participation, audited_share=1.0)
    plan = msgspec.structs.replace(fed.plan, participation=participation).signed(KEY)
    fed = dataclasses.replace(fed, plan=plan)
    with fed.seats() as seats:
        train(fed, Wire(seats))
        seat = seats["bank-00"]
        watch, _, metrics = watch_of(seat, fed.members[0].policy.limits, tmp_path)
        for line in seat.log:
            watch.log(line)
        audits = sum("audit of" in line for line in seat.log)
    assert audits >= plan.rounds
    counts = counted(metrics, "fedscore_audits_total")
    assert counts['fedscore_audits_total{outcome="passed"}'] == f"{audits}.0"
    assert counts['fedscore_audits_total{outcome="failed"}'] == "0.0"
    watch.log(f"audit of attempt 0 at step 1: the seed with the snapshot {audit.FAILED}")
    failed = counted(metrics, "fedscore_audits_total")['fedscore_audits_total{outcome="failed"}']
    assert failed == "1.0"
