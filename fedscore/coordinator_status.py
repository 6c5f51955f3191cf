"""What a coordinator's operator sees: who is admitted, and how far each training came."""

import msgspec
from rich.table import Table

from federation.card import fingerprint_of
from federation.model.release import load_release
from federation.transcript import Answers, Attempted
from fedscore.coordinator_files import TRAININGS, Office, expiring
from fedscore.trainings import Training, Trainings


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """One institution of the roster.

    Attributes:
        id: as plans invite it.
        key: its Ed25519 key, 64 hexadecimal digits.
    """

    id: str
    key: str


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One training.

    Attributes:
        number: from 1.
        plan: its name.
        rounds: training rounds whose total was opened.
        of: training rounds of the plan.
        attempts: that were made, failed ones included.
        state: "under way", "released", or "ended without a release".
        release: digest of the release, empty if there is none.
    """

    number: int
    plan: str
    rounds: int
    of: int
    attempts: int
    state: str
    release: str


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """All of it.

    Attributes:
        federation: identifier.
        institutions: that are admitted.
        trainings: in order.
        certificates: what to do about those that end within thirty days; none if none does.
    """

    federation: str
    institutions: tuple[Admitted, ...]
    trainings: tuple[Run, ...]
    certificates: tuple[str, ...]


def status_of(office: Office) -> Status:
    """Returns what a coordinator's directory shows; nothing is written."""
    return Status(
        federation=office.settings.federation,
        institutions=tuple(Admitted(id=one.id, key=one.key) for one in office.roster.members),
        trainings=tuple(_run(one) for one in Trainings(office.directory / TRAININGS).all()),
        certificates=expiring(office),
    )


def _run(training: Training) -> Run:
    plan, past, release = training.plan(), training.past(), training.release()
    lines: tuple[Attempted | Answers, ...] = (*past.told.values(), *past.answers.values())
    opened = {(line.question, line.round) for line in lines if line.total}
    if not past.has_ended:
        state = "under way"
    else:
        state = "released" if release else "ended without a release"
    return Run(
        number=training.number,
        plan=plan.name,
        rounds=sum(question is plan.training_question for question, _ in opened),
        of=plan.rounds,
        attempts=len(lines),
        state=state,
        release=load_release(release).digest if release else "",
    )


def status_tables(status: Status) -> list[Table]:
    """Returns the tables that people read."""
    members = Table(title=f"Admitted to {status.federation}", title_justify="left")
    members.add_column("Institution")
    members.add_column("Fingerprint")
    for one in status.institutions:
        members.add_row(one.id, fingerprint_of(one.key))
    trainings = Table(title="Trainings", title_justify="left")
    for name in ("Number", "Plan", "Rounds", "Attempts", "State", "Release"):
        trainings.add_column(name)
    for run in status.trainings:
        trainings.add_row(
            str(run.number),
            run.plan,
            f"{run.rounds} of {run.of}",
            str(run.attempts),
            run.state,
            run.release[:16],
        )
    certificates = Table("Certificates", title_justify="left")
    for told in status.certificates:
        certificates.add_row(told)
    return [members, trainings, *([certificates] if status.certificates else [])]
