"""The command line: nouns, then verbs. Everything heavy is imported where it is used."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from federation.errors import ConfigurationError, FedscoreError
from fedscore import files
from fedscore.coordinator_command import coordinator_app
from fedscore.institution_command import institution_app
from fedscore.ledger_command import ledger_app
from fedscore.showing import SETTINGS, AsJson, show, shown

typer.core.HAS_RICH = False  # help is plain text: escaped for rich it would show backslashes
app = typer.Typer(
    help="A national credit score, learned across institutions without pooling records.",
    **SETTINGS,
)
schema_app = typer.Typer(help="The public data contract.", **SETTINGS)
plan_app = typer.Typer(help="What is asked, of whom, at what privacy.", **SETTINGS)
release_app = typer.Typer(help="Released scorecards and networks.", **SETTINGS)
transcript_app = typer.Typer(help="What the coordinator wrote down.", **SETTINGS)
bench_app = typer.Typer(help="How fast this machine is.", **SETTINGS)
app.add_typer(schema_app, name="schema")
app.add_typer(plan_app, name="plan")
app.add_typer(ledger_app, name="ledger")
app.add_typer(release_app, name="release")
app.add_typer(transcript_app, name="transcript")
app.add_typer(bench_app, name="bench")
app.add_typer(institution_app, name="institution")
app.add_typer(coordinator_app, name="coordinator")

_SchemaFile = Annotated[Path, typer.Option("--schema", help="The schema's TOML.")]
_KeyFile = Annotated[
    Path,
    typer.Option(
        "--key",
        help="The coordinator's Ed25519 private key, PEM (openssl genpkey -algorithm ed25519).",
    ),
]
_NewFile = Annotated[
    Path | None, typer.Option("--out", help="New file, written whole; standard output without.")
]
_NotHeld = Annotated[
    str, typer.Option(help="Features the table does not have, separated by commas.")
]


@app.callback(invoke_without_command=True)
def version(shown: Annotated[bool, typer.Option("--version", help="Show it.")] = False) -> None:
    """A national credit score, learned across institutions without pooling records."""
    if shown:
        from importlib.metadata import version as version_of

        typer.echo(f"fedscore {version_of('fedscore')}")
        raise typer.Exit


@schema_app.command("draft")
def schema_draft(table: Path, out: _NewFile = None) -> None:
    """Draft a schema for a table; every bound is yours to confirm."""
    from clients.schema_draft import draft

    _write(draft(table), out)


@schema_app.command("check")
def schema_check(schema: Path, table: Path, not_held: _NotHeld = "") -> None:
    """Hold a table against a schema; nothing is written, nothing is sent."""
    import tempfile

    from clients.snapshot import take_snapshot
    from federation.population import Split
    from federation.privacy.units import Population

    with tempfile.TemporaryDirectory() as directory:
        snapshot = take_snapshot(
            files.read_schema(schema),
            table,
            not_held=files.names_in(not_held),
            split=Split(salt="0" * 64, held_out_fraction=0.0),
            directory=Path(directory) / "check",
        )
        people = snapshot.people(Population.TRAINED)
    typer.echo(f"{table} keeps the contract: {people:,} people.")


@plan_app.command("new")
def plan_new(
    schema: _SchemaFile,
    coordinator: Annotated[
        str, typer.Option(help="Its key, as `coordinator init` printed it, or --key.")
    ] = "",
    key: Annotated[
        Path | None, typer.Option(help="Take the public key from this private key file.")
    ] = None,
    *,
    name: Annotated[str, typer.Option(help="What people call the plan.")],
    federation: Annotated[str, typer.Option(help="The federation's identifier.")],
    purpose: Annotated[str, typer.Option(help="What the score may be used for.")],
    invite: Annotated[str, typer.Option(help="Institutions, separated by commas.")],
    quorum: Annotated[int, typer.Option(help="m: answers a sum needs before it is opened.")],
    colluders: Annotated[int, typer.Option(help="c >= 1: institutions that may conspire.")],
    people: Annotated[int, typer.Option(help="N: public, rounded number of people.")],
    most_per_institution: Annotated[int, typer.Option(help="Public: nobody has more people.")],
    epsilon: Annotated[float, typer.Option(help="The promise to each person, in (0, 100].")],
    delta: Annotated[
        float | None, typer.Option(help="At most 1/N; min(1e-6, 1/(10 N)) if not given.")
    ] = None,
    held_out: Annotated[float, typer.Option(help="Share of people never trained on.")] = 0.25,
    salt: Annotated[
        str | None,
        typer.Option(help="The federation's salt, 64 hex digits; only a new federation draws one."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="T: training rounds.")] = 20,
    spare_attempts: Annotated[int, typer.Option(help="R: rounds that may be asked again.")] = 2,
    days: Annotated[int, typer.Option(help="Validity from now.")] = 30,
    least_auc: Annotated[
        float | None, typer.Option(help="Release nothing clearly worse on people held out.")
    ] = None,
    training: Annotated[
        Path | None,
        typer.Option(help="TOML with [mode] and [model]; a joint scorecard if not given."),
    ] = None,
    out: _NewFile = None,
) -> None:
    """Draft a plan; the noise follows from the target."""
    from datetime import UTC, datetime

    from federation.canonical import public_key_of
    from federation.card import key_read_out
    from federation.plan import plan_toml
    from fedscore.machine import system_clock
    from fedscore.planning import JOINT, SCORECARD, default_delta, new_plan
    from fedscore.price_sheet import warnings_of
    from fedscore.training_file import load_training

    if (key is None) == (coordinator == ""):
        raise ConfigurationError("Name the coordinator by --coordinator or by --key.")
    contract = files.read_schema(schema)
    mode, model = (
        (JOINT, SCORECARD)
        if training is None
        else load_training(files.read_text(training), contract)
    )
    plan = new_plan(
        schema=contract,
        name=name,
        federation=federation,
        purpose=purpose,
        coordinator=(
            key_read_out(coordinator) if key is None else public_key_of(files.read_key(key))
        ),
        invited=tuple(sorted(files.names_in(invite))),
        quorum=quorum,
        colluders=colluders,
        spare_attempts=spare_attempts,
        mode=mode,
        model=model,
        rounds=rounds,
        people=people,
        most_per_institution=most_per_institution,
        held_out_fraction=held_out,
        epsilon=epsilon,
        delta=default_delta(people) if delta is None else delta,
        valid_from=datetime.fromtimestamp(system_clock(), UTC),
        days=days,
        salt=salt,
        least_auc=least_auc,
    )
    _write(plan_toml(plan), out)
    _warn(warnings_of(plan))


@plan_app.command("price")
def plan_price(plan: Path, schema: _SchemaFile, json: AsJson = False) -> None:
    """Show what a plan costs each person, and the noise and error to expect."""
    from fedscore.price_sheet import price_sheet
    from fedscore.tables import price_tables

    sheet = price_sheet(files.read_plan(plan), files.read_schema(schema))
    _warn(sheet.warnings)
    show(sheet, price_tables(sheet), json=json)


@plan_app.command("sign")
def plan_sign(
    plan: Path,
    key: _KeyFile,
    schema: Annotated[
        Path | None, typer.Option(help="The schema's TOML: refuse a plan that costs too much.")
    ] = None,
) -> None:
    """Sign a plan in place with the coordinator's key; with --schema, check its price first."""
    from datetime import UTC, datetime

    from federation.plan import plan_toml
    from federation.pricing import price_of
    from fedscore.machine import system_clock

    read = files.read_plan(plan)
    if datetime.fromtimestamp(system_clock(), UTC) > read.valid_until:
        raise ConfigurationError(
            f"The plan expired on {read.valid_until:%Y-%m-%d %H:%M %Z}. Draft a new one."
        )
    if schema is not None:
        price_of(read, files.read_schema(schema))
    signed = read.signed(files.read_key(key))
    files.replace(plan, plan_toml(signed).encode())
    typer.echo(f"Signed plan {signed.name!r}, digest {signed.digest}.")


