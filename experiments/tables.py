"""Results as Markdown tables and sentences, for the documents and the terminal.

Every figure that a document shows is made here, from a committed result.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from scipy import stats

from experiments.bank_results import Bank, Banks, Gain, gain_of, smallest
from experiments.comparison import Comparison
from experiments.confirmation import Confirmation, differences
from experiments.datasets import DATASETS, GMSC, TAIWAN, Dataset
from experiments.division import Score, reach
from experiments.rounds import OfSet, Rounds
from experiments.sources import Sources
from experiments.thin_files import ThinFiles

MADDOCK: Final = {0.1: 0.843, 0.5: 0.845, 1.0: 0.847}
"""Maddock et al. 2022 (arXiv:2210.02910), best of their table on Give Me Some Credit: cited."""


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table; columns after the first are right-aligned."""
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def welch(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Returns the 95 % interval of the difference of two means (Welch 1947).

    Args:
        first: independent values, at least two; its mean counts positive.
        second: likewise.
    """
    interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    return float(interval.low), float(interval.high)


def comparison(found: Comparison, dataset: Dataset) -> str:
    """Returns a data set's test AUCs at each epsilon, and those without privacy."""
    one = found.of(dataset)
    cited = dataset == GMSC
    heads = ["epsilon", "fedscore, ten institutions", "DP-EBM, trusted curator"]
    rows = []
    for row in one.ours.rows:
        cells = [
            f"{row.epsilon:g}",
            f"{row.fedscore.mean:.4f} +-{row.fedscore.reach:.4f}",
            f"{row.dp_ebm.mean:.4f} +-{row.dp_ebm.reach:.4f}",
        ]
        if cited:
            known = MADDOCK.get(row.epsilon)
            cells.append("" if known is None else f"{known:.3f}")
        rows.append([*cells, f"{row.fedscore.seconds:.1f}", f"{row.dp_ebm.seconds:.1f}"])
    heads += ["Maddock et al. 2022 (cited)"] if cited else []
    table = markdown([*heads, "seconds, fedscore", "seconds, DP-EBM"], rows)
    alone = one.peers.alone
    return (
        f"{table}\n\nWithout any privacy: each of the ten alone {sum(alone) / len(alone):.4f} on "
        f"average ({min(alone):.4f} to {max(alone):.4f}); on pooled raw data our card "
        f"{one.peers.card:.4f}, logistic regression {one.peers.logistic:.4f}, XGBoost "
        f"{one.peers.xgboost:.4f}: no noise, so exact on this split. Seconds: of the median seed."
        + (" Cited: another split, without an interval." if cited else "")
    )


def confirmation(found: Confirmation) -> str:
    """Returns the paired differences on the splits that nobody had looked at."""
    rows = [
        [
            DATASETS[one.dataset].title,
            f"{one.epsilon:g}",
            f"{one.fedscore:.4f}",
            f"{one.dp_ebm:.4f}",
            f"{one.mean:+.4f}",
            f"{one.mean - one.reach:+.4f} to {one.mean + one.reach:+.4f}",
            ", ".join(f"{value:+.4f}" for value in one.splits),
        ]
        for one in differences(found)
    ]
    heads = ["data", "epsilon", "fedscore", "DP-EBM", "difference", "95 % interval", "each split"]
    return (
        f"{markdown(heads, rows)}\n\nEach interval is 95 % by itself, not corrected for their "
        f"number. Settings frozen in commit `{found.commit[:12]}`."
    )


def rounds(found: Rounds) -> str:
    """Returns test AUC by number of rounds."""
    heads = [f"{count} rounds" for count in found.counts]
    return _by(found, heads, found.by_count)


def bins_share(found: Rounds) -> str:
    """Returns test AUC by the share of the budget that bins get."""
    heads = [f"{share:.0%} for bins" for share in found.shares]
    return _by(found, heads, found.by_share)


def _by(found: Rounds, heads: list[str], of: Callable[[OfSet, float], list[Score]]) -> str:
    rows = [
        [
            DATASETS[one.dataset].title,
            f"{epsilon:g}",
            *(f"{score.mean:.4f} +-{score.reach:.4f}" for score in of(one, epsilon)),
        ]
        for one in found.sets
        for epsilon in one.epsilons
    ]
    return markdown(["data", "epsilon", *heads], rows)


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


_PAIRS: Final = (("federated", "alone"), ("federated", "pooled"), ("corrected", "alone"))


def _banks(found: Banks, of: list[Bank], epsilon: int, title: str) -> list[str]:
    cells = [cell for bank in of for cell in bank.cells[epsilon]]
    return [
        title,
        f"{_mean(bank.loans for bank in of):,.0f}",
        f"{_mean(bank.bad_rate for bank in of):.1%}",
        f"{_mean(cell.alone for cell in cells):.3f}",
        f"{_mean(cell.pooled for cell in cells):.3f}",
        f"{_mean(cell.federated for cell in cells):.3f}",
        f"{_mean(cell.corrected for cell in cells):.3f}",
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
    oracle, bank = _mean(n.oracle for n in found.nations), _mean(n.bank for n in found.nations)
    thin, several = _mean(n.thin for n in found.nations), _mean(n.at_several for n in found.nations)
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
    nobody = [f"AUC {_mean(of):.4f} +-{reach(of):.4f}" for of in released]
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
    return [f"{books[0].book:,}", f"{_mean(book.alone for book in books):.4f}"]


def _over_alone(found: ThinFiles, place: int, epsilon: int, kind: str) -> str:
    mean, reach = found.gain(place, epsilon, kind)
    return f"{mean:+.4f} ({mean - reach:+.4f} to {mean + reach:+.4f})"


def _title_of(kind: str) -> str:
    title = f"{kind.removesuffix('_corrected').replace('_', '-')} card"
    return f"{title}, corrected" if kind.endswith("_corrected") else title


def sources(found: Sources) -> str:
    """Returns rows a second and memory by the way a table is read."""
    heads = ["way", "rows a second", "seconds", "CPU seconds", "peak MB", "of which libraries"]
    rows = [
        [
            one.name,
            f"{found.rate(one):,.0f}",
            f"{one.seconds:.2f}",
            f"{one.cpu:.2f}",
            f"{one.peak_bytes / 1e6:,.0f}",
            f"{one.idle_bytes / 1e6:,.0f}",
        ]
        for one in found.ways
    ]
    return (
        f"{markdown(heads, rows)}\n\n{found.rows:,} rows of {found.columns} doubles, a key and an "
        f"outcome; PostgreSQL {found.server} on the same machine."
    )


def answer_of_comparison(found: Comparison) -> str:
    """Returns one sentence."""
    return (
        "; ".join(
            f"{dataset.title}: "
            + ", ".join(
                _difference(row.fedscore, row.dp_ebm) for row in found.of(dataset).ours.rows
            )
            for dataset in (GMSC, TAIWAN)
            if any(one.ours.dataset == dataset.name for one in found.sets)
        )
        + " AUC against DP-EBM at epsilon 0.1, 0.5, 1, 4 (split 0; 95 % intervals over noise seeds)"
    )


def _difference(first: Score, second: Score) -> str:
    low, high = welch(first.auc, second.auc)
    return f"{first.mean - second.mean:+.4f} ({low:+.4f} to {high:+.4f})"


def answer_of_confirmation(found: Confirmation) -> str:
    """Returns one sentence."""
    all_of_them = differences(found)
    ahead = sum(one.mean >= 0 for one in all_of_them)
    clear = sum(one.mean - one.reach > 0 for one in all_of_them)
    worst = min(all_of_them, key=lambda one: one.mean)
    return (
        f"the mean is ahead in {ahead} of {len(all_of_them)} cases, beyond its own 95 % interval "
        f"over splits in {clear}; the lowest is {worst.mean:+.4f} +-{worst.reach:.4f} "
        f"({DATASETS[worst.dataset].title}, epsilon {worst.epsilon:g})"
    )


def answer_of_rounds(found: Rounds) -> str:
    """Returns one sentence."""
    usual = found.counts.index(found.usual_count)
    parts = []
    for place, count in enumerate(found.counts):
        if count == found.usual_count:
            continue
        pairs = [
            (scores[place], scores[usual])
            for one in found.sets
            for scores in (found.by_count(one, epsilon) for epsilon in one.epsilons)
        ]
        pairs.sort(key=lambda pair: pair[0].mean - pair[1].mean)
        parts.append(f"{count} rounds {_difference(*pairs[0])} and {_difference(*pairs[-1])}")
    return (
        f"test AUC against {found.usual_count} rounds, the lowest and the highest of all epsilons "
        f"and both sets, each with its own 95 % interval over noise seeds: {', '.join(parts)}"
    )


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
    nobody = _mean(one.common[usual] for one in found.nations)
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


def answer_of_sources(found: Sources) -> str:
    """Returns one sentence."""
    copy, cursor, *snapshots = found.ways
    return (
        f"COPY fetches {found.rate(copy):,.0f} rows a second, {cursor.seconds / copy.seconds:.1f} "
        "times as many as a server-side cursor; "
        + ", ".join(f"a {one.name} takes {found.rate(one):,.0f}" for one in snapshots)
    )


def _gain(gain: Gain) -> str:
    return f"{gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
