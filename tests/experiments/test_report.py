from html.parser import HTMLParser

import msgspec
import pytest
from matplotlib.figure import Figure

from experiments import experiment, report
from experiments.cache import Cache
from experiments.catalogue import EXPERIMENTS
from experiments.experiment import NO_EPSILON, Experiment

VOID = {"meta", "br", "hr", "img", "input", "link", "path", "use", "rect", "circle"}
LOADS = {"src", "srcset", "data", "poster", "action", "background", "xlink:href"}


class Page(HTMLParser):
    """Sections, identifiers, what is loaded, and whether every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.links, self.loaded, self.styles = [], [], [], [], []
        self.open, self.words = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name == "href" and tag == "a":
                self.links.append(value)
            elif name in LOADS or name == "href":
                self.loaded.append(value)
            if name == "style":
                self.styles.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, words):
        self.words.append(words)
        if self.open and self.open[-1] == "style":
            self.styles.append(words)


def written(experiments, path):
    report.write_report(experiments, path)
    return Page(path.read_text())


@pytest.mark.slow
def test_the_page_has_every_experiment_and_loads_nothing(tmp_path):
    page = written(EXPERIMENTS.values(), tmp_path / "report.html")
    assert not page.open
    assert set(EXPERIMENTS) <= set(page.ids)
    assert {f"#{name}" for name in EXPERIMENTS} <= set(page.links)
    words = "".join(page.words)
    for one in EXPERIMENTS.values():
        assert one.question in words
        assert one.promise in words
        assert f"run {one.name}" in words
        result = one.result()
        assert result is None or one.answer(result.found) in words
    assert page.tags.count("svg") == sum(one.result() is not None for one in EXPERIMENTS.values())
    assert page.tags.count("table") >= page.tags.count("svg")
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert all(target.startswith(("#", "data:")) for target in page.loaded)
    assert not any("@import" in style or "http" in style for style in page.styles)
    assert len(page.ids) == len(set(page.ids))


class Word(msgspec.Struct, frozen=True, kw_only=True):
    word: str


HOSTILE = "<script>alert(1)</script> & ![](http://example.org/a.png)"


def of_a_word(name="word"):
    return Experiment(
        name=name,
        question=HOSTILE,
        promise=NO_EPSILON,
        kind=Word,
        run=lambda _: Word(word=HOSTILE),
        answer=lambda found: found.word,
        tables={"words": lambda found: f"| a | b |\n| --- | ---: |\n| {found.word} | **2** |"},
        plot=lambda found: plot_of(found.word),
    )


def plot_of(word):
    figure = Figure()
    figure.add_subplot().set_title(word)
    return figure


def test_what_is_shown_is_escaped(monkeypatch, tmp_path):
    monkeypatch.setattr(experiment, "RESULTS", tmp_path)
    monkeypatch.setattr(experiment, "OUTPUT", tmp_path / "output")
    one = of_a_word()
    one.execute(quick=False, cache=Cache(tmp_path / "cache"))
    page = written([one], tmp_path / "report.html")
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert "".join(page.words).count("<script>alert(1)</script> &") >= 3
    assert {"table", "strong", "svg"} <= set(page.tags)
    assert "text-align:right" in page.styles


def test_what_was_not_run_yet_is_on_the_page(monkeypatch, tmp_path):
    monkeypatch.setattr(experiment, "RESULTS", tmp_path)
    page = written([of_a_word("later")], tmp_path / "report.html")
    assert "later" in page.ids
    assert "Not run yet." in "".join(page.words)
