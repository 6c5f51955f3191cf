"""Which broken build was noticed by which test, as tables, a sentence and a plot."""

from matplotlib.figure import Figure

from experiments.audit.broken_builds import BUILDS, ONE_PERSON, REAL, TESTS, BrokenBuilds
from experiments.tables import exact_interval, markdown


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
    return (
        f"{markdown(heads, rows)}\n\nIntervals: Clopper and Pearson's 95 %, each for itself. "
        f"Together, with confidence 97.5 % (Bonferroni), each of the {len(BUILDS)} is caught by "
        f"its test in at least {_together(found):.2%} of runs. Each run has people, noise and "
        f'masks of its own. Somebody hostile, whom the test "{ONE_PERSON}" adds, is too large by a '
        "factor drawn for each run, 2 or more: shares are of runs drawn so."
    )


def table_of_tests(_found: BrokenBuilds) -> str:
    """What each test looks at."""
    rows = [[name, one.looks_at, _level(one.level)] for name, one in TESTS.items()]
    return markdown(["test", "looks at", "false alarms a run, by design"], rows)


def answer(found: BrokenBuilds) -> str:
    """One sentence with the counts."""
    least, runs = _worst(found)
    real = found.of(REAL)
    return (
        f"each of {len(BUILDS)} broken builds is caught by its named test in "
        f"{'' if least == runs else 'at least '}{least} of {runs} runs (for all {len(BUILDS)} "
        f"together, 97.5 %: at least {_together(found):.2%} of runs each); {real.by_any} false "
        f"alarms in {real.runs:,} runs of the product ({_interval(real.by_any, real.runs)})"
    )


def plot(found: BrokenBuilds) -> Figure:
    """How often each build is noticed, with intervals."""
    figure = Figure(figsize=(6.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    names = [*BUILDS, REAL]
    for place, name in enumerate(names):
        of = found.of(name)
        count = of.by_any if name == REAL else of.raised[BUILDS[name].test]
        axes.plot(exact_interval(count, of.runs), [place, place], color="black", linewidth=1)
        axes.plot(count / of.runs, place, "s" if name == REAL else "o", color="black")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(
        "share of runs with an alarm of its named test\n"
        "(of any test: the product); exact 95 % intervals"
    )
    return figure


def _worst(found: BrokenBuilds) -> tuple[int, int]:
    """Returns in how many of how many runs the build that is caught least often is caught."""
    return min(
        (found.of(name).raised[one.test], found.of(name).runs) for name, one in BUILDS.items()
    )


def _together(found: BrokenBuilds) -> float:
    """Returns a lower bound on the share of runs caught, of all builds at once, at 97.5 %."""
    low, _ = exact_interval(*_worst(found), 1 - 0.05 / len(BUILDS))
    return low


def _counted(count: int, runs: int) -> str:
    return f"{count:,} of {runs:,} ({_interval(count, runs)})"


def _interval(count: int, runs: int) -> str:
    low, high = exact_interval(count, runs)
    return f"{low:.2%} to {high:.2%}"


def _level(level: float) -> str:
    return f"{level:.1e}" if level else "0, exact"
