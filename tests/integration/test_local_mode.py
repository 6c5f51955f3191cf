"""Trainings in local mode, whole: every institution adds all of the noise itself."""

from pathlib import Path
from typing import Any

import pytest

from experiments.entropy import SeededEntropy
from experiments.plain import plain_sums
from federation.model.network import Activation
from federation.plan import Local, NetworkModel, ScorecardModel
from federation.transcript_audit import audit
from tests.federations import Federation, federation

NETWORK = NetworkModel(
    hidden=(4,),
    activation=Activation.TANH,
    clip=1.0,
    sampling_rate=0.5,
    learning_rate=0.02,
    most_parameters=200,
)
CARD: dict[str, Any] = {"mode": Local(steps=1), "model": ScorecardModel()}
NET: dict[str, Any] = {"mode": Local(steps=3), "model": NETWORK}
BOTH = pytest.mark.parametrize("asked", [CARD, NET], ids=["scorecard", "network"])


def local(directory: Path, asked: dict[str, Any], **changes: Any) -> Federation:
    settings = {"spare_attempts": 0, "epsilon": 50.0, "policy": {"modes": ("local",)}}
    return federation(directory, **{**settings, **asked, **changes})


@BOTH
def test_a_training_in_local_mode_is_the_same_again_and_found_whole_by_an_audit(
    tmp_path: Path, asked: dict[str, Any]
) -> None:
    made = local(tmp_path, asked)
    first = made.run(noise_entropy=SeededEntropy(1), out="first")
    again = made.run(noise_entropy=SeededEntropy(1), out="again")
    other = made.run(noise_entropy=SeededEntropy(2), out="other")
    assert first.release == again.release
    assert first.release.digest != other.release.digest
    transcript = (tmp_path / "first" / "transcript.jsonl").read_bytes()
    found = audit(transcript, made.schema, first.release)
    assert (found.opened, found.models, found.findings) == (5, True, ())


@BOTH
def test_plain_sums_of_an_experiment_are_what_institutions_would_send(
    tmp_path: Path, asked: dict[str, Any]
) -> None:
    made = local(tmp_path, asked)
    sent = made.run(noise_entropy=SeededEntropy(1), out="sent")
    plain = made.run(noise_entropy=None, plain=plain_sums(SeededEntropy(1)), out="plain")
    assert plain.release == sent.release
