"""Masks cancel: a masked training opens the very integers that plain addition gives.

Both sides draw the same noise: from one entropy, one key for each institution and question in the
order of institutions. So equal bytes of the release mean equal integers in every total.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from clients.audit import PASSED
from experiments.entropy import SeededEntropy
from experiments.plain import plain_sums
from federation.asking import positions_of
from federation.messages import Open
from federation.query import Question
from federation.secure_aggregation.survivors import Revealed, SetSigned
from federation.secure_aggregation.upload import Upload
from federation.secure_aggregation.words import from_words, to_words, word_type
from server.training import Total
from tests.exchanges import Table, Wire, losing, masked_sums, silent, train
from tests.federations import KEY, Federation, Seat, federation, in_process
from tests.networks import KINDS, model_for

KIND_OF = {
    Question.GRADIENT: "a network, joint, sampled",
    Question.UPDATE: "a network, institution",
}


@pytest.mark.parametrize(
    ("rows_each", "kind", "charged"),
    [
        (1, "a scorecard, joint", True),
        (3, "a scorecard, joint", True),
        (1, "a scorecard, joint", False),
        (3, "a scorecard, joint", False),
        (1, "a network, joint", True),
        (3, "a network, joint, sampled", True),
        (1, "a network, institution", True),
    ],
)
def test_a_masked_and_a_plain_training_give_the_same_release_byte_for_byte(
    tmp_path, rows_each, kind, charged
):
    built = federation(
        tmp_path, rows_each=rows_each, not_held={"bank-02": ("late",)}, **KINDS[kind]
    )
    built.run(noise_entropy=SeededEntropy(5), out="masked")
    noise = SeededEntropy(5)
    sums = plain_sums(noise, charged=charged)
    plain = built.run(noise_entropy=noise, plain=sums, out="plain")
    masked = (tmp_path / "masked" / "release.json").read_bytes()
    assert masked == (tmp_path / "plain" / "release.json").read_bytes()
    about_persons = 0 if kind == "a network, institution" else 2  # bins and evaluation
    assert noise.calls == 4 * (built.plan.rounds + about_persons)
    assert plain.release.institutions == 4


def test_other_noise_gives_another_release(tmp_path):
    """Or the test above would say nothing."""
    built = federation(tmp_path)
    built.run(noise_entropy=SeededEntropy(5), out="masked")
    noise = SeededEntropy(6)
    built.run(noise_entropy=noise, plain=plain_sums(noise), out="plain")
    masked, plain = (
        json.loads((tmp_path / out / "release.json").read_bytes()) for out in ("masked", "plain")
    )
    assert masked["features"] != plain["features"]


def test_an_institution_that_never_takes_part_is_left_out_of_both(tmp_path):
    built = federation(tmp_path, institutions=5, quorum=4)
    built = replace(built, members=built.members[:3] + built.members[4:])
    built.run(noise_entropy=SeededEntropy(7), out="masked")
    noise = SeededEntropy(7)
    built.run(noise_entropy=noise, plain=plain_sums(noise), out="plain")
    masked = (tmp_path / "masked" / "release.json").read_bytes()
    assert masked == (tmp_path / "plain" / "release.json").read_bytes()


Wiring = Callable[[], dict[str, Any]]

CASES: dict[str, tuple[Wiring, set[str]]] = {
    "nobody drops out": (dict, set()),
    "one is silent": (lambda: {"unheard": silent("bank-03", to=Open)}, {"bank-03"}),
    "the first is silent": (lambda: {"unheard": silent("bank-00", to=Open)}, {"bank-00"}),
    "an upload is lost": (lambda: {"change": losing(Upload, of="bank-01")}, {"bank-01"}),
    "the shares of one are lost": (lambda: {"change": losing(Revealed, of="bank-04")}, set()),
    "two are silent": (
        lambda: {"unheard": silent("bank-01", "bank-04", to=Open)},
        {"bank-01", "bank-04"},
    ),
    "one is silent, and the signature of another is lost once": (
        lambda: {
            "unheard": silent("bank-03", to=Open),
            "change": losing(SetSigned, of="bank-05", at=0),
        },
        {"bank-03"},
    ),
}


def opened(built: Federation, wiring: Wiring, question: Question) -> Total:
    with built.seats(out="masked", entropy=lambda name: SeededEntropy(f"noise {name}")) as seats:
        sums = masked_sums(built, Wire(seats, **wiring()))
        with sums:
            sums.begin()
            return sums.ask(question, round_=0, model=model_for(built.plan, built.schema, question))


def plainly(seats: Mapping[str, Seat], built: Federation, question: Question) -> np.ndarray:
    model = model_for(built.plan, built.schema, question)
    found = []
    for seat in seats.values():
        seat.accept(built.plan)
        found.append(seat.answer(built.plan, question, model))
    return sum(found)


@pytest.mark.parametrize("question", Question)
@pytest.mark.parametrize("case", CASES)
def test_a_total_over_survivors_is_the_sum_of_what_these_noised(tmp_path, case, question):
    kind = KINDS[KIND_OF.get(question, "a scorecard, joint")]
    built = federation(tmp_path, institutions=6, quorum=4, people=40, **kind)
    wiring, dropped = CASES[case]
    total = opened(built, wiring, question)
    left = tuple(member for member in built.members if member.id not in dropped)
    noises = {member.id: SeededEntropy(f"noise {member.id}") for member in left}
    with replace(built, members=left).seats(out="plain", entropy=noises.__getitem__) as seats:
        expected = plainly(seats, built, question)
    assert (total.values * question.bound).astype(np.int64).tolist() == expected.tolist()
    assert total.answers == len(left)


@pytest.mark.parametrize(("epsilon", "bits"), [(8.0, 32), (0.02, 64)])
def test_masks_cancel_in_words_of_either_size(tmp_path, epsilon, bits):
    built = federation(tmp_path, people=100, epsilon=epsilon)
    with built.seats(out="masked") as seats:
        table = Table.of(built, seats)
        request = table.open(Question.BINS)
        assert table.asking(request).bits == bits
        found = table.total(request)
    with built.seats(out="plain") as seats:
        assert found.tolist() == plainly(seats, built, Question.BINS).tolist()


def test_no_upload_is_the_sum_that_it_masks_not_even_without_one_of_the_masks(tmp_path):
    built = federation(tmp_path)
    with built.seats(out="masked") as seats:
        table = Table.of(built, seats)
        request = table.open(Question.BINS)
        uploads = table.collected(request).uploads
        bits = table.asking(request).bits
    with built.seats(out="plain") as seats:
        for place, seat in enumerate(seats.values()):
            seat.accept(built.plan)
            noised = to_words(seat.answer(built.plan, Question.BINS, None), bits)
            words = np.frombuffer(uploads[place].words, dtype=word_type(bits))
            assert (words != noised).mean() > 0.9
    # Nor do pair masks alone cancel: each institution's own mask is still on.
    together = sum(np.frombuffer(one.words, dtype=word_type(bits)) for one in uploads.values())
    assert np.abs(from_words(together)).max() > 2**28  # 600 people and noise are below 2**26


@pytest.mark.parametrize(
    ("rows_each", "kind"),
    [
        (1, "a network, joint"),
        (3, "a network, joint, sampled"),
        (1, "a network, institution"),
    ],
)
def test_every_audit_of_an_answer_about_a_network_repeats_it(tmp_path, rows_each, kind):
    """Who was sampled follows from the committed key of the noise, and so can be repeated."""
    built = federation(tmp_path, rows_each=rows_each, **KINDS[kind])
    audited = msgspec.structs.replace(built.plan.participation, audited_share=1.0)
    plan = msgspec.structs.replace(built.plan, participation=audited).signed(KEY)
    built = replace(built, plan=plan)
    with built.seats() as seats:
        train(built, in_process(seats))
        for seat in seats.values():
            told = [line for line in seat.log if line.startswith("audit of ")]
            assert len(told) == len(positions_of(plan))
            assert all(line.endswith(PASSED) for line in told)
