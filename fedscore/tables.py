"""Tables for people; the same figures are available as JSON."""

from typing import assert_never

from rich.table import Table

from federation.model.evaluation import Figure
from federation.model.network_release import NetworkRelease
from federation.model.release import AnyRelease, Release
from federation.model.signed_release import SignedRelease
from federation.transcript_audit import Audit
from fedscore.price_sheet import PriceSheet
from fedscore.progress import Trained
from fedscore.simulation import Simulation


def with_interval(figure: Figure | None) -> str:
    """Returns an estimate with half its 95 % interval, "0.771 +-0.014", or a dash.

    All such figures lie within +-1: an interval that reaches further is none.
    """
    if figure is None or (figure.high - figure.low) / 2 > 1:
        return "-"
    return f"{figure.value:.3f} +-{(figure.high - figure.low) / 2:.3f}"


def members_table(simulation: Simulation) -> Table:
    """Returns who took part and what each gained; known in a simulation only."""
    table = Table(
        title="Who took part: AUC on each institution's own held-out people, 95 % intervals",
        caption="Exact figures of single institutions are known in a simulation only.",
    )
    for heading in ("Institution", "Trained", "Held out", "Bad rate", "Alone", "National", "Gain"):
        table.add_column(heading, justify="left" if heading == "Institution" else "right")
    table.add_column("Epsilon charged", justify="right")
    for member in simulation.members:
        table.add_row(
            member.title,
            f"{member.trained:,}",
            f"{member.held_out:,}",
            f"{member.bad_rate:.1%}",
            f"{member.alone.value:.3f}" if member.alone else "-",
            f"{member.national.value:.3f}" if member.national else "-",
            with_interval(member.gain),
            f"{member.charged_trained:.3f} / {member.charged_held_out:.3f}",
        )
    return table


def statement_table(release: SignedRelease) -> Table:
    """Returns the promise of a release, complete."""
    said = release.statement
    table = Table(title="What it cost each person", show_header=False)
    table.add_row("Trained person", f"epsilon {said.epsilon:g} at delta {said.delta:g}")
    table.add_row("Held-out person", f"epsilon {said.held_out_epsilon:g} at delta {said.delta:g}")
    table.add_row("Unit", said.unit)
    table.add_row("Neighbours", said.neighbours)
    table.add_row("Against", said.against)
    table.add_row(
        "Against the coordinator alone",
        f"epsilon {said.epsilon_coordinator_alone:g} trained, "
        f"{said.held_out_epsilon_coordinator_alone:g} held out",
    )
    table.add_row("Rests on", said.assumption)
    return table


def quality_table(release: SignedRelease) -> Table:
    """Returns the quality of a release as the door saw it, with intervals."""
    table = Table(title="Quality on held-out people as the door saw it, 95 % intervals")
    for heading in ("Group", "People, noisy", "Bad rate", "AUC", "KS", "Gini"):
        table.add_column(heading, justify="left" if heading == "Group" else "right")
    rows = [("everybody", release.report.overall)]
    rows += [(f"{one.feature} = {one.group}", one.quality) for one in release.report.groups]
    hidden = sum(quality is None for name, quality in rows[1:])
    for name, quality in rows:
        if quality is None:
            if name == "everybody":
                table.add_row(name, "hidden by the noise", "", "", "", "")
            continue
        table.add_row(
            name,
            f"{quality.people:,.0f}",
            with_interval(quality.bad_rate),
            with_interval(quality.auc),
            with_interval(quality.ks),
            with_interval(quality.gini),
        )
    if hidden:
        table.caption = f"{hidden} group{'s' * (hidden > 1)} hidden by the noise."
    return table


def model_table(release: AnyRelease) -> Table:
    """Returns the model itself: a card bin by bin, a network layer by layer."""
    match release:
        case Release():
            return _card_table(release)
        case NetworkRelease():
            return _network_table(release)
        case _:
            assert_never(release)


def _network_table(release: NetworkRelease) -> Table:
    """Returns the layers of a network."""
    shape = release.shape
    table = Table(
        title="Network: points fall with its log-odds of bad, the sum of both parts",
        caption="Its inputs are the bin of each feature, and the place of each ordered value on "
        "the public grid.",
    )
    for heading in ("Part", "Layers"):
        table.add_column(heading)
    for heading in ("Activation", "Parameters"):
        table.add_column(heading, justify="right")
    additive = shape.inputs + 1
    table.add_row("additive", f"{shape.inputs} inputs to 1", "none", f"{additive:,}")
    if shape.hidden:
        widths = " to ".join(str(width) for width in (*shape.hidden, 1))
        table.add_row(
            "deep",
            f"{shape.inputs} inputs to {widths}",
            shape.activation.value,
            f"{shape.parameters - additive:,}",
        )
    if shape.module is not None:
        table.add_row(
            "module",
            f"{shape.module.name}, {shape.inputs} inputs",
            "its own",
            f"{shape.module.parameters:,}",
        )
    table.add_section()
    table.add_row("all", f"{len(release.grids)} features", "", f"{shape.parameters:,}")
    return table


