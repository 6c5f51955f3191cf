"""Figures in documents, made from results: no figure is typed by hand.

    python -m experiments.documents           rewrites the blocks from experiments/results/*.json
    python -m experiments.documents --check   fails if a block is not what the results say

A block lies between `<!-- NAME -->` and `<!-- end -->`.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from experiments.catalogue import EXPERIMENTS, questions
from experiments.demo_figures import NAME as DEMO
from experiments.demo_figures import DemoFigures, Estimate
from experiments.experiment import Experiment, read_result
from experiments.quality import bank_report, utility_tables
from experiments.quality.catalogue import BANKS, NATION, UTILITY
from federation.errors import ConfigurationError

ROOT: Final = Path(__file__).parent.parent
DOCUMENTS: Final = (ROOT / "README.md", ROOT / "experiments" / "README.md")


def demo_block() -> str:
    """Returns what ten runs of the demo showed."""
    result = read_result(DEMO, DemoFigures)
    if result is None:
        raise ConfigurationError("There is no result yet: python -m experiments.demo_figures.")
    found = result.found
    rows = [
        "| institution | people | bad rate | AUC alone | AUC national | gain |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows += [
        f"| {one.title} | {one.people:,} | {one.bad_rate:.1%} | {one.alone:.3f} | "
        f"{one.national.value:.3f} | {one.gain.value:+.3f} +-{one.gain.reach:.3f} |"
        for one in found.holders
    ]
    clear = sum(one.gain.value > one.gain.reach for one in found.holders)
    return "\n".join(
        [
            *rows,
            f"| mean, each institution counted once | | | | | {found.mean_gain.value:+.4f} "
            f"+-{found.mean_gain.reach:.4f} |",
            "",
            f"Means of {found.runs} runs with other noise, 95 % intervals (gains: noise and "
            f"sampling of held-out people). {clear} of {len(found.holders)} gains leave zero out: "
            "a few hundred held-out people cannot show a gain of one point of AUC. In each run "
            f"every trained person paid epsilon {found.epsilon:g} at delta {found.delta:g} "
            f"(neighbours: {found.neighbours}; against {found.against}), every held-out person "
            "the same for the evaluation. In the first run the door's noisy sums gave AUC "
            f"{found.door.value:.3f} ({found.door.low:.3f} to {found.door.high:.3f}); the exact "
            f"figure, which only a simulation knows, was {found.first_exact:.3f}.",
            "",
            "What columns are worth, AUC on all held-out people, 95 % intervals of the noise: "
            f"{_with_reach(found.shared_only)} if nobody has the five columns that not everybody "
            f"holds, {_with_reach(found.exact)} as staged, {_with_reach(found.everything)} if "
            "everybody has them.",
        ]
    )


def negatives_block() -> str:
    """Returns where a national card does not help."""
    return bank_report.negatives(BANKS.load(), NATION.load(), utility_tables.behind(UTILITY.load()))


def _with_reach(estimate: Estimate) -> str:
    return f"{estimate.value:.4f} +-{estimate.reach:.4f}"


def _block_of(one: Experiment[Any], table: Callable[[Any], str]) -> Callable[[], str]:
    def block() -> str:
        result = one.result()
        if result is None:
            return f"Not run yet: `python -m experiments run {one.name}`."
        return table(result.found)

    return block


BLOCKS: Final[dict[str, Callable[[], str]]] = {
    "demo": demo_block,
    "negatives": negatives_block,
    "questions": questions,
    **{
        name: _block_of(one, table)
        for one in EXPERIMENTS.values()
        for name, table in one.tables.items()
    },
}
"""Every block that a document may have, by its name."""


def rendered(text: str) -> str:
    """Returns a document with its blocks made anew.

    Raises:
        KeyError: the document names a block that does not exist.
    """

    def block(found: re.Match[str]) -> str:
        return f"<!-- {found[1]} -->\n{BLOCKS[found[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", block, text, flags=re.DOTALL)


def main() -> int:
    """Rewrites or checks all documents."""
    if sys.argv[1:] not in ([], ["--check"]):
        print("Usage: python -m experiments.documents [--check]")
        return 2
    stale = []
    for path in DOCUMENTS:
        text = path.read_text()
        if rendered(text) == text:
            continue
        stale.append(path.name)
        if not sys.argv[1:]:
            path.write_text(rendered(text))
    if stale and sys.argv[1:]:
        print(f"Not what the results say: {', '.join(stale)}. Run python -m experiments.documents.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
