"""Advice on a plan's settings: the law, the settings that `plan new` takes, and its warnings."""

import shlex
from itertools import pairwise

import msgspec
import pytest

from federation.errors import ConfigurationError, PrivacyError
from fedscore.advice import (
    Advice,
    Wish,
    advise,
    least_epsilon,
    nominal_schema,
    rounds_for,
)
from fedscore.advice_law import LAW_FILE, Curve, Fitted, Held, fitted
from tests.fuzzing import typed

SCHEMA = nominal_schema(10)


def wish(**changes: object) -> Wish:
    known = {"schema": SCHEMA, "people": 40_000, "institutions": 10, "quorum": 10}
    return Wish(**(known | changes))


def advised(words: str) -> Advice:
    ended = typed(shlex.split(f"plan advise {words} --json"))
    assert ended.code == 0, ended
    return msgspec.json.decode(ended.out, type=Advice)


def test_less_privacy_more_people_and_fewer_features_lose_less() -> None:
    for better in (
        [advise(wish(), epsilon) for epsilon in (0.1, 0.3, 1.0, 4.0)],
        [advise(wish(people=people), 1.0) for people in (4_000, 40_000, 400_000)],
        [advise(wish(schema=nominal_schema(count)), 1.0) for count in (30, 10, 3)],
        [advise(wish(quorum=quorum), 1.0) for quorum in (7, 8, 10)],
    ):
        for worse, good in pairwise(better):
            assert good.signals.noise_to_signal < worse.signals.noise_to_signal
            assert good.loss.middle < worse.loss.middle


def test_the_middle_lies_in_its_range_and_no_noise_loses_next_to_nothing() -> None:
    for epsilon in (0.05, 0.2, 1.0, 10.0):
        loss = advise(wish(), epsilon).loss
        assert loss.low <= loss.middle <= loss.high
    assert fitted().law.middle.lost(0.0, 0.75) == pytest.approx(0.0, abs=1e-12)
    assert fitted().law.middle.lost(1e9, 0.75) == pytest.approx(0.25, abs=1e-3)


def test_an_excess_of_three_halves_the_distance_of_good_and_bad() -> None:
    """Phi^-1(0.75) = 0.6745; Phi(0.6745 / 2) = 0.6320."""
    curve = Curve(strength=0.0, exponent=1.0, collapse=3.0, offset=0.0)
    assert curve.lost(1.0, 0.75) == pytest.approx(0.75 - 0.6320, abs=1e-4)


def test_noise_to_signal_is_parameters_times_noise_over_people_squared() -> None:
    found = advise(wish(held_out=0.0), 1.0).signals
    error = found.weight_noise / (40_000 * 0.1 * 0.9)
    assert found.weight_error == pytest.approx(error / 0.05)
    assert found.weight_signal == pytest.approx(2**0.5 * 0.67449 / 10**0.5, rel=1e-4)
    assert found.noise_to_signal == pytest.approx((error / found.weight_signal) ** 2)


def test_rounds_give_every_feature_its_full_steps_and_spare_attempts_a_small_part() -> None:
    assert rounds_for(5, 2) == 20
    assert rounds_for(36, 2) == 40
    assert rounds_for(5, 0) == 6


def test_the_smallest_epsilon_keeps_the_loss_and_a_smaller_one_does_not() -> None:
    found = least_epsilon(wish(), 0.02)
    assert advise(wish(), found).loss.middle <= 0.02
    assert advise(wish(), 0.98 * found).loss.middle > 0.02


def test_what_cannot_be_asked_for_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="No epsilon up to 20"):
        least_epsilon(wish(people=200), 0.0005)
    for bad in (0.0, 0.5, float("nan")):
        with pytest.raises(ConfigurationError, match="loss of AUC"):
            least_epsilon(wish(), bad)
    for changes in ({"bad_rate": 0.0}, {"auc": 0.5}, {"auc": float("nan")}, {"institutions": 2}):
        with pytest.raises(ConfigurationError):
            wish(**changes)
    with pytest.raises(ConfigurationError, match="features"):
        nominal_schema(0)
    with pytest.raises(PrivacyError, match="quorum"):
        advise(wish(quorum=11), 1.0)
    with pytest.raises(PrivacyError, match="epsilon"):
        advise(wish(), 0.0)


