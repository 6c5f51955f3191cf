"""One page with all experiments, made from committed results: no script, nothing from the net."""

import io
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import matplotlib as mpl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from matplotlib.figure import Figure

from experiments.cache import digest_of_product
from experiments.experiment import OUTPUT, Experiment
from experiments.provenance import Made, head
from federation.errors import ConfigurationError

PAGE: Final = OUTPUT / "report.html"

_TEMPLATES: Final = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
)
_MARKDOWN: Final = (
    MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "autolink"])
)
_SILENT: Final = dict.fromkeys(("Creator", "Date", "Format", "Type"))

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One experiment on the page.

    Attributes:
        one: the experiment.
        answer: from its result; None if it was not run yet.
        tables: titles and HTML.
        plot: inline SVG; None if it was not run yet.
        made: how the result came about; None if the result is older than this record.
    """

    one: Experiment[Any]
    answer: str | None = None
    tables: tuple[tuple[str, Markup], ...] = ()
    plot: Markup | None = None
    made: Made | None = None


def write_report(experiments: Iterable[Experiment[Any]], page: Path) -> int:
    """Writes the page.

    Args:
        experiments: in the order of the page.
        page: a file to write.

    Returns:
        How many of the experiments have a result.

    Raises:
        ConfigurationError: a result is of another version.
    """
    sections = [section_of(one) for one in experiments]
    page.parent.mkdir(parents=True, exist_ok=True)
    text = _TEMPLATES.get_template("report.html.jinja").render(
        sections=sections, commit=head(), product=digest_of_product()
    )
    page.write_text(text)
    return sum(section.answer is not None for section in sections)


def section_of(one: Experiment[Any]) -> Section:
    """Returns what the page says of an experiment."""
    result = one.result()
    if result is None:
        return Section(one=one)
    return Section(
        one=one,
        answer=one.answer(result.found),
        tables=tuple(
            (block.replace("_", " "), _shown(table, result.found))
            for block, table in one.tables.items()
        ),
        plot=_svg(one.plot(result.found), one.name),
        made=result.made,
    )


def _shown(table: Callable[[R], str], found: R) -> Markup:
    try:
        return html_of(table(found))
    except ConfigurationError as error:
        return Markup("<p>{}</p>").format(error)


def html_of(text: str) -> Markup:
    """Returns Markdown with tables as HTML; HTML in it is shown, not obeyed."""
    return Markup(_MARKDOWN.render(text))  # noqa: S704 - the renderer escapes


def _svg(figure: Figure, name: str) -> Markup:
    """Returns a plot whose identifiers are its own on the page."""
    drawn = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(drawn, format="svg", metadata=_SILENT)
    text = drawn.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    return Markup(text)  # noqa: S704 - matplotlib escapes
