"""`python -m tests.soak`, much shorter; and that its report would tell if something grew."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fedscore.progress import Step, Trained
from tests.soak.__main__ import lines_of
from tests.soak.figures import Report, report_of, trend
from tests.soak.sampling import Look, Sample
from tests.soak.site import ROUNDS, Ran, Seen, soak

BANK = "bank-00"
MEGA = 1_000_000
SECONDS = 600


def flat(_: int) -> int:
    return 0


def seen_with(
    *,
    memory: Callable[[int], int] = flat,
    descriptors: Callable[[int], int] = flat,
    files: Callable[[int], dict[str, int]] = lambda _: {},
    codes: tuple[int, ...] = (0,) * 10,
    exit_code: int = 0,
    left: tuple[str, ...] = (),
) -> Seen:
    """Returns a soak of ten minutes that is as it should be but for what is given.

    Args:
        memory: bytes beside 200 MB, by second.
        descriptors: beside 12, by second.
        files: of the institution's state, by plans.
        codes: of the plans.
        exit_code: of the daemon.
        left: temporary files.
    """
    seen = Seen(names=(BANK,), seconds=SECONDS, loads=[1.0], exits={BANK: exit_code})
    seen.left = list(left)
    for number, code in enumerate(codes):
        steps = (Step(step="round", number=1, answers=1, seconds=2.0),)
        trained = Trained(directory="", release="", seconds=3.0, steps=steps)
        seen.plans.append(
            Ran(at=60.0 * number, seconds=10.0, code=code, trained=None if code else trained)
        )
        if code:
            seen.failure = "Plan failed."
    for at in range(0, SECONDS, 3):
        seen.samples.append(
            Sample(
                who=BANK,
                process=1,
                at=float(at),
                resident=200 * MEGA + memory(at),
                proportional=100 * MEGA,
                anonymous=90 * MEGA,
                descriptors=12 + descriptors(at),
                threads=6,
            )
        )
    for plans in (*range(len(codes) + 1), len(codes)):
        seen.looks.append(Look(who=BANK, plans=plans, sizes=files(plans)))
        seen.looks += [Look(who=who, plans=plans, sizes={}) for who in ("coordinator", "logs")]
    return seen


def test_what_stays_flat_is_as_it_should_be() -> None:
    report = report_of(seen_with())
    assert report.problems == ()
    assert (report.plans, report.rounds) == (10, 10)
    assert report.first.round == report.last.round == 2.0


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (seen_with(memory=lambda at: 40_000 * at), "memory of bank-00"),
        (seen_with(descriptors=lambda at: at // 60), "descriptors early"),
        (seen_with(files=lambda plans: {"records.sqlite": 300_000 * plans}), "records"),
        (seen_with(files=lambda plans: {f"left-{n}": 1 for n in range(plans)}), "more files"),
        (seen_with(left=("tmp1",)), "temporary file"),
        (seen_with(codes=(0, 0, 0, 1)), "Plan failed."),
        (seen_with(exit_code=70), "bank-00 ended with 70"),
    ],
)
def test_whatever_grows_or_fails_is_a_problem_in_words(seen: Seen, words: str) -> None:
    report = report_of(seen)
    assert [one for one in report.problems if words in one], report.problems
    assert "NOT as it should be:" in lines_of(report)


def test_a_step_in_the_memory_before_the_warm_up_ended_is_no_growth() -> None:
    assert report_of(seen_with(memory=lambda at: 50 * MEGA * (at > 60))).problems == ()


def test_a_trend_has_the_slope_of_least_squares_and_its_error() -> None:
    jagged = [(36.0 * number, 5.0 + number / 10 + (-1) ** number) for number in range(100)]
    found = trend(jagged)
    assert found is not None
    assert found.an_hour == pytest.approx(10.0, abs=2 * found.error)
    assert found.error == pytest.approx(3600 / (36 * 100**1.5 / 12**0.5), rel=0.02)
    assert found.risen == pytest.approx(99 * found.an_hour / 100)
    assert trend(jagged[:19]) is None


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Two plans over real processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", "")  # put back at the end: a soak sets it
        directory = tmp_path_factory.mktemp("soak")
        return soak(
            directory,
            institutions=3,
            is_enough=lambda seen: len(seen.plans) == 2,
            tell=lambda seen: None,
        )


@pytest.fixture(scope="module")
def report(short: Seen) -> Report:
    return report_of(short)


@pytest.mark.soak
def test_two_plans_over_real_processes_leave_nothing_that_should_not_be(report: Report) -> None:
    assert report.problems == ()
    assert (report.plans, report.rounds) == (2, 2 * ROUNDS)
    assert set(report.exits.values()) == {0}
    assert len(report.exits) == len(report.memory) == 3


@pytest.mark.soak
def test_the_figures_of_a_soak_fit_each_other(short: Seen, report: Report) -> None:
    assert report.seconds >= sum(one.seconds for one in short.plans)
    assert 0 < report.first.accepted < report.first.plan
    assert report.peaks["coordinator"][0] > 20
    for sample in short.samples:
        assert sample.anonymous <= sample.resident
        assert sample.proportional <= sample.resident
        assert sample.descriptors > 0
        assert sample.threads > 0
    by_kind = {(one.bound.who, one.bound.kind): one for one in report.files}
    releases = by_kind["institution", "releases"]
    assert releases.number == (1, 2)
    assert releases.end == 2 * releases.a_plan
    assert by_kind["institution", "write-ahead logs and their indices"].end == 0
    for look in (one for one in short.looks if one.who in short.names):
        assert sum(look.sizes.values()) > 0


@pytest.mark.soak
def test_a_coordinator_that_fails_ends_the_soak_and_its_words_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "")
    monkeypatch.setattr("tests.soak.site._DEADLINE", 0)
    seen = soak(tmp_path, institutions=3, is_enough=lambda seen: False, tell=lambda seen: None)
    assert len(seen.plans) == 1
    assert "Expected --deadline 0" in seen.failure
    assert set(seen.exits.values()) == {0}
