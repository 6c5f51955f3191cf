"""`fedscore institution`: an institution on its own machine, and what its people decide."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from federation.errors import ConfigurationError, FedscoreError, PrivacyError
from fedscore import files
from fedscore.institution_upkeep import institution_doctor, institution_report
from fedscore.showing import SETTINGS, AsJson, show

if TYPE_CHECKING:
    from clients.configuration import DaemonConfiguration
    from clients.considering import Consideration
    from clients.decisions import Decision
    from clients.premises import Premises

institution_app = typer.Typer(help="An institution on its own machine.", **SETTINGS)
institution_app.command("doctor")(institution_doctor)
institution_app.command("report")(institution_report)

_Configuration = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="The institution's configuration, TOML.")
]
_Plan = Annotated[Path, typer.Argument(help="The signed plan, TOML.")]


@institution_app.command("init")
def institution_init(
    directory: Annotated[Path, typer.Argument(help="New private directory.")],
    *,
    identifier: Annotated[str, typer.Option("--id", help="As plans will invite it.")],
    title: Annotated[str, typer.Option(help="For people.")],
    table: Annotated[Path, typer.Option(help="Parquet or CSV, one person after the other.")],
    most_people: Annotated[int, typer.Option(help="Public; the table never has more people.")],
    not_held: Annotated[
        str, typer.Option(help="Features the table does not have, separated by commas.")
    ] = "",
    federation: Annotated[str, typer.Option(help="The federation's identifier.")],
    salt: Annotated[str, typer.Option(help="The federation's salt, 64 hex digits.")],
    held_out: Annotated[float, typer.Option(help="The federation's held-out share.")],
    coordinator: Annotated[
        str, typer.Option(help="The coordinator's key, as its people told you by another way.")
    ],
    address: Annotated[str, typer.Option(help="The coordinator's host:port.")],
    purpose: Annotated[str, typer.Option(help="Allowed purposes, separated by commas.")],
    delta: Annotated[float, typer.Option(help="At which the limits below are stated.")],
    epsilon_per_plan: Annotated[float, typer.Option(help="Largest epsilon of one plan.")],
    epsilon_per_year: Annotated[float, typer.Option(help="Largest epsilon of any 365 days.")],
    epsilon_lifetime: Annotated[float, typer.Option(help="Largest epsilon ever.")],
) -> None:
    """Make an institution: its keys, an empty ledger, its configuration, and its public card."""
    from federation.card import fingerprint_of, key_read_out
    from fedscore.institution_making import CARD_FILE, CONFIGURATION_FILE, make_institution

    _, card = make_institution(
        directory,
        id=identifier,
        title=title,
        most_people=most_people,
        table=str(table.resolve()),
        not_held=sorted(files.names_in(not_held)),
        federation=federation,
        salt=salt,
        held_out_fraction=held_out,
        address=address,
        coordinator=key_read_out(coordinator),
        purposes=sorted(files.names_in(purpose)),
        delta=delta,
        epsilon_per_plan=epsilon_per_plan,
        epsilon_per_year=epsilon_per_year,
        epsilon_lifetime=epsilon_lifetime,
    )
    typer.echo(
        f"Made {directory}. Read {directory / CONFIGURATION_FILE}, and put schema.toml, ca.pem and "
        "roster.toml of the federation beside it.\n"
        f"Hand {directory / CARD_FILE} to the coordinator, and tell them this by another way:\n"
        f"{fingerprint_of(card.key)}"
    )


@institution_app.command("consider")
def institution_consider(config: _Configuration, plan: _Plan, json: AsJson = False) -> None:
    """Hold a plan against policy and budget: nothing is sent and nothing is written."""
    from fedscore.institution_tables import consideration_tables

    considered = _considered(config, plan)
    show(considered, consideration_tables(considered), json=json)
    _require_all(considered)


@institution_app.command("approve")
def institution_approve(config: _Configuration, plan: _Plan) -> None:
    """Let the daemon take part in a plan that keeps every rule of the policy."""
    from clients.configuration import Approval
    from clients.decisions import Decision

    considered = _considered(config, plan)
    _require_all(considered)
    if considered.approval is Approval.AUTOMATIC and considered.decision is not Decision.REFUSED:
        raise ConfigurationError(
            f'Nothing to approve: {config} says approval = "automatic". Refuse the plan if you do '
            "not want it."
        )
    _decide(config, considered.plan, Decision.APPROVED)
    typer.echo(f"Approved plan {considered.name!r}, digest {considered.plan}.")


@institution_app.command("refuse")
def institution_refuse(config: _Configuration, plan: _Plan) -> None:
    """Keep the daemon out of a plan, whatever the policy says."""
    from clients.decisions import Decision

    found = files.read_plan(plan)
    is_entered = _decide(config, found.digest, Decision.REFUSED)
    typer.echo(f"Refused plan {found.name!r}, digest {found.digest}.")
    if is_entered:
        typer.echo(
            "It was entered before: from now on nothing more of it is answered. What was answered "
            "stays charged, the rest returns when the plan ends or expires."
        )


@institution_app.command("withdraw")
def institution_withdraw(
    config: _Configuration,
    *,
    key_file: Annotated[
        Path, typer.Option(help="Person keys as the table has them, one a line; never arguments.")
    ],
) -> None:
    """Take people out for good: from the next question on, and of every snapshot to come."""
    from clients.withdrawals import Withdrawals
    from federation.schema import ROW_AS_KEY

    configuration, premises = _opened(config)
    if files.read_schema(Path(configuration.schema)).person_key == ROW_AS_KEY:
        raise ConfigurationError(
            'This schema has person_key = "row": nobody has a key by which they could be found. '
            "Delete their rows from the table and start the daemon again."
        )
    lines = (line.removesuffix("\r") for line in files.read_text(key_file).split("\n"))
    keys = frozenset(line for line in lines if line)
    if not keys:
        raise ConfigurationError(f"{key_file} names nobody: one person key a line.")
    added = Withdrawals(premises.withdrawals).add(configuration.split, keys)
    typer.echo(
        f"{len(keys):,} keys, {added:,} of them new. Whoever has them is in no question from the "
        "next one on. Delete the file of keys."
    )


@institution_app.command("run")
def institution_run(config: _Configuration) -> None:
    """Answer the coordinator until SIGTERM; the log is JSON lines on standard error."""
    import logging
    import signal
    import threading

    from fedscore.json_log import log_as_json

    log_as_json()
    log = logging.getLogger("fedscore.institution")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        files.require_flower()
        from clients.daemon import run_daemon
        from fedscore.machine import system_clock, system_entropy

        configuration, premises = _opened(config, log.warning)
        run_daemon(
            configuration,
            premises,
            identity=files.read_key(premises.identity),
            schema=files.read_schema(Path(configuration.schema)),
            clock=system_clock,
            noise_entropy=system_entropy,
            mask_entropy=system_entropy,
            stop=stop,
        )
    except FedscoreError as error:
        log.error("%s", error)
        raise typer.Exit(error.exit_code) from error


@institution_app.command("status")
def institution_status(config: _Configuration, json: AsJson = False) -> None:
    """Show what the ledger was charged, what is left, and which plans are open."""
    from clients.ledger import Ledger
    from fedscore.institution_tables import balance_table
    from fedscore.machine import system_clock

    configuration, premises = _opened(config)
    with Ledger.open_read_only(premises.ledger, system_clock) as ledger:
        balance = ledger.balance(configuration.policy.limits)
    show(balance, [balance_table(balance, configuration.title)], json=json)


def _told(override: object) -> None:
    typer.echo(f"fedscore: {override}", err=True)


def _opened(
    config: Path, tell: Callable[[object], None] = _told
) -> "tuple[DaemonConfiguration, Premises]":
    """Opens what the configuration names, and says what the environment overrides of it."""
    import os

    from clients.configuration import load_daemon_configuration
    from clients.environment import overrides_in
    from clients.premises import premises_of

    configuration = load_daemon_configuration(config)
    for override in overrides_in(os.environ):
        tell(override)
    return configuration, premises_of(configuration)


def _considered(config: Path, plan: Path) -> "Consideration":
    from datetime import UTC, datetime

    from clients.considering import consideration, pinned_roster
    from clients.decisions import Decisions
    from clients.disk_space import space_rule
    from clients.ledger import Ledger
    from federation.canonical import Digest
    from fedscore.machine import system_clock

    configuration, premises = _opened(config)
    found, schema = files.read_plan(plan), files.read_schema(Path(configuration.schema))
    with Ledger.open_read_only(premises.ledger, system_clock) as ledger:
        balance = ledger.balance(configuration.policy.limits)
    return consideration(
        found,
        configuration=configuration,
        schema=schema,
        roster=pinned_roster(configuration),
        balance=balance,
        decision=Decisions(premises.decisions).of(Digest(found.digest)),
        space=space_rule(configuration, premises, schema),
        now=datetime.fromtimestamp(system_clock(), UTC),
    )


def _require_all(considered: "Consideration") -> None:
    broken = [rule.text for rule in considered.rules if not rule.holds]
    if broken:
        raise PrivacyError(f"The policy refuses this plan: {'; '.join(broken)}.")


def _decide(config: Path, plan: str, decision: "Decision") -> bool:
    """Notes a decision and returns whether the plan was entered before."""
    from clients.decisions import Decision, Decisions
    from clients.ledger import Ledger
    from federation.canonical import Digest
    from fedscore.machine import system_clock

    _, premises = _opened(config)
    with Ledger.open_read_only(premises.ledger, system_clock) as ledger:
        is_entered = ledger.knows(plan)
    if is_entered and decision is Decision.APPROVED:
        raise ConfigurationError(
            "This plan was entered already, and a plan is entered once: approving changes nothing."
        )
    Decisions(premises.decisions).note(Digest(plan), decision)
    return is_entered
