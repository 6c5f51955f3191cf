"""`fedscore plan advise`: which settings, and what they will give, before there is a plan."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from federation.errors import ConfigurationError
from fedscore import files
from fedscore.showing import AsJson, show

if TYPE_CHECKING:
    from rich.table import Table

    from fedscore.advice import Advice
    from fedscore.advice_law import Held


def plan_advise(
    *,
    people: Annotated[int, typer.Option(help="N: public, rounded number of people.")],
    institutions: Annotated[int, typer.Option(help="How many are invited.")],
    quorum: Annotated[
        int | None, typer.Option(help="m: answers a sum needs; all institutions if not given.")
    ] = None,
    colluders: Annotated[int, typer.Option(help="c >= 1: institutions that may conspire.")] = 1,
    features: Annotated[int | None, typer.Option(help="Scored features, or --schema.")] = None,
    schema: Annotated[Path | None, typer.Option(help="The schema's TOML, or --features.")] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="The promise to each person, in (0, 100], or --loss.")
    ] = None,
    loss: Annotated[
        float | None, typer.Option(help="AUC that may be lost; finds the smallest epsilon.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="At most 1/N; min(1e-6, 1/(10 N)) if not given.")
    ] = None,
    held_out: Annotated[float, typer.Option(help="Share of people never trained on.")] = 0.25,
    spare_attempts: Annotated[int, typer.Option(help="R: rounds that may be asked again.")] = 2,
    bad_rate: Annotated[float, typer.Option(help="To expect, 0.001 to 0.5.")] = 0.1,
    auc: Annotated[
        float, typer.Option(help="To expect of all records in one place, without privacy.")
    ] = 0.75,
    json: AsJson = False,
) -> None:
    """Advise on a plan's settings, and on the AUC that its noise will cost."""
    from fedscore.advice import Wish, advise, least_epsilon, nominal_schema

    if schema is not None and features is None:
        contract, name = files.read_schema(schema), str(schema)
    elif features is not None and schema is None:
        contract, name = nominal_schema(features), "SCHEMA"
    else:
        raise ConfigurationError("Name either --features NUMBER or --schema FILE.")
    wish = Wish(
        schema=contract,
        people=people,
        institutions=institutions,
        quorum=institutions if quorum is None else quorum,
        colluders=colluders,
        spare_attempts=spare_attempts,
        held_out=held_out,
        delta=delta,
        bad_rate=bad_rate,
        auc=auc,
    )
    if (epsilon is None) == (loss is None):
        raise ConfigurationError("Name either --epsilon or the --loss of AUC that is acceptable.")
    target = least_epsilon(wish, loss) if epsilon is None and loss is not None else epsilon
    found = advise(wish, target or 0.0, name)
    for one in found.warnings:
        typer.echo(f"fedscore: warning: {one}", err=True)
    show(found, advice_tables(found), json=json)
    if not json:
        typer.echo(f"\n{found.plan_new}")


def advice_tables(advice: "Advice") -> "list[Table]":
    """Returns the settings, what to expect, and why."""
    from rich.table import Table

    settings = Table(
        title="Settings",
        caption="`plan new` chooses noise, threshold and bins' share itself.",
    )
    for heading in ("Setting", "Value", "Passed by"):
        settings.add_column(heading)
    for row in (
        ("Epsilon of each person", f"{advice.epsilon:g} at delta {advice.delta:g}", "--epsilon"),
        ("Rounds", f"{advice.rounds} and {advice.spare_attempts} spare", "--rounds"),
        ("Answers needed", f"{advice.quorum} of {advice.institutions}", "--quorum"),
        ("Of them may conspire", f"{advice.colluders}", "--colluders"),
        ("Budget for bins", f"{advice.bins_share:.0%}", "follows"),
        (
            "Bins a feature",
            f"at most {advice.most_bins}, of {advice.smallest_bin:,.0f} people or more",
            "follows",
        ),
    ):
        settings.add_row(*row)
    expected = Table(
        title="AUC to expect",
        caption="The middle, and where 9 of 10 trainings of the synthetic federations lay that the "
        f"law was fitted on. {_told(advice.unseen)}; experiments/README.md says which.",
    )
    for heading in ("", "Middle", "From", "To"):
        expected.add_column(heading, justify="left" if not heading else "right")
    lost = advice.loss
    expected.add_row("Without privacy, assumed", f"{advice.auc:.3f}", "", "")
    expected.add_row("Lost", f"{lost.middle:.3f}", f"{lost.low:.3f}", f"{lost.high:.3f}")
    expected.add_row(
        "With privacy", *(f"{advice.auc - one:.3f}" for one in (lost.middle, lost.high, lost.low))
    )
    why = Table(title="Why (nominal figures, no record was looked at)", show_header=False)
    signals = advice.signals
    why.add_row("Trained people, of them bad", f"{signals.trained:,.0f}, {advice.bad_rate:.1%}")
    why.add_row("Noise in a fine cell's count", f"+-{signals.count_noise:,.1f} people")
    why.add_row("Noise in a bin's residuals, mean of all rounds", f"+-{signals.weight_noise:,.1f}")
    why.add_row("A weight's error, bin of 5 % of people", f"+-{signals.weight_error:.3f} log-odds")
    why.add_row("A weight's usual size", f"{signals.weight_signal:.3f} log-odds")
    why.add_row("Noise to signal, all weights", f"{signals.noise_to_signal:.2g}")
    return [settings, expected, why]


def _told(unseen: "Held") -> str:
    """Returns how often the range held on data that the law was not fitted on."""
    share, less, more = (
        count / unseen.trainings for count in (unseen.inside, unseen.less, unseen.more)
    )
    return (
        f"Of {unseen.trainings:,} trainings on data that it was not fitted on, about "
        f"{10 * share:.0f} in 10 fell inside ({less:.0%} lost less, {more:.0%} more)"
    )