def test_a_hopeless_wish_is_warned_of_and_a_good_one_is_not() -> None:
    assert any("hopeless" in one for one in advise(wish(people=4_000), 0.05).warnings)
    assert advise(wish(), 2.0).warnings == ()
    assert any("extrapolated" in one for one in advise(wish(people=10**8), 2.0).warnings)


def test_the_command_makes_the_very_plan_that_it_advises(
    tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from federation.plan import load_plan
    from tests.federations import _SMALL

    monkeypatch.chdir(tmp_path)
    (tmp_path / "schema.toml").write_text(_SMALL.format(rows="one"))
    made = typed(
        shlex.split("coordinator init coordinator --federation t --address 127.0.0.1:9092")
    )
    assert made.code == 0, made
    found = advised(
        "--schema schema.toml --people 9000 --institutions 4 --colluders 1 --epsilon 0.7 "
        "--held-out 0.1 --delta 2e-7"
    )
    words = found.plan_new
    for name, value in {
        "KEY": "coordinator/coordinator.key",
        "NAME": "n",
        "FEDERATION": "t",
        "PURPOSE": "p",
        "INSTITUTIONS": "a,b,c,d",
        "MOST": "9000",
    }.items():
        words = words.replace(f" {name}", f" {value}")
    ended = typed([*shlex.split(words)[1:], "--out", "plan.toml"])
    assert ended.code == 0, ended
    plan = load_plan((tmp_path / "plan.toml").read_text())
    assert (plan.rounds, plan.privacy.epsilon, plan.people.national) == (found.rounds, 0.7, 9000)
    assert (plan.participation.quorum, plan.participation.spare_attempts) == (4, 2)
    assert (plan.people.held_out_fraction, plan.privacy.delta) == (0.1, 2e-7)


def test_a_loss_or_an_epsilon_and_features_or_a_schema_are_named_never_both() -> None:
    whom = "plan advise --people 9000 --institutions 4"
    for words in (
        "--features 4",
        "--features 4 --epsilon 1 --loss 0.1",
        "--epsilon 1",
        "--features 4 --schema s --epsilon 1",
    ):
        assert typed(shlex.split(f"{whom} {words}")).code == ConfigurationError.exit_code


def test_a_federation_of_nobody_is_refused_in_words() -> None:
    for people in (0, -5, 99):
        asked = f"plan advise --people {people} --institutions 4 --features 9 --epsilon 1"
        ended = typed(shlex.split(asked))
        assert ended.code == ConfigurationError.exit_code
        assert f"people.national={people}" in ended.err


def test_people_get_tables_and_the_command_to_type() -> None:
    ended = typed(
        shlex.split("plan advise --people 90000 --institutions 4 --features 9 --loss 0.01")
    )
    assert ended.code == 0
    assert "fedscore plan new --schema SCHEMA" in ended.out
    assert "Noise to signal" in ended.out


def test_the_law_is_whole_and_in_the_package() -> None:
    assert LAW_FILE.is_file()
    assert fitted().law.middle.offset == 0.0


def test_the_command_says_how_the_range_did_on_data_it_was_not_fitted_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whom = "--people 90000 --institutions 4 --features 9 --epsilon 1"
    assert advised(whom).unseen == fitted().unseen
    monkeypatch.setattr(
        "fedscore.advice.fitted",
        lambda: Fitted(law=law, unseen=Held(trainings=200, less=22, more=38)),
    )
    law = fitted().law
    said = " ".join(typed(shlex.split(f"plan advise {whom}")).out.split())
    assert "Of 200 trainings on data that it was not fitted on, about 7 in 10 fell inside" in said
    assert "(11% lost less, 19% more)" in said
    assert advised(whom).unseen.inside == 140


def test_a_law_that_does_not_say_how_it_did_or_contradicts_itself_is_refused() -> None:
    known = msgspec.json.decode(LAW_FILE.read_bytes())
    for bad in ({"law": known["law"]}, known | {"more": 1}, known | {"unseen": {"trainings": 9}}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(bad, Fitted)
    for counts in ((0, 0, 0), (5, 3, 3), (5, -1, 0)):
        with pytest.raises(ConfigurationError, match="trainings"):
            Held(**dict(zip(("trainings", "less", "more"), counts, strict=True)))
