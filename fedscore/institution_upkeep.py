"""`fedscore institution doctor` and `report`: what is wrong here, and what a release brings us."""

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from federation.errors import ConfigurationError
from fedscore import files
from fedscore.showing import AsJson, show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Configuration = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="The institution's configuration, TOML.")
]


def institution_report(
    config: Configuration,
    release: Annotated[Path, typer.Argument(help="The coordinator's signed release, JSON.")],
    *,
    keep: Annotated[
        Path | None,
        typer.Option(help="New private file for our correction, for `score --correction`."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Compare a release with a card of our own, and with our correction of it, on our people."""
    from clients.configuration import load_daemon_configuration
    from clients.correction import correction_json
    from clients.home_report import home_report
    from clients.premises import premises_of
    from clients.reading import Reading
    from clients.withdrawals import Withdrawals
    from fedscore.institution_tables import home_report_tables
    from fedscore.machine import system_clock

    configuration = load_daemon_configuration(config)
    premises = premises_of(configuration)
    schema = files.read_schema(Path(configuration.schema))
    found, correction = home_report(
        configuration,
        schema=schema,
        release=files.read_release(release, configuration.policy.coordinator),
        read_table=Reading(
            configuration=configuration,
            schema=schema,
            split=configuration.split,
            clock=system_clock,
            withdrawals=Withdrawals(premises.withdrawals),
        ),
        directory=premises.snapshots / "report",
    )
    if keep is not None:
        files.write_private(keep, correction_json(correction))
    show(found, home_report_tables(found), json=json)


def institution_doctor(config: Configuration, json: AsJson = False) -> None:
    """Look at everything the daemon needs, say what is wrong and what to do; change nothing."""
    from clients.doctoring import CHECKS, Tools, examine
    from clients.finding import Verdict
    from fedscore.institution_tables import finding_table
    from fedscore.machine import system_clock

    with _counting_rows() as on_rows:
        findings = tuple(
            examine(
                config,
                Tools(
                    clock=system_clock,
                    read_key=files.read_key,
                    read_schema=files.read_schema,
                    on_rows=on_rows,
                ),
            )
        )
    show(findings, [finding_table(findings)], json=json)
    broken = [one.check for one in findings if one.verdict is Verdict.FAIL]
    if broken:
        raise ConfigurationError(
            f"{len(broken)} of {len(CHECKS)} checks failed: {', '.join(broken)}."
        )


@contextmanager
def _counting_rows() -> "Iterator[Callable[[int], None]]":
    """Yields a function that shows a person how many rows were read."""
    from rich.console import Console

    with Console(stderr=True).status("Looking...") as status:
        yield lambda rows: status.update(f"Reading the table: {rows:,} rows")