@app.command()
def simulate(
    plan: Path,
    schema: _SchemaFile,
    key: _KeyFile,
    out: Annotated[Path, typer.Option(help="New directory for plan, release and ledgers.")],
    *,
    institutions: Annotated[
        Path | None, typer.Option(help="Directory with one configuration TOML per institution.")
    ] = None,
    deal: Annotated[
        Path | None, typer.Option(help="One table, dealt evenly to the invited institutions.")
    ] = None,
    inspect: Annotated[
        bool, typer.Option(help="Also train each institution's own card and compare exactly.")
    ] = True,
    json: AsJson = False,
) -> None:
    """Run a signed plan with all its institutions in this process. No real ledger is touched."""
    import tempfile

    from fedscore.dealing import deal_table
    from fedscore.progress import watching
    from fedscore.simulation import simulate as run
    from fedscore.tables import members_table, quality_table, statement_table

    if (institutions is None) == (deal is None):
        raise ConfigurationError("Name either --institutions DIRECTORY or --deal TABLE.")
    read = files.read_plan(plan)
    contract = files.read_schema(schema)
    if institutions is not None:
        found = files.read_configurations(institutions)
        absent = files.require_invited(found, read, institutions)
        _warn(tuple(f"{name} is invited and has no file: it will not answer" for name in absent))
    with tempfile.TemporaryDirectory() as scratch, watching(read.name, read.rounds) as watch:
        members = (
            found
            if institutions is not None
            else deal_table(read, contract, deal or Path(), Path(scratch))
        )
        simulation = run(
            plan=read,
            schema=contract,
            members=members,
            key=files.read_key(key),
            out=out,
            watch=watch,
            inspect=inspect,
        )
    tables = [statement_table(simulation.release), quality_table(simulation.release)]
    if simulation.members:
        tables.insert(0, members_table(simulation))
    show(simulation, tables, json=json)


