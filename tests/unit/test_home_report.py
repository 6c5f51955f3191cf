"""An institution's private report on a release: figures against references, and who gets none."""

import itertools

import msgspec
import numpy as np
import pytest

from clients.configuration import Approval, DaemonConfiguration
from clients.home_report import BANDS, LEAST_OUTCOMES, card_at_home, home_report
from clients.reading import Reading
from federation.errors import ConfigurationError, DataError
from federation.model.score_scale import ScoreScale
from fedscore.institution_tables import home_report_tables
from fedscore.showing import console
from tests.federations import SALT, clock, federation, small_table

SCALE = ScoreScale(points=660, odds=30.0, points_to_double=40, least=300, most=850)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained federation, and the configuration of its first institution as a daemon has it."""
    directory = tmp_path_factory.mktemp("trained")
    made = federation(directory, institutions=3, people=900, epsilon=40.0, delta=1e-4)
    release = made.run(inspect=True)
    member = made.members[0]
    configuration = DaemonConfiguration(
        **msgspec.structs.asdict(member),
        approval=Approval.PERSON,
        federation=made.plan.federation,
        salt=SALT,
        held_out_fraction=made.plan.people.held_out_fraction,
        schema="schema.toml",
        roster="roster.toml",
        coordinator_address="127.0.0.1:9092",
        root_certificates="ca.pem",
        state="state",
    )
    return made, release, configuration


def reported(trained, directory, **changes):
    made, done, configuration = trained
    found = msgspec.structs.replace(configuration, **changes)
    report, _ = home_report(
        found,
        schema=made.schema,
        release=done.release,
        read_table=reading(found, made.schema),
        directory=directory,
    )
    return report


def reading(configuration, schema) -> Reading:
    return Reading(
        configuration=configuration,
        schema=schema,
        split=configuration.split,
        clock=clock,
        withdrawals=None,
    )


def test_the_report_says_of_both_cards_what_a_simulation_measured(trained, tmp_path):
    _, done, _ = trained
    found = reported(trained, tmp_path / "report")
    (member,) = (one for one in done.members if one.id == found.institution)
    assert (found.trained, found.held_out) == (member.trained, member.held_out)
    assert found.national.auc == member.national
    assert found.alone.auc == member.alone
    assert found.gain == member.gain
    assert found.release == done.release.digest
    assert not list(tmp_path.iterdir())


def test_a_killed_report_leaves_nothing_that_stops_the_next(trained, tmp_path):
    left = tmp_path / "report"
    left.mkdir()
    (left / "trained.blocks").write_bytes(b"codes")
    assert reported(trained, left).national.auc is not None
    assert not left.exists()


def test_no_snapshot_is_left_when_the_report_fails(trained, tmp_path):
    with pytest.raises(DataError):
        reported(trained, tmp_path / "report", table=str(tmp_path / "none.parquet"))
    assert not list(tmp_path.iterdir())


def test_few_people_get_words_and_no_figures(trained, tmp_path):
    table = small_table(tmp_path / "few.parquet", 40, 5)
    found = reported(trained, tmp_path / "report", table=str(table))
    assert found.national.auc is found.alone.brier is found.gain is None
    assert found.national.calibration == ()
    assert f"fewer than {LEAST_OUTCOMES} of either" in found.remarks[0]
    shown = rendered(found)
    assert "too few people" in shown
    assert "Private to this institution" in shown


def test_some_people_get_fewer_bands_and_are_told_so(trained, tmp_path):
    found = reported(trained, tmp_path / "report")
    assert len(found.national.calibration) < BANDS
    assert "fewer bands" in found.remarks[0]
    assert sum(band.people for band in found.national.calibration) == found.held_out


def test_a_release_of_others_or_for_another_schema_is_refused(trained, tmp_path):
    made, done, configuration = trained
    with pytest.raises(ConfigurationError, match="of the federation 'test-federation'"):
        reported(trained, tmp_path / "report", federation="other")
    other = msgspec.structs.replace(made.schema, name="Other")
    with pytest.raises(ConfigurationError, match="name the schema"):
        home_report(
            configuration,
            schema=other,
            release=done.release,
            read_table=reading(configuration, other),
            directory=tmp_path / "report",
        )


def test_figures_are_those_of_plain_formulas():
    generator = np.random.default_rng(0)
    points = generator.integers(400, 800, 20_000)
    promised = np.array([SCALE.bad_rate_at(float(one)) for one in points])
    bad = generator.random(points.size) < promised
    found = card_at_home(points, bad, SCALE)
    assert found.brier is not None
    assert found.brier.value == pytest.approx(np.mean((promised - bad) ** 2))
    assert found.calibration_ratio is not None
    assert found.calibration_ratio.value == pytest.approx(bad.sum() / promised.sum())
    assert found.calibration_ratio.low < 1 < found.calibration_ratio.high  # as promised
    assert len(found.calibration) == BANDS
    for band in found.calibration:
        inside = (points >= band.least) & (points <= band.most)
        assert band.people == inside.sum()
        assert band.expected_bad_rate == pytest.approx(promised[inside].mean())
        assert band.observed_bad_rate.value == pytest.approx(bad[inside].mean())
        assert 0.9 < band.people / (points.size / BANDS) < 1.1
    cuts = [(band.least, band.most) for band in found.calibration]
    assert all(high < low for (_, high), (low, _) in itertools.pairwise(cuts))


def test_a_card_that_is_too_kind_shows_a_ratio_above_one():
    generator = np.random.default_rng(1)
    points = generator.integers(500, 700, 5_000)
    promised = np.array([SCALE.bad_rate_at(float(one)) for one in points])
    found = card_at_home(points, generator.random(points.size) < 2 * promised, SCALE)
    assert found.calibration_ratio is not None
    assert found.calibration_ratio.low > 1.5


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"), [(0, 100, 0.0, 0.0370), (5, 50, 0.0435, 0.2136)]
)
def test_intervals_of_shares_are_wilsons(hits, of, low, high):
    bad = np.zeros(of, dtype=bool)
    bad[:hits] = True
    # two bands of equal size, the second with enough bad people to have figures at all
    points = np.repeat([500, 600], of)
    outcomes = np.concatenate([bad, np.arange(of) < LEAST_OUTCOMES])
    band = card_at_home(points, outcomes, SCALE).calibration[0].observed_bad_rate
    assert (band.value, band.low, band.high) == pytest.approx((hits / of, low, high), abs=1e-3)


def test_everybody_with_one_score_is_one_band():
    bad = np.arange(1000) < 100
    found = card_at_home(np.full(1000, 600), bad, SCALE)
    assert [band.people for band in found.calibration] == [1000]
    assert found.auc is not None
    assert found.auc.value == 0.5


def rendered(found) -> str:
    screen = console()
    screen.width = 200
    with screen.capture() as said:
        for table in home_report_tables(found):
            screen.print(table)
    return said.get()
