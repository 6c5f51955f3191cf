"""`fedscore coordinator`: who is admitted, and trainings with institutions elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from federation.errors import ConfigurationError
from fedscore import files
from fedscore.showing import SETTINGS, AsJson, show

if TYPE_CHECKING:
    from fedscore.coordinator_files import Office
    from fedscore.trainings import Training, Trainings

coordinator_app = typer.Typer(help="The coordinator of a federation.", **SETTINGS)

_Directory = Annotated[Path, typer.Argument(help="The coordinator's private directory.")]


@coordinator_app.command("init")
def coordinator_init(
    directory: Annotated[Path, typer.Argument(help="New private directory.")],
    *,
    federation: Annotated[str, typer.Option(help="The federation's identifier.")],
    address: Annotated[str, typer.Option(help="host:port that institutions reach.")],
    listen: Annotated[
        str,
        typer.Option(help="Address of this machine to listen on, if it is not that of --address."),
    ] = "",
    front: Annotated[
        str, typer.Option(help="own, or proxy if one of yours stands before the SuperLink.")
    ] = "own",
) -> None:
    """Make a coordinator: its key, its certificates, and a roster without members."""
    from federation.card import fingerprint_of
    from fedscore.coordinator_files import Front, make_coordinator, settings_for

    if front not in tuple(Front):
        raise ConfigurationError(f"Expected --front {front!r} to be one of {', '.join(Front)}.")
    settings = settings_for(federation, address, listen=listen, front=Front(front))
    key = make_coordinator(directory, settings)
    typer.echo(
        f"Made {directory}. Hand ca.pem, and roster.toml once all are admitted, to the "
        "institutions, and tell them this key by another way:\n"
        f"{fingerprint_of(key)}"
    )


@coordinator_app.command("admit")
def coordinator_admit(
    directory: _Directory,
    card: Annotated[Path, typer.Argument(help="The institution's card.toml.")],
    fingerprint: Annotated[
        str, typer.Option(help="Its key, as its people told you by another way than the card.")
    ],
) -> None:
    """Add an institution to the roster if its card is the one its people told you of."""
    from federation.card import load_card
    from fedscore.coordinator_files import admit, open_office

    found = load_card(files.read_text(card))
    roster = admit(open_office(directory), found, fingerprint)
    typer.echo(
        f"Admitted {found.institution}: {len(roster.members)} members. Hand the new "
        f"{directory / 'roster.toml'} to all of them."
    )


@coordinator_app.command("renew")
def coordinator_renew(
    directory: _Directory,
    *,
    certificate: Annotated[
        Path | None,
        typer.Option(help="PEM file with key and certificate, if your own authority issues them."),
    ] = None,
) -> None:
    """Replace the server's certificate. What runs takes it up; institutions need nothing."""
    from fedscore.coordinator_files import expiring, open_office, renew

    office = open_office(directory)
    content = None if certificate is None else files.read_bytes(certificate)
    typer.echo(f"Renewed: the server's certificate lasts {renew(office, content)} days.")
    for told in expiring(office):
        typer.echo(told)


@coordinator_app.command("revoke")
def coordinator_revoke(
    directory: _Directory,
    institution: Annotated[str, typer.Argument(help="Its id.")],
) -> None:
    """Take an institution out: no plan invites it, no connection of it is let in."""
    from fedscore.coordinator_files import open_office, revoke

    roster = revoke(open_office(directory), institution)
    typer.echo(
        f"Revoked {institution}: {len(roster.members)} members. Nobody else needs anything new. A "
        "training under way goes on with it until it is stopped and resumed."
    )


_Deadline = Annotated[
    float, typer.Option(help="Seconds after which an institution counts as silent.")
]


@coordinator_app.command("start")
def coordinator_start(
    directory: _Directory,
    plan: Annotated[Path, typer.Argument(help="The signed plan, TOML.")],
    schema: Annotated[Path, typer.Option(help="The schema's TOML.")],
    *,
    deadline: _Deadline = 60.0,
    json: AsJson = False,
) -> None:
    """Run a plan with its institutions; the release is numbered and never overwritten."""
    from fedscore.coordinator_files import TRAININGS, open_office
    from fedscore.trainings import Trainings
    from server.admission import cards_of_invited

    _require_deadline(deadline)
    found = files.read_plan(plan)
    text = files.read_text(schema)
    if found.schema != files.read_schema(schema).digest:
        raise ConfigurationError(f"{plan} was made for another schema than {schema}.")
    office = open_office(directory)
    cards_of_invited(found, office.roster, office.cards, has_begun=False)
    trainings = Trainings(directory / TRAININGS)
    with trainings.alone():
        training = trainings.new(found, text, office.roster)
        try:
            _run(office, trainings, training, deadline=deadline, give_up=False, json=json)
        finally:
            trainings.forget_untold(training)


@coordinator_app.command("resume")
def coordinator_resume(
    directory: _Directory,
    *,
    give_up: Annotated[
        bool, typer.Option("--give-up", help="Only end it: what is reserved returns to budgets.")
    ] = False,
    deadline: _Deadline = 60.0,
    json: AsJson = False,
) -> None:
    """Go on with the training that was stopped, from its last total."""
    from fedscore.coordinator_files import TRAININGS, open_office
    from fedscore.trainings import Trainings

    _require_deadline(deadline)
    office = open_office(directory)
    trainings = Trainings(directory / TRAININGS)
    with trainings.alone():
        training = trainings.under_way()
        if training is None:
            raise ConfigurationError("No training is under way: `fedscore coordinator start` one.")
        _run(office, trainings, training, deadline=deadline, give_up=give_up, json=json)


@coordinator_app.command("status")
def coordinator_status(directory: _Directory, json: AsJson = False) -> None:
    """Show who is admitted and how far each training came."""
    from fedscore.coordinator_files import open_office
    from fedscore.coordinator_status import status_of, status_tables

    status = status_of(open_office(directory))
    show(status, status_tables(status), json=json)


def _require_deadline(deadline: float) -> None:
    if not 1.0 <= deadline <= 3600.0:
        raise ConfigurationError(f"Expected --deadline {deadline:g} in [1, 3600] seconds.")


def _run(
    office: "Office",
    trainings: "Trainings",
    training: "Training",
    *,
    deadline: float,
    give_up: bool,
    json: bool,
) -> None:
    import signal
    import sys

    from fedscore.progress import watching

    files.require_flower()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    from fedscore.coordinating import run_over_flower
    from fedscore.tables import training_table

    plan = training.plan()
    try:
        with watching(plan.name, plan.rounds) as watch:
            trained = run_over_flower(
                office, trainings, training, deadline_seconds=deadline, give_up=give_up, watch=watch
            )
    except (KeyboardInterrupt, SystemExit):
        if training.past().was_told:
            typer.echo(
                f"Training {training.number} is stopped, not ended: `fedscore coordinator resume "
                f"{office.directory}` goes on with it.",
                err=True,
            )
        raise
    show(trained, [training_table(trained)], json=json)