def _card_table(release: Release) -> Table:
    """Returns the card bin by bin, with the noisy counts it was made from."""
    table = Table(title=f"Scorecard: {release.base} points, plus for each feature")
    for heading in ("Feature", "Bin"):
        table.add_column(heading)
    for heading in ("People, noisy", "Bad rate, noisy", "WoE", "+-", "IV", "Points"):
        table.add_column(heading, justify="right")
    for feature in release.features:
        for number, one in enumerate(feature.bins):
            people = one.good + one.bad
            table.add_row(
                feature.name if number == 0 else "",
                one.label,
                f"{people:,.0f}",
                f"{one.bad / people:.1%}" if people > 0 and one.bad > 0 else "-",
                _evidence(one.weight_of_evidence),
                "" if one.standard_error is None else f"{one.standard_error:.2f}",
                f"{feature.information_value:.3f}" if number == 0 else "",
                f"{one.points:+d}",
                end_section=number == len(feature.bins) - 1,
            )
    return table


def _evidence(weight: float | None) -> str:
    return "no evidence" if weight is None else f"{weight:+.2f}"


def price_tables(sheet: PriceSheet) -> list[Table]:
    """Returns what a plan costs, its noise, and the error to expect."""
    cost = Table(
        title=f"Plan {sheet.plan!r}, {sheet.signature}: what it costs each person at delta "
        f"{sheet.delta:g}"
    )
    for heading in (
        "People",
        "Epsilon",
        "Coordinator alone",
        "PLD",
        "RDP",
        "Budget units",
    ):
        cost.add_column(heading, justify="left" if heading == "People" else "right")
    for one in sheet.populations:
        cost.add_row(
            one.population.replace("_", " "),
            f"{one.epsilon:.6g}",
            f"{one.epsilon_coordinator_alone:.6g}",
            f"{one.epsilon_pld:.6g}",
            f"{one.epsilon_rdp:.6g}",
            f"{one.units:,}",
        )
    if sheet.institution is not None:
        cost.add_row("an institution", f"{sheet.institution:.6g}", "", "", "", "")
    asked = Table(title="What is asked")
    for heading in ("Question", "Of", "Times", "Columns", "Noise, people", "Units each", "Share"):
        asked.add_column(heading, justify="left" if heading in ("Question", "Of") else "right")
    for question in sheet.questions:
        asked.add_row(
            question.question,
            question.population.replace("_", " "),
            str(question.times),
            str(question.columns),
            f"{question.noise_of_total:.1f}",
            f"{question.units_each:,}",
            f"{question.share_of_budget:.1%}",
        )
    error = Table(title="What to expect of the noise (nominal figures, no record was looked at)")
    error.add_column("Figure")
    error.add_column("Error", justify="right")
    expected = sheet.expected
    if sheet.signal_to_noise is None:
        error.add_row("A fine cell's count", f"+-{expected.count:.1f} people")
    else:
        error.add_row("A round's update, at best, over its noise", f"{sheet.signal_to_noise:.2f}")
    if expected.log_odds is not None and expected.points is not None:
        error.add_row(
            "A weight: bin of 5 % of people, bad rate 10 %, not shrunk",
            f"+-{expected.log_odds:.3f} log-odds, {expected.points:.1f} points",
        )
    error.add_row(
        "The reported AUC, 95 %",
        "hidden by the noise" if expected.auc is None else f"+-{expected.auc:.3f}",
    )
    error.add_row("Noise for collusion, sqrt(m/(m-c))", f"x{sheet.collusion_factor:.3f}")
    error.add_row("Noise for slack, sqrt(n/m)", f"x{sheet.slack_factor:.3f}")
    ending = Table(title="Chance of getting to the end")
    for heading in ("An institution leaves a message unanswered", "One attempt", "All of it"):
        ending.add_column(heading, justify="right")
    for chance in sheet.chances:
        ending.add_row(f"{chance.silent:.1%}", f"{chance.attempt:.2%}", f"{chance.training:.2%}")
    return [cost, asked, error, ending]


def audit_tables(audit: Audit) -> list[Table]:
    """Returns what the audit of a transcript found."""
    summary = Table(title="Audit of a transcript", show_header=False)
    summary.add_row("Plan", audit.plan)
    summary.add_row("Attempts, of which opened", f"{audit.attempts}, {audit.opened}")
    summary.add_row(
        "Models",
        "recomputed from the totals" if audit.models else "not checked: name the schema",
    )
    summary.add_row("Findings", str(len(audit.findings)) if audit.findings else "none")
    if not audit.findings:
        return [summary]
    findings = Table(title="Who broke the protocol")
    for heading in ("Line", "Who", "What", "Known from"):
        findings.add_column(heading)
    for one in audit.findings:
        source = "signatures" if one.proven else "the coordinator's word"
        findings.add_row(str(one.line), one.who, one.what, source)
    return [summary, findings]


def training_table(training: Trained) -> Table:
    """Returns what happened in a training over real processes, step by step."""
    table = Table(
        title="What happened, step by step",
        caption=f"{training.seconds_per_round:.2f} seconds a round; release "
        f"{training.release[:16]}... in {training.directory}",
    )
    for heading in ("Step", "Number", "Answers", "Seconds"):
        table.add_column(heading, justify="left" if heading == "Step" else "right")
    for one in training.steps:
        table.add_row(one.step, str(one.number), str(one.answers), f"{one.seconds:.2f}")
    return table
