"""Which broken build was noticed by which test, as tables, a sentence and a plot."""

from matplotlib.figure import Figure
from scipy import stats

from experiments.audit.broken_builds import BUILDS, REAL, TESTS, BrokenBuilds
from experiments.tables import markdown


def table(found: BrokenBuilds) -> str:
    """Each build with the test that notices it, and what that test says of the product."""
    real = found.of(REAL)
    rows = []
    for name, build in BUILDS.items():
        of = found.of(name)
        rows.append(
            [
                name,
                build.line,
                build.test,
                _counted(of.raised[build.test], of.runs),
                _counted(of.by_any, of.runs),
                _counted(real.raised[build.test], real.runs),
                _level(TESTS[build.test].level),
            ]
        )
    together = sum(test.level for test in TESTS.values())
    rows.append(
        [
            REAL,
            "nothing",
            "all of them",
            "",
            "",
            _counted(real.by_any, real.runs),
            _level(together),
        ]
    )
    heads = [
        "build",
        "changed in federation/door.py",
        "test",
        "caught by it",
        "by any test",
        "its false alarms on the product",
        "by design, a run",
    ]
    return markdown(heads, rows)


def table_of_tests(_found: BrokenBuilds) -> str:
    """What each test looks at."""
    rows = [[name, one.looks_at, _level(one.level)] for name, one in TESTS.items()]
    return markdown(["test", "looks at", "false alarms a run, by design"], rows)


def answer(found: BrokenBuilds) -> str:
    """One sentence with the counts."""
    caught = [found.of(name).raised[build.test] for name, build in BUILDS.items()]
    runs, real = found.of(next(iter(BUILDS))).runs, found.of(REAL)
    return (
        f"each of {len(BUILDS)} broken builds is caught by its named test in at least "
        f"{min(caught)} of {runs} runs (95 % interval of the worst: "
        f"{_interval(min(caught), runs)}); {real.by_any} false alarms in {real.runs:,} runs of the "
        f"product ({_interval(real.by_any, real.runs)})"
    )


def plot(found: BrokenBuilds) -> Figure:
    """How often each build is noticed, with intervals."""
    figure = Figure(figsize=(6.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    names = [*BUILDS, REAL]
    for place, name in enumerate(names):
        of = found.of(name)
        count = of.by_any if name == REAL else of.raised[BUILDS[name].test]
        exact = stats.binomtest(count, of.runs).proportion_ci()
        axes.plot([exact.low, exact.high], [place, place], color="black", linewidth=1)
        axes.plot(count / of.runs, place, "s" if name == REAL else "o", color="black")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(
        "share of runs with an alarm of its named test\n"
        "(of any test: the product); exact 95 % intervals"
    )
    return figure


def _counted(count: int, runs: int) -> str:
    return f"{count:,} of {runs:,} ({_interval(count, runs)})"


def _interval(count: int, runs: int) -> str:
    exact = stats.binomtest(count, runs).proportion_ci()
    return f"{exact.low:.2%} to {exact.high:.2%}"


def _level(level: float) -> str:
    return f"{level:.1e}" if level else "0, exact"
