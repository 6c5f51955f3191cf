"""`fedscore coordinator`: who is admitted, and trainings with institutions elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from federation.errors import ConfigurationError
from fedscore import files
from fedscore.showing import SETTINGS, AsJson, show

coordinator_app = typer.Typer(help="The coordinator of a federation.", **SETTINGS)

_Directory = Annotated[Path, typer.Argument(help="The coordinator's private directory.")]


@coordinator_app.command("init")
def coordinator_init(
    directory: Annotated[Path, typer.Argument(help="New private directory.")],
    *,
    federation: Annotated[str, typer.Option(help="The federation's identifier.")],
    address: Annotated[str, typer.Option(help="host:port to listen on, a loopback address.")],
) -> None:
    """Make a coordinator: its key, its certificates, and a roster without members."""
    from federation.card import fingerprint_of
    from fedscore.coordinator_files import Settings, make_coordinator

    host, _, port = address.rpartition(":")
    if not port.isascii() or not port.isdigit() or len(port) > 5:
        raise ConfigurationError(f"Expected --address {address!r} as host:port.")
    key = make_coordinator(directory, Settings(federation=federation, host=host, port=int(port)))
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


@coordinator_app.command("start")
def coordinator_start(
    directory: _Directory,
    plan: Annotated[Path, typer.Argument(help="The signed plan, TOML.")],
    schema: Annotated[Path, typer.Option(help="The schema's TOML.")],
    *,
    deadline: Annotated[
        float, typer.Option(help="Seconds after which an institution counts as silent.")
    ] = 60.0,
    json: AsJson = False,
) -> None:
    """Run a plan with its institutions; the release is numbered and never overwritten."""
    import signal
    import sys

    from fedscore.coordinator_files import open_office
    from fedscore.progress import watching

    if not 1.0 <= deadline <= 3600.0:
        raise ConfigurationError(f"Expected --deadline {deadline:g} in [1, 3600] seconds.")
    files.require_flower()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # closes the plan
    from fedscore.coordinating import run_over_flower
    from fedscore.tables import training_table

    found = files.read_plan(plan)
    with watching(found.name, found.rounds) as watch:
        training = run_over_flower(
            open_office(directory),
            found,
            files.read_schema(schema),
            deadline_seconds=deadline,
            watch=watch,
        )
    show(training, [training_table(training)], json=json)
