"""`fedscore ledger`: an institution's privacy budget, shown, verified, and recovered."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from federation.errors import ConfigurationError
from fedscore.showing import SETTINGS, AsJson, show

if TYPE_CHECKING:
    from clients.ledger import Head, Ledger
    from clients.policy import Policy
    from clients.premises import Premises
    from federation.privacy.ledger_entries import Recovered

ledger_app = typer.Typer(help="An institution's privacy budget.", **SETTINGS)

_CONFIRMATION = "charge"


@ledger_app.command("show")
def ledger_show(
    ledger: Path,
    delta: Annotated[float, typer.Option(help="Delta at which epsilon is shown.")] = 1e-6,
    json: AsJson = False,
) -> None:
    """Show what an institution's ledger was charged, plan by plan."""
    from clients.ledger import Ledger
    from federation.privacy.accountant import require_target
    from fedscore.ledger_tables import ledger_sheet, ledger_tables
    from fedscore.machine import system_clock

    _, at = require_target(1.0, delta)
    with Ledger.open_read_only(ledger, system_clock) as found:
        sheet = ledger_sheet(found.entries())
    show(sheet, ledger_tables(sheet, at), json=json)


@ledger_app.command("verify")
def ledger_verify(ledger: Path) -> None:
    """Recompute a ledger's whole chain and every rule."""
    from clients.ledger import Ledger
    from federation.privacy.ledger_entries import Recovered
    from fedscore.machine import system_clock

    with Ledger.open_read_only(ledger, system_clock) as found:
        found.verify()
        entries = found.entries()
        sequence, head = found.head()
    typer.echo(f"{ledger} is whole: {len(entries)} entries, sequence {sequence}, head {head}.")
    for one in entries:
        if isinstance(one.entry, Recovered):
            typer.echo(
                f"Entry {one.sequence} charges what is missing up to sequence "
                f"{one.entry.seen_sequence} at its worst, as a person confirmed."
            )


@ledger_app.command("recover")
def ledger_recover(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="The institution's configuration, TOML.")
    ],
    *,
    sequence: Annotated[
        int | None, typer.Option(help="Of a header we signed, by the log; else the latest known.")
    ] = None,
    head: Annotated[str, typer.Option(help="Of the same header, 64 hex digits.")] = "",
    since: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            help="No entry before this day (UTC) is missing; unknown without it.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Confirmed; do not ask.")] = False,
) -> None:
    """Charge missing entries at their worst, so that the daemon starts again; never undone."""
    from datetime import UTC

    from clients.configuration import load_daemon_configuration
    from clients.ledger import Ledger
    from clients.premises import premises_of
    from clients.records import Records
    from fedscore.machine import system_clock

    configuration = load_daemon_configuration(config)
    premises = premises_of(configuration)
    seen = _seen_head(premises, sequence, head)
    with Ledger.open(premises.ledger, system_clock) as ledger:
        recovered = ledger.recovery(
            *seen,
            missing_since=0 if since is None else int(since.replace(tzinfo=UTC).timestamp()),
            limits=configuration.policy.limits,
        )
        typer.echo(f"The ledger is {premises.ledger}.")
        typer.echo(_explanation(ledger, recovered, configuration.policy))
        if not yes and not _is_confirmed():
            raise ConfigurationError("Not confirmed: nothing was charged.")
        now, _ = ledger.recover(recovered)
        if not premises.records.exists():  # what they would have guarded is charged for
            with Records.create(premises.records) as records:
                records.note_own_head(*seen)
            typer.echo(f"Made new records, for there were none: {premises.records}.")
    typer.echo(f"Charged. The ledger goes on from sequence {now}.")


def _is_confirmed() -> bool:
    typed: str = typer.prompt(f"Type `{_CONFIRMATION}` to do so", default="no", show_default=False)
    return typed == _CONFIRMATION


def _seen_head(premises: "Premises", sequence: int | None, head: str) -> "Head":
    """Returns the head that a person names, or the latest that this institution has signed."""
    from clients.records import Records
    from federation.canonical import Digest

    if (sequence is None) != (head == ""):
        raise ConfigurationError("Name both --sequence and --head, or neither of them.")
    if sequence is not None:
        return sequence, Digest(head)
    known = None
    if premises.records.exists():
        with Records(premises.records) as records:
            known = records.own_head()
    if known is None:
        raise ConfigurationError(
            "No head is known that this institution has signed: name --sequence and --head of such "
            "a header, as the daemon's log does."
        )
    return known[0], Digest(known[1])


def _explanation(ledger: "Ledger", recovered: "Recovered", policy: "Policy") -> str:
    """Returns what is missing, what will be charged for it, and what only people can know."""
    from datetime import UTC

    from federation.privacy.accountant import epsilon_of
    from federation.privacy.ledger_entries import GENESIS
    from federation.privacy.units import Delta

    sequence, head = ledger.head()
    balance = ledger.balance(policy.limits)
    worst = recovered.price.trained
    since = datetime.fromtimestamp(recovered.missing_since, UTC)
    lines = [
        f"It ends at sequence {sequence}, head {head if head != GENESIS else 'none'}.",
        f"This institution signed sequence {recovered.seen_sequence}, head {recovered.seen_head}, "
        "which is not in it.",
        f"For what is missing, {worst:,} budget units are charged to trained and to held-out "
        f"people each: epsilon {epsilon_of(worst, Delta(policy.delta)):.4g} at delta "
        f"{policy.delta:g}. The lifetime limit is {policy.limits.lifetime:,}, the yearly "
        f"{policy.limits.yearly:,}.",
    ]
    if balance.open_plans:
        lines.append(f"Open plans end, charged in full: {len(balance.open_plans)}.")
    lines.append(
        "This is the worst only if these limits were never higher while the missing entries were "
        "written. If they were, set them as high in the policy before you confirm."
    )
    if recovered.missing_since:
        lines.append(
            f"It is so only if this copy of the ledger was made on {since:%Y-%m-%d} or later and "
            "the clock was right since then. If you are not sure, leave out --since."
        )
    return "\n".join(lines)
