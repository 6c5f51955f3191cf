"""Tables, sentences and plots of `banks` and `nation`, and where a national card does not help."""

from collections.abc import Sequence
from typing import Final

from matplotlib.figure import Figure

from experiments.division import reach
from experiments.quality.bank_results import Bank, Banks, Gain, gain_of, smallest
from experiments.quality.thin_files import ThinFiles
from experiments.tables import GREY, OURS, PEER, markdown, mean

_PAIRS: Final = (("federated", "alone"), ("federated", "pooled"), ("corrected", "alone"))


def banks(found: Banks, *, year: bool) -> str:
    """Returns what each bank gains, a table an epsilon; simulation only."""
    variant = next(one for one in found.variants if one.year is year)
    heads = ["institution", "loans", "bad", "alone", "pooled", "federated", "corrected"]
    heads += [f"{card} - {over}" for card, over in _PAIRS]
    others = [bank for bank in variant.banks if not bank.named]
    parts = []
    for place, epsilon in enumerate(found.epsilons):
        rows = [_banks(found, [bank], place, bank.title) for bank in variant.named]
        rows.append(_banks(found, others, place, f"ten others, mean of {len(others)}"))
        headline = "; ".join(
            f"{card} {_gain(gain_of(found, smallest(variant), place, card, 'alone'))}"
            for card in ("federated", "corrected")
        )
        parts.append(
            f"Epsilon {epsilon:g}:\n\n{markdown(heads, rows)}\n\n**Mean gain over alone of the "
            f"five smallest of the eight: {headline}.**"
        )
    count = len(variant.banks[0].cells[0])
    return "\n\n".join(parts) + f"\n\nRaw figures of banks: simulation only. {count} splits."


def _banks(found: Banks, of: list[Bank], epsilon: int, title: str) -> list[str]:
    cells = [cell for bank in of for cell in bank.cells[epsilon]]
    return [
        title,
        f"{mean(bank.loans for bank in of):,.0f}",
        f"{mean(bank.bad_rate for bank in of):.1%}",
        f"{mean(cell.alone for cell in cells):.3f}",
        f"{mean(cell.pooled for cell in cells):.3f}",
        f"{mean(cell.federated for cell in cells):.3f}",
        f"{mean(cell.corrected for cell in cells):.3f}",
        *(_gain(gain_of(found, of, epsilon, card, over)) for card, over in _PAIRS),
    ]


def banks_by_time(found: Banks) -> str:
    """Returns what each bank gains on loans that were approved later; simulation only."""
    heads = ["institution", "loans to 2005", "later", "bad to 2005", "bad later", "alone", "pooled"]
    for epsilon in found.epsilons:
        heads += [f"federated - alone, epsilon {epsilon:g}", f"corrected - alone, {epsilon:g}"]
    rows = []
    for one in found.later:
        if not one.id.startswith("bank-"):
            continue
        row = [
            one.title,
            f"{one.trained:,}",
            f"{one.tested:,}",
            f"{one.bad_before:.1%}",
            f"{one.bad_after:.1%}",
            f"{one.cells[0].alone:.3f}",
            f"{one.cells[0].pooled:.3f}",
        ]
        for gains in zip(one.gains, one.corrected_gains, strict=True):
            row += [_gain(Gain(mean=value, low=low, high=high)) for value, low, high in gains]
        rows.append(row)
    return markdown(heads, rows)


def thin_files(found: ThinFiles) -> str:
    """Returns the AUC of thin files before and after federation, a table an epsilon."""
    kinds = ("national", "national_corrected", "thin_file", "thin_file_corrected")
    heads = ["the platform has lent to", "platform alone"]
    heads += [_title_of(kind) for kind in kinds]
    parts = []
    for number, epsilon in enumerate(found.epsilons):
        rows = [
            [*_of_book(found, place), *(_over_alone(found, place, number, kind) for kind in kinds)]
            for place in range(len(found.nations[0].books))
        ]
        parts.append(f"Epsilon {epsilon:g}, AUC less alone:\n\n{markdown(heads, rows)}")
    oracle, bank = mean(n.oracle for n in found.nations), mean(n.bank for n in found.nations)
    thin, several = mean(n.thin for n in found.nations), mean(n.at_several for n in found.nations)
    parts.append(
        f"{len(found.nations)} nations of {found.people:,} people; {thin:,.0f} are known to the "
        f"platform only, {several:.0%} to two institutions or more (who pay at each; `units` says "
        f"what that makes of their epsilon). The largest bank's own card reaches {bank:.4f} on "
        f"these people. The true odds themselves reach {oracle:.4f}: nobody can do better."
    )
    return "\n\n".join(parts)


