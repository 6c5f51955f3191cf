"""`fedscore ledger recover`: what a person is told and confirms, and what the ledger then shows."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from clients.configuration import load_daemon_configuration
from clients.ledger import Ledger
from clients.premises import Premises
from clients.records import Records
from federation.canonical import digest, sign
from federation.errors import LedgerCorrupt
from federation.messages import Accept, Invite, RefusalCode, Refuse, SeenHeader
from federation.plan import plan_toml
from federation.privacy.accountant import epsilon_of
from federation.privacy.ledger_rules import WINDOW_SECONDS
from federation.privacy.units import BudgetUnits, Price
from federation.secure_aggregation.upload import HEADER_LABEL, Header
from fedscore.machine import system_clock
from tests.federations import NOW, clock, federation, identity_of, signed_plan
from tests.integration.test_institution_command import (  # noqa: F401  fixtures
    CONFIG,
    fedscore,
    init,
    place,
)

PLAN, SPLIT = digest("test/plan"), digest("test/split")
PRICE = Price(trained=BudgetUnits(10**12), held_out=BudgetUnits(10**11))
RECOVER = ("ledger", "recover", CONFIG)


@pytest.fixture
def bank(place, fedscore):  # noqa: F811  fixtures
    """An institution whose ledger was restored from before its plan, and the head it had signed."""
    init(fedscore)
    premises = Premises(Path("bank-00", "state"))
    limits = load_daemon_configuration(Path(CONFIG)).policy.limits
    older = shutil.copy2(premises.ledger, "older.sqlite")
    with Ledger.open(premises.ledger, system_clock) as ledger:
        head = ledger.reserve(PLAN, PRICE, alone=PRICE, split=SPLIT, limits=limits)
    shutil.copy2(older, premises.ledger)
    with Records(premises.records) as records:
        records.note_own_head(*head)  # as a daemon does before it stops
    return premises, limits, head


def entries(premises):
    with Ledger.open_read_only(premises.ledger, system_clock) as ledger:
        return ledger.entries()


def test_a_ledger_is_recovered_from_what_the_daemon_noted_and_shows_it(bank, fedscore):  # noqa: F811
    premises, limits, head = bank
    code, out, err = fedscore(*RECOVER, "--yes")
    assert (code, err) == (0, "")
    said = " ".join(out.split())
    for words in (
        f"signed sequence 1, head {head[1]}",
        f"{limits.lifetime:,} budget units are charged",
        f"epsilon {epsilon_of(limits.lifetime, 1e-4):.4g} at delta 0.0001",
        "limits were never higher",
        "goes on from sequence 2",
    ):
        assert words in said
    assert "clock" not in said, "the whole lifetime limit rests on no clock"
    with Ledger.open(premises.ledger, system_clock) as ledger:
        ledger.require_not_older_than(*head)
        assert ledger.balance(limits).held_out.left == 0
    path = str(premises.ledger)
    code, out, _ = fedscore("ledger", "verify", path)
    assert code == 0
    assert "1 entries, sequence 2" in out
    assert "missing up to sequence 1" in out
    sheet = json.loads(fedscore("ledger", "show", path, "--json")[1])
    (one,) = sheet["recovered"]
    assert sheet["plans"] == []
    assert (one["sequence"], one["seen_sequence"], one["seen_head"]) == (2, *head)
    assert one["trained"] == one["held_out"] == limits.lifetime
    shown = fedscore("ledger", "show", path)[1]
    for words in ("charged at their worst", head[1][:16], "unknown"):
        assert words in shown
    status = json.loads(fedscore("institution", "status", CONFIG, "--json")[1])
    assert [one["seen_head"] for one in status["recovered"]] == [head[1]]
    assert "Missing entries were charged" in fedscore("institution", "status", CONFIG)[1]


def test_a_person_who_knows_the_day_of_the_copy_is_charged_a_years_limit(bank, fedscore):  # noqa: F811
    premises, limits, _ = bank
    yesterday = datetime.fromtimestamp(system_clock(), UTC) - timedelta(days=1)
    code, out, _ = fedscore(*RECOVER, "--since", f"{yesterday:%Y-%m-%d}", "--yes")
    assert code == 0
    assert f"made on {yesterday:%Y-%m-%d} or later" in out
    (one,) = entries(premises)
    assert one.entry.price == Price(trained=limits.yearly, held_out=limits.yearly)
    assert limits.yearly < limits.lifetime
    assert f"{yesterday:%Y-%m-%d}" in fedscore("ledger", "show", str(premises.ledger))[1]


@pytest.mark.parametrize(
    ("typed", "charges"), [("charge", True), ("", False), ("yes", False), ("Charge", False)]
)
def test_only_the_typed_word_confirms(bank, fedscore, monkeypatch, typed, charges):  # noqa: F811
    premises, _, _ = bank
    monkeypatch.setattr("typer.prompt", lambda *_, default, **__: typed or default)
    code, _, err = fedscore(*RECOVER)
    assert code == (0 if charges else 78)
    assert ("nothing was charged" in err) is not charges
    assert len(entries(premises)) == charges


def test_an_open_plan_of_the_older_copy_ends_and_the_person_is_told(bank, fedscore):  # noqa: F811
    premises, limits, head = bank
    with Ledger.open(premises.ledger, system_clock) as ledger:
        other = digest("test/plan", b"2")
        ledger.reserve(other, PRICE, alone=PRICE, split=SPLIT, limits=limits)
        with pytest.raises(LedgerCorrupt, match="fedscore ledger recover"):
            ledger.require_not_older_than(*head)
    code, out, _ = fedscore(*RECOVER, "--yes")
    assert code == 0
    assert "Open plans end, charged in full: 1." in out
    (row,) = json.loads(fedscore("ledger", "show", str(premises.ledger), "--json")[1])["plans"]
    assert not row["is_open"]
    assert (row["spent_trained"], row["spent_held_out"]) == (10**12, 10**11)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--sequence", "3"), 78, "both --sequence and --head"),
        (("--head", "ab" * 32), 78, "both --sequence and --head"),
        (("--sequence", "0", "--head", "ab" * 32), 77, "seen_sequence"),
        (("--sequence", str(2**62 + 1), "--head", "ab" * 32), 77, "seen_sequence"),
        (("--sequence", "9" * 99, "--head", "ab" * 32), 77, "seen_sequence"),
        (("--sequence", "3", "--head", "AB" * 32), 77, "64 lower-case"),
        (("--since", "2499-01-01"), 78, "still to come"),
        (("--since", "1900-01-01"), 78, "whole seconds"),
        (("--since", "soon"), 2, "soon"),
    ],
)
def test_what_cannot_be_recovered_is_refused_and_nothing_is_charged(
    bank,
    fedscore,  # noqa: F811
    arguments,
    code,
    told,
):
    premises, _, _ = bank
    found, _, err = fedscore(*RECOVER, *arguments, "--yes")
    assert (found, told in err) == (code, True), err
    assert entries(premises) == ()


@pytest.mark.parametrize("empties", [True, False])
def test_without_a_noted_head_it_says_what_to_name_and_takes_it(bank, fedscore, empties):  # noqa: F811
    premises, _, head = bank
    premises.records.unlink()
    if empties:
        Records.create(premises.records).close()
    code, _, err = fedscore(*RECOVER, "--yes")
    assert (code, "name --sequence and --head" in err) == (78, True)
    assert premises.records.exists() is empties
    named = ("--sequence", str(head[0]), "--head", head[1])
    code, out, _ = fedscore(*RECOVER, *named, "--yes")
    assert (code, "Made new records" in out) == (0, not empties)
    with Records(premises.records) as records:
        assert records.own_head() == (None if empties else head)
    code, _, err = fedscore(*RECOVER, *named, "--yes")
    assert (code, "nothing is missing" in err) == (78, True)
    assert len(entries(premises)) == 1


def test_a_running_daemon_keeps_its_ledger_from_being_recovered(bank, fedscore):  # noqa: F811
    premises, _, _ = bank
    with Ledger.open(premises.ledger, system_clock):
        code, _, err = fedscore(*RECOVER, "--yes")
    assert (code, "stop the other" in err) == (78, True)


def test_an_institution_on_a_restored_backup_stops_is_recovered_and_takes_part_again(tmp_path):
    found = federation(tmp_path)
    own = tmp_path / "seats" / "bank-00"
    limits = found.members[0].policy.limits
    with found.seats():
        pass
    shutil.copy2(own / "ledger.sqlite", tmp_path / "backup.sqlite")
    with found.seats() as seats:
        seats["bank-00"].accept(found.plan)
        head = seats["bank-00"].ledger.head()
    shutil.copy2(tmp_path / "backup.sqlite", own / "ledger.sqlite")

    context = bytes(32)
    header = Header(
        institution="bank-00",
        **dict.fromkeys(("masked", "own_mask", "leaves", "noise"), bytes(32)),
        ledger_sequence=head[0],
        ledger_head=head[1],
        signature=b"",
    )
    signature = sign(identity_of("bank-00"), HEADER_LABEL, header.body(context))
    header = msgspec.structs.replace(header, signature=bytes.fromhex(signature))
    seen = SeenHeader(context=context, header=header)
    with found.seats() as seats, pytest.raises(LedgerCorrupt, match="fedscore ledger recover"):
        seats["bank-00"].send(Invite(plan=plan_toml(found.plan), seen=seen))
    with pytest.raises(LedgerCorrupt, match=f"entry 1 was signed, head {head[1]}"), found.seats():
        pass

    with (
        Records(own / "records.sqlite") as records,
        Ledger.open(own / "ledger.sqlite", clock) as one,
    ):
        one.recover(one.recovery(*records.own_head(), missing_since=clock(), limits=limits))
    later = NOW + WINDOW_SECONDS + 1
    plan = signed_plan(found.schema, valid_from=datetime.fromtimestamp(later, UTC))
    with found.seats() as seats:
        refusal = seats["bank-00"].send(Invite(plan=plan_toml(found.plan), seen=seen))
        assert refusal == Refuse(code=RefusalCode.PRICE, peer=""), "the year is used up"
    with found.seats(time=lambda: later) as seats:
        reply = seats["bank-00"].send(Invite(plan=plan_toml(plan), seen=seen))
        assert isinstance(reply, Accept), seats["bank-00"].log
        assert reply.ledger_sequence == head[0] + 2
