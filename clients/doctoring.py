"""Looks at everything that a long-running institution needs, and changes nothing.

Start reading at `examine`: one step a check, in order. A check that rests on another one that
failed is skipped and says so; nothing stops the others.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clients import premises_check, table_check
from clients.configuration import DaemonConfiguration, load_daemon_configuration
from clients.coordinator_check import authority, reached
from clients.finding import Finding, Verdict, failed, passed, skipped
from clients.flower_version import flower
from clients.premises import premises_named_by
from clients.reading import Reading
from clients.withdrawals import Withdrawals
from federation.errors import ConfigurationError
from federation.schema import Schema

CHECKS: Final = (
    "flower", "configuration", "state", "identity key", "node key", "roster", "schema",
    "authority", "coordinator", "server certificate", "clock", "ledger", "records", "withdrawals",
    "daemon", "table", "disk",
)  # fmt: skip
"""All of them, in order; `examine` yields one finding for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What the doctor is handed.

    Attributes:
        clock: whole seconds since 1970.
        read_key: returns the identity key in a file, as `run` reads it.
        read_schema: returns the schema in a file, likewise.
        on_rows: told how many rows of the table were read so far.
    """

    clock: Callable[[], int]
    read_key: Callable[[Path], Ed25519PrivateKey]
    read_schema: Callable[[Path], Schema]
    on_rows: Callable[[int], None]


def examine(path: Path, tools: Tools) -> Iterator[Finding]:
    """Yields one finding for each of `CHECKS`, each as soon as it is known.

    Args:
        path: of the configuration, in whatever state.
        tools: of this machine.
    """
    yield flower()
    try:
        configuration = load_daemon_configuration(path)
    except ConfigurationError as error:
        yield failed(
            "configuration",
            str(error),
            "Correct this in the file; `fedscore institution init` writes one that holds.",
        )
        for check in CHECKS[2:]:
            yield skipped(check, "the configuration cannot be read")
        return
    yield passed(
        "configuration", f"{configuration.id} of the federation {configuration.federation}"
    )
    yield from _of(configuration, path.resolve().parent / "card.toml", tools)


def _of(configuration: DaemonConfiguration, card: Path, tools: Tools) -> Iterator[Finding]:
    premises = premises_named_by(configuration)
    state = premises_check.state(premises)
    yield state
    identity, key = premises_check.identity(configuration, premises, card, tools.read_key)
    yield identity
    yield premises_check.node(premises, None if key is None else card)
    yield premises_check.roster(configuration, key)
    schema_found, schema = table_check.schema(configuration, tools.read_schema)
    yield schema_found

    yield authority(Path(configuration.root_certificates), tools.clock)
    yield from reached(configuration, tools.clock)

    yield premises_check.ledger(configuration, premises, tools.clock)
    yield premises_check.records(premises)
    withdrawn = premises_check.withdrawals(premises)
    yield withdrawn
    yield premises_check.daemon(configuration, premises)

    if schema is None:
        yield skipped("table", "there is no schema to hold it against")
    elif state.verdict is Verdict.FAIL:
        yield skipped("table", "the keys of people wait in the state directory, which is not sound")
    elif withdrawn.verdict is Verdict.FAIL:
        yield skipped("table", "nobody knows who has withdrawn")
    else:
        reading = Reading(
            configuration=configuration,
            schema=schema,
            split=configuration.split,
            clock=tools.clock,
            withdrawals=Withdrawals(premises.withdrawals),
        )
        table = table_check.table(configuration, reading, premises, tools.on_rows)
        yield table
        if table.verdict is Verdict.PASS:
            yield table_check.disk(configuration, premises, schema)
            return
    yield skipped("disk", "without the table nobody knows what is needed")
