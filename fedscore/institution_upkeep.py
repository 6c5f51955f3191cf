"""`fedscore institution doctor` and `report`: what is wrong here, and what a release brings us."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedscore import files
from fedscore.showing import AsJson, show

if TYPE_CHECKING:
    pass

Configuration = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="The institution's configuration, TOML.")
]


def institution_report(
    config: Configuration,
    release: Annotated[Path, typer.Argument(help="The coordinator's signed release, JSON.")],
    json: AsJson = False,
) -> None:
    """Compare a release with a card trained only at home, on our own held-out people."""
    from clients.configuration import load_daemon_configuration
    from clients.home_report import home_report
    from clients.premises import premises_of
    from fedscore.institution_tables import home_report_tables

    configuration = load_daemon_configuration(config)
    found = home_report(
        configuration,
        schema=files.read_schema(Path(configuration.schema)),
        release=files.read_release(release, configuration.policy.coordinator),
        directory=premises_of(configuration).snapshots / "report",
    )
    show(found, home_report_tables(found), json=json)
