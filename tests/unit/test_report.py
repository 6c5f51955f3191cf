"""The demo's report: loads nothing, shows foreign names as text, says what its figures say."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from federation.errors import ConfigurationError
from federation.grid import code_of
from federation.model.evaluation import Figure
from federation.schema import load_schema
from fedscore.demo import report
from fedscore.demo.nation import SCHEMA, TABLE
from fedscore.demo.report import Demo, average, columns_of, gains_of, person_of, write_report
from fedscore.inspection import Member
from tests.federations import federation, small_schema, small_table

LINKS = {"https://doi.org/10.24432/C55S3H", "https://creativecommons.org/licenses/by/4.0/"}
HOSTILE = {
    "income": '<script>alert("1")</script>',
    "home": "$x^2$ --> ]]> {{ plan }}",
    "north": '<img src="https://evil.example/n.png">',
    "Housing": "</text></svg><iframe src='//evil.example'>",
}
RETITLED = {"Bank-00": '"><link href=https://evil.example/a.css>', "Bank-01": "国民银行 & co"}


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def real_people(path: Path, number: int) -> Path:
    pq.write_table(pq.read_table(TABLE).slice(600 * number, 600), path)
    return path


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A small federation on the demo's own columns, with so little noise that nothing is hidden."""
    done = federation(
        tmp_path_factory.mktemp("real"),
        schema=load_schema(SCHEMA.read_text()),
        table=real_people,
        not_held={"bank-00": ("limit_bal",), "bank-02": ("pay_amt1",), "bank-03": ("pay_amt1",)},
        epsilon=8.0,
    )
    run = done.run(inspect=True)
    return Demo(plan=done.plan, schema=done.schema, as_staged=run, shared_only=run, everything=run)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A federation whose names are attacks, and whose noise hides all of its quality."""
    directory = tmp_path_factory.mktemp("hostile")
    contract = msgspec.json.encode(small_schema()).decode()
    for plain, attack in HOSTILE.items():
        contract = contract.replace(f'"{plain}"', msgspec.json.encode(attack).decode())

    def table(path: Path, number: int) -> Path:
        people = pq.read_table(small_table(path, 100, number, first_person=100 * number))
        people = people.rename_columns([HOSTILE.get(name, name) for name in people.column_names])
        cities = [HOSTILE.get(city, city) for city in people["city"].to_pylist()]
        at = people.column_names.index("city")
        pq.write_table(people.set_column(at, "city", [cities]), path)
        return path

    schema = msgspec.json.decode(contract, type=type(small_schema()))
    done = federation(directory, schema=schema, table=table)
    run = done.run(inspect=True)
    members = tuple(
        msgspec.structs.replace(one, title=RETITLED.get(one.title, one.title))
        for one in run.members
    )
    run = msgspec.structs.replace(run, members=members)
    return Demo(plan=done.plan, schema=schema, as_staged=run, shared_only=run, everything=run)


@pytest.fixture(scope="module")
def page(real: Demo, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(real, tmp_path_factory.mktemp("page") / "report.html").read_text()


@pytest.fixture(scope="module")
def hostile_page(hostile: Demo, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(hostile, tmp_path_factory.mktemp("page") / "report.html").read_text()


def member(number: int, gain: Figure | None, **changes: Any) -> Member:
    settings: dict[str, Any] = {
        "id": f"bank-{number}",
        "title": f"Bank {number}",
        "trained": 300,
        "held_out": 100,
        "bad_rate": 0.2,
        "not_held": (),
        "alone": gain and Figure(value=0.7, low=0.6, high=0.8),
        "national": gain and Figure(value=0.7 + gain.value, low=0.6, high=0.8),
        "gain": gain,
        "charged_trained": 1.0,
        "charged_held_out": 1.0,
        "ledger_entries": 7,
    }
    return Member(**{**settings, **changes})


@pytest.mark.slow
def test_the_report_loads_nothing_and_links_only_to_the_data(page: str, hostile_page: str) -> None:
    for text in (page, hostile_page):
        elements = Page(text).elements
        loaders = {"script", "link", "img", "image", "iframe", "object", "embed", "video", "audio"}
        assert not loaders & {tag for tag, _ in elements}
        for _, attributes in elements:
            assert not {"src", "srcset", "data", "action", "onload"} & set(attributes)
            for name in ("href", "xlink:href"):
                target = attributes.get(name) or "#"
                assert target.startswith("#") or target in LINKS
        assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
        assert "@import" not in text
        assert "default-src 'none'" in text


@pytest.mark.slow
def test_names_from_outside_are_text_and_never_markup(hostile_page: str) -> None:
    shown = Page(hostile_page).text
    for attack in (*HOSTILE.values(), *RETITLED.values()):
        assert attack in shown
    assert not re.search(r"<(script|iframe|link|img)\b", hostile_page)


@pytest.mark.slow
def test_hidden_quality_is_said_to_be_hidden(hostile_page: str) -> None:
    shown = Page(hostile_page).text
    assert "the noise hides everything" in shown
    assert "hidden by the noise" in shown


@pytest.mark.slow
def test_every_section_is_there_and_the_file_is_small(page: str) -> None:
    headings = re.findall(r"<h2>(\d)\.", page)
    assert headings == [str(number) for number in range(1, 9)]
    assert len(page.encode()) < 1_500_000
    assert Page(page).text.count("Simulation only.") == 2


@pytest.mark.slow
def test_no_identifier_is_drawn_twice_with_another_meaning(page: str) -> None:
    identifiers = [attributes["id"] for _, attributes in Page(page).elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


@pytest.mark.slow
def test_equal_input_gives_equal_bytes(real: Demo, page: str, tmp_path: Path) -> None:
    assert write_report(real, tmp_path / "again.html").read_text() == page


@pytest.mark.slow
def test_the_report_says_against_whom_it_promises_what_and_follows_the_statement(
    real: Demo, page: str, tmp_path: Path
) -> None:
    said = real.as_staged.release.statement
    shown = " ".join(Page(page).text.split())
    assert shown.count(said.against) == 2
    assert shown.count("The coordinator saw totals only.") == 1
    assert said.assumption in shown
    assert f"ε is {said.epsilon_coordinator_alone:.3g}." in shown
    assert "not run" not in shown
    release = real.as_staged.release
    statement = msgspec.structs.replace(
        said, epsilon_coordinator_alone=0.321, held_out_epsilon_coordinator_alone=0.234
    )
    run = msgspec.structs.replace(
        real.as_staged, release=msgspec.structs.replace(release, statement=statement)
    )
    other = Demo(plan=real.plan, schema=real.schema, as_staged=run, shared_only=run, everything=run)
    text = Page(write_report(other, tmp_path / "other.html").read_text()).text
    assert "ε is 0.321." in text
    assert "ε\xa0=\xa00.321 for a trained and 0.234 for a held-out person" in text


@pytest.mark.slow
def test_the_parts_of_a_score_add_up_to_it(real: Demo) -> None:
    person = person_of(real.as_staged.release)
    total = person.average + sum(change for _, _, change in person.changes)
    assert total == pytest.approx(person.points)
    assert person.not_held == ("pay_amt1", "pay_amt2")
    assert len(person.reasons) <= 4
    assert all(lost > 0 for _, lost in person.reasons)


@pytest.mark.slow
def test_institutions_that_lack_the_same_columns_share_a_row(real: Demo) -> None:
    rows = list(columns_of(real))
    assert [row.titles for row in rows] == [("Bank-00",), ("Bank-01",), ("Bank-02", "Bank-03")]
    assert rows[0].lacks == ("limit_bal",)
    assert rows[0].holds == ("pay_amt1",)
    assert rows[1].lacks == ()


def test_gains_count_only_intervals_that_leave_zero_out() -> None:
    gains = gains_of(
        [
            member(1, Figure(value=0.02, low=0.01, high=0.03)),
            member(2, Figure(value=0.02, low=0.0, high=0.04)),
            member(3, Figure(value=-0.03, low=-0.05, high=-0.01)),
            member(4, None),
        ]
    )
    assert (gains.above, gains.below) == (("Bank 1",), ("Bank 3",))
    assert gains.mean is not None
    assert gains.mean.value == pytest.approx(0.01 / 3)


def test_a_mean_of_independent_estimates_is_known_better_than_each() -> None:
    one, other = Figure(value=0.1, low=0.0, high=0.2), Figure(value=0.3, low=0.2, high=0.4)
    found = average([one, other], [1.0, 1.0])
    assert found is not None
    assert found.value == pytest.approx(0.2)
    assert found.high - found.value == pytest.approx(0.1 / 2**0.5)
    assert average([], []) is None


def test_the_invented_person_keeps_the_demos_schema() -> None:
    grids = load_schema(SCHEMA.read_text()).scored_grids
    known = {grid.name for grid in grids if grid.name in report._PERSON}
    assert known == set(report._PERSON)
    for grid in grids:
        if grid.name in known:
            code_of(grid, report._PERSON[grid.name])


def test_missing_packages_are_named_with_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    empty: Any = None
    demo = Demo(plan=empty, schema=empty, as_staged=empty, shared_only=empty, everything=empty)
    with pytest.raises(ConfigurationError, match=r"needs jinja2\. Run `pip install"):
        write_report(demo, tmp_path / "report.html")
