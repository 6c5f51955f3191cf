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

import msgspec

from experiments.catalogue import EXPERIMENTS, questions
from experiments.experiment import Experiment
from fedscore.demo.summary import Summary

ROOT: Final = Path(__file__).parent.parent
DEMO: Final = Path(__file__).parent / "results" / "demo.json"
DOCUMENTS: Final = (ROOT / "README.md", ROOT / "experiments" / "README.md")


def demo_block() -> str:
    """Returns what one run of `make demo` showed."""
    found = msgspec.json.decode(DEMO.read_bytes(), type=Summary)
    rows = [
        "| institution | people | bad rate | AUC alone | AUC national | gain, 95 % interval |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    rows += [
        f"| {one.title} | {one.people:,} | {one.bad_rate:.1%} | {one.alone:.3f} | "
        f"{one.national:.3f} | {one.gain:+.3f} ({one.gain_low:+.3f} to {one.gain_high:+.3f}) |"
        for one in found.members
    ]
    return "\n".join(
        [
            *rows,
            "",
            f"Each trained person paid epsilon {found.epsilon:g} at delta {found.delta:g} "
            f"(neighbours: {found.neighbours}; against {found.against}), each held-out person the "
            f"same for the evaluation. Through the door the national card's AUC was "
            f"{found.auc:.3f} ({found.auc_low:.3f} to {found.auc_high:.3f}); exactly, which only a "
            f"simulation can know, {found.exact_auc:.3f}. With the five columns that not everybody "
            f"holds removed everywhere it was {found.shared_only_auc:.3f}, with all of them "
            f"everywhere {found.everything_auc:.3f}. The three trainings took "
            f"{found.training_seconds:.0f} seconds.",
        ]
    )


def _block_of(one: Experiment[Any], table: Callable[[Any], str]) -> Callable[[], str]:
    return lambda: table(one.load())


BLOCKS: Final[dict[str, Callable[[], str]]] = {
    "demo": demo_block,
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
    stale = []
    for path in DOCUMENTS:
        text = path.read_text()
        if rendered(text) == text:
            continue
        stale.append(path.name)
        if "--check" not in sys.argv:
            path.write_text(rendered(text))
    if stale and "--check" in sys.argv:
        print(f"Not what the results say: {', '.join(stale)}. Run python -m experiments.documents.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