def common_card(found: ThinFiles) -> str:
    """Returns the AUC of thin files by the banks' card of common columns, corrected at home."""
    heads = ["the platform has lent to", "platform alone"]
    heads += [f"common card, corrected, epsilon {epsilon:g}" for epsilon in found.common_epsilons]
    count = range(len(found.common_epsilons))
    released = [[one.common[number] for one in found.nations] for number in count]
    nobody = [f"AUC {mean(of):.4f} +-{reach(of):.4f}" for of in released]
    rows = [["nobody (as released)", "no card", *nobody]]
    rows += [
        [
            *_of_book(found, place),
            *(_over_alone(found, place, number, "common_corrected") for number in count),
        ]
        for place in range(len(found.nations[0].books))
    ]
    return markdown(heads, rows)


def _of_book(found: ThinFiles, place: int) -> list[str]:
    books = [one.books[place] for one in found.nations]
    return [f"{books[0].book:,}", f"{mean(book.alone for book in books):.4f}"]


def _over_alone(found: ThinFiles, place: int, epsilon: int, kind: str) -> str:
    mean, reach = found.gain(place, epsilon, kind)
    return f"{mean:+.4f} ({mean - reach:+.4f} to {mean + reach:+.4f})"


def _title_of(kind: str) -> str:
    title = f"{kind.removesuffix('_corrected').replace('_', '-')} card"
    return f"{title}, corrected" if kind.endswith("_corrected") else title


def answer_of_banks(found: Banks) -> str:
    """Returns one sentence."""
    parts = [
        f"{card} {_gain(gain_of(found, smallest(variant), 0, card, 'alone'))} "
        f"{'with' if variant.year else 'without'} the year"
        for card in ("federated", "corrected")
        for variant in found.variants
    ]
    epsilon = found.epsilons[0]
    return (
        f"AUC over their own cards of the five smallest of the eight, epsilon {epsilon:g}, 95 % "
        f"intervals over splits: {', '.join(parts)}"
    )


def answer_of_thin_files(found: ThinFiles) -> str:
    """Returns one sentence."""
    sizes = [book.book for book in found.nations[0].books]
    shown = (0, len(sizes) - 1)
    usual = found.common_epsilons.index(found.epsilons[0])
    parts = [
        f"{card} " + " and ".join(_over_alone(found, place, number, kind) for place in shown)
        for card, number, kind in (
            ("the banks' card of common columns, corrected at home,", usual, "common_corrected"),
            ("thin-file card", 0, "thin_file"),
            ("national card", 0, "national"),
        )
    ]
    nobody = mean(one.common[usual] for one in found.nations)
    reach_of_nobody = reach([one.common[usual] for one in found.nations])
    return (
        f"AUC over the platform's own card, epsilon {found.epsilons[0]:g}, where it has lent to "
        f"{' and to '.join(f'{sizes[place]:,}' for place in shown)}, 95 % intervals over nations: "
        f"{'; '.join(parts)}; AUC {nobody:.3f} +-{reach_of_nobody:.3f} instead of no card where it "
        "has lent to nobody"
    )