@app.command()
def score(
    release: Path,
    table: Path,
    out: Annotated[Path, typer.Option(help="New .parquet or .csv file for scores and reasons.")],
    *,
    not_held: _NotHeld = "",
    coordinator: Annotated[
        str, typer.Option(help="Refuse a release of anyone but this public key.")
    ] = "",
    correction: Annotated[
        Path | None, typer.Option(help="Ours of this release, by `institution report --keep`.")
    ] = None,
) -> None:
    """Score a Parquet or CSV table by a release, with reasons; streams, nothing leaves."""
    from clients.correction import load_correction
    from clients.scoring import score_table

    people = score_table(
        files.read_release(release, coordinator),
        table,
        out,
        not_held=files.names_in(not_held),
        correction=None if correction is None else load_correction(files.read_bytes(correction)),
    )
    typer.echo(f"Scored {people:,} rows into {out}.")


@release_app.command("show")
def releaseshow(release: Path, json: AsJson = False) -> None:
    """Show a release: its promise, its quality and its model."""
    from fedscore.tables import model_table, quality_table, statement_table

    found = files.read_release(release, "")
    show(found, [statement_table(found), quality_table(found), model_table(found)], json=json)


@release_app.command("verify")
def release_verify(
    release: Path,
    plan: Annotated[Path | None, typer.Option(help="The signed plan it must come from.")] = None,
) -> None:
    """Check a release's signature, its parity vectors, and that it comes from a plan."""
    from federation.model.scoring import require_parity
    from federation.outcome import require_outcome

    found = files.read_release(release, "")
    require_parity(found)
    if plan is None:
        typer.echo(
            f"The release is whole and signed by the key it names, {found.coordinator}. "
            "Name the plan with --plan to check that this is your coordinator."
        )
        return
    expected = files.read_plan(plan)
    expected.require_signed()
    require_outcome(found, expected)
    typer.echo(f"The release comes from plan {expected.name!r} and its coordinator.")


@transcript_app.callback()
def transcript() -> None:
    """What the coordinator wrote down of a training."""


@transcript_app.command("audit")
def transcript_audit(
    transcript: Path,
    *,
    schema: Annotated[
        Path | None, typer.Option(help="The schema's TOML: also recompute every model.")
    ] = None,
    release: Annotated[
        Path | None, typer.Option(help="The release that should have come of it.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Recompute what can be recomputed, and say who broke the protocol."""
    from federation.errors import ProtocolError
    from federation.transcript_audit import audit
    from fedscore.tables import audit_tables

    found = audit(
        files.read_bytes(transcript),
        None if schema is None else files.read_schema(schema),
        None if release is None else files.read_release(release, ""),
    )
    show(found, audit_tables(found), json=json)
    if found.findings:
        raise ProtocolError(f"{len(found.findings)} findings: the protocol was not kept.")


@bench_app.callback()
def bench() -> None:
    """How fast this machine is."""


@bench_app.command("step")
def bench_step(
    *,
    people: Annotated[int, typer.Option(help="How many to make up.")] = 1_000_000,
    features: Annotated[int, typer.Option(help="Scored features.")] = 24,
    bins: Annotated[int, typer.Option(help="Bins of each feature, 1 to 64.")] = 16,
    law: Annotated[
        bool, typer.Option("--law", help="Also time 10^4, 10^5, ... people and fit the growth.")
    ] = False,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Also time reading them from a Parquet file.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Time one training step over people made up on disk, as an institution does it."""
    from fedscore.bench import bench_step as run
    from fedscore.bench import bench_tables

    found = run(people=people, features=features, bins=bins, law=law, parquet=parquet)
    show(found, bench_tables(found), json=json)


def main() -> None:
    """Runs the command line; every expected failure is one clear message and its exit code."""
    try:
        _require_text(sys.argv)
        app()
    except FedscoreError as error:
        typer.echo(f"fedscore: {shown(str(error))}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # what the machine refuses where nobody expected it
        where = "" if error.filename is None else f"{error.filename}: "
        typer.echo(f"fedscore: {shown(f'{where}{error.strerror}')}.", err=True)
        sys.exit(ConfigurationError.exit_code)


def _require_text(words: list[str]) -> None:
    """Refuses what a system hands over that is no text: it could be neither shown nor written."""
    try:
        is_text = b"\0" not in "".join(words).encode()
    except UnicodeEncodeError:
        is_text = False
    if not is_text:
        raise ConfigurationError("A word of this command is not text in UTF-8.")


def _warn(warnings: tuple[str, ...]) -> None:
    for one in warnings:
        typer.echo(f"fedscore: warning: {one}", err=True)


def _write(text: str, out: Path | None) -> None:
    if out is None:
        typer.echo(text, nl=False)
    else:
        files.write_new(out, text)
        typer.echo(f"Wrote {out}.")


if __name__ == "__main__":
    main()