def negatives(banks: Banks, thin: ThinFiles, behind: Sequence[str]) -> str:
    """Returns where a national card does not help, for README.md.

    Args:
        banks: real ones.
        thin: files, of synthetic nations.
        behind: a line for each data set on which a trusted curator does better.
    """
    few, count = smallest(banks.variants[0]), len(banks.variants[0].named)

    def at_banks(card: str) -> str:
        return "; ".join(
            " and ".join(
                f"{_gain(gain_of(banks, smallest(variant), place, card, 'alone'))} "
                f"at epsilon {epsilon:g}"
                for place, epsilon in enumerate(banks.epsilons)
            )
            + (" with" if variant.year else " without")
            + " the year of approval"
            for variant in banks.variants
        )

    def at_platform(kind: str) -> str:
        books = thin.nations[0].books
        shown = (0, len(books) - 1)
        return " and ".join(
            f"{_over_alone(thin, place, 0, kind)} where it has lent to {books[place].book:,}"
            for place in shown
        )

    return (
        f"- A national card as it is does not serve the {count} largest banks of the SBA's loans "
        f"better than their own cards do: over the {len(few)} smallest of them its AUC differs on "
        f"average by {at_banks('federated')}.\n"
        "- Thin files are worse off with the national card than with the platform's own, synthetic "
        f"nations, epsilon {thin.epsilons[0]:g}: {at_platform('national')}.\n"
        "- A correction that an institution trains at home, on top of the national card, costs no "
        f"privacy and makes up for it: {at_banks('corrected')}, for the same {len(few)} banks. The "
        "product's own is a ridge, chosen more carefully (`institution report`)."
        + "".join(f"\n- {line}" for line in behind)
    )


def _gain(gain: Gain) -> str:
    return f"{gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"


def plot_of_banks(found: Banks) -> Figure:
    """A forest plot of what each institution gains over its own card."""
    figure = Figure(figsize=(5.2 * len(found.variants), 7.2), layout="constrained")
    for place, variant in enumerate(found.variants):
        axes = figure.add_subplot(1, len(found.variants), place + 1)
        for card, color, shift, marker in (
            ("federated", PEER, -0.15, "s"),
            ("corrected", OURS, 0.15, "o"),
        ):
            gains = [gain_of(found, [bank], 0, card, "alone") for bank in variant.banks]
            axes.errorbar(
                [gain.mean for gain in gains],
                [row + shift for row in range(len(gains))],
                xerr=[[g.mean - g.low for g in gains], [g.high - g.mean for g in gains]],
                color=color,
                linestyle="none",
                marker=marker,
                fillstyle="none" if card == "federated" else "full",
                markersize=4,
                capsize=2,
                label=card,
            )
        labels = [f"{bank.title} ({bank.loans:,})" for bank in variant.banks]
        axes.set_yticks(range(len(labels)), labels if place == 0 else [""] * len(labels))
        axes.invert_yaxis()
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlabel("AUC less that of the bank's own card, 95 % interval")
        year = "with" if variant.year else "without"
        axes.set_title(f"{year} the year, epsilon {found.epsilons[0]:g} (simulation only)")
        axes.legend(fontsize=8)
    return figure


def plot_of_thin_files(found: ThinFiles) -> Figure:
    """AUC of thin files against the size of the platform's book."""
    figure = Figure(figsize=(6.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    sizes = [book.book for book in found.nations[0].books]
    count = len(found.nations)
    alone = [sum(n.books[i].alone for n in found.nations) / count for i in range(len(sizes))]
    axes.plot(sizes, alone, color=PEER, linestyle="-.", marker="s", label="platform alone")
    usual = found.common_epsilons.index(found.epsilons[0])
    for kind, place, label, line in (
        ("national", 0, "national card", ":"),
        ("thin_file", 0, "thin-file card", "--"),
        ("common_corrected", usual, "banks' card of common columns, corrected at home", "-"),
    ):
        after = [found.mean(i, place, kind) for i in range(len(sizes))]
        axes.plot(sizes, after, color=OURS, linestyle=line, marker="o", label=label)
    # Intervals are those of the differences, in the table: nations move all lines together.
    nobody = sum(one.common[usual] for one in found.nations) / count
    label = "that card where it has lent to nobody"
    axes.axhline(nobody, color=OURS, linestyle=":", linewidth=1, label=label)
    oracle = sum(one.oracle for one in found.nations) / count
    axes.axhline(oracle, color=GREY, linewidth=1, label="the true odds")
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("people that the platform has lent to")
    axes.set_ylabel("AUC of people known to the platform only")
    axes.set_title(f"epsilon {found.epsilons[0]:g}; means over {count} nations")
    axes.legend(fontsize=8)
    return figure
