"""Any t shares give the secret; t - 1 of them fit every secret equally well."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import PrivacyError, ProtocolError
from federation.secure_aggregation.shamir import PRIME, Basis, element, split
from tests.attempts import secret
from tests.reference import sharing

SECRETS = st.binary(min_size=32, max_size=32) | st.sampled_from(
    [bytes(32), b"\xff" * 32, b"\x01" + bytes(31), bytes(31) + b"\x80"]
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[bytes, int, int]:
    holders = draw(st.integers(2, 12))
    return draw(SECRETS), draw(st.integers(2, holders)), holders


@settings(max_examples=40, deadline=None, derandomize=True)
@given(cases(), st.data())
def test_any_threshold_of_shares_gives_the_secret(
    case: tuple[bytes, int, int], data: st.DataObject
) -> None:
    hidden, threshold, holders = case
    shares = split(hidden, threshold=threshold, holders=holders, key=secret("polynomial"))
    order = data.draw(st.permutations(range(holders)))
    some = order[: data.draw(st.integers(threshold, holders))]
    assert Basis.of(some).secret([shares[holder] for holder in some]) == hidden
    assert sharing.secret_of({holder: shares[holder] for holder in some}) == hidden


def test_every_set_of_four_of_seven_gives_the_secret_and_one_basis_serves_many_secrets() -> None:
    hidden = [secret("hidden", number) for number in range(3)]
    shares = [
        split(one, threshold=4, holders=7, key=secret("polynomial", number))
        for number, one in enumerate(hidden)
    ]
    for some in combinations(range(7), 4):
        basis = Basis.of(some)
        for one, of_one in zip(hidden, shares, strict=True):
            assert basis.secret([of_one[holder] for holder in some]) == one


@settings(max_examples=40, deadline=None, derandomize=True)
@given(cases(), SECRETS, st.data())
def test_one_share_fewer_fits_every_secret(
    case: tuple[bytes, int, int], other: bytes, data: st.DataObject
) -> None:
    """The polynomial of degree t - 1 through these shares and any other secret is constructed.

    So it could have been drawn, with the same probability as the true one.
    """
    hidden, threshold, holders = case
    shares = split(hidden, threshold=threshold, holders=holders, key=secret("polynomial"))
    some = data.draw(st.permutations(range(holders)))[: threshold - 1]
    points = {0: int.from_bytes(other, "little")}
    points |= {holder + 1: element(shares[holder]) for holder in some}
    assert len(points) == threshold
    made = [sharing.value_at(x, points).to_bytes(33, "little") for x in range(1, holders + 1)]
    assert all(made[holder] == shares[holder] for holder in some)
    any_others = data.draw(st.permutations(range(holders)))[:threshold]
    assert Basis.of(any_others).secret([made[holder] for holder in any_others]) == other
    assert (made == list(shares)) == (other == hidden)


def test_the_polynomial_is_drawn_anew_from_each_key_and_has_full_degree() -> None:
    first, second = (
        split(bytes(32), threshold=3, holders=5, key=secret("key", number)) for number in range(2)
    )
    assert not set(first) & set(second)
    points = {x: element(first[x - 1]) for x in (1, 2)}
    assert sharing.value_at(3, points) != element(first[2])  # it is not a line


@settings(max_examples=30, deadline=None, derandomize=True)
@given(cases())
def test_shares_are_those_of_the_reference(case: tuple[bytes, int, int]) -> None:
    hidden, threshold, holders = case
    key = secret("another polynomial")
    made = split(hidden, threshold=threshold, holders=holders, key=key)
    assert list(made) == sharing.shares_of(hidden, threshold, holders, key)
    assert all(len(share) == 33 for share in made)


def test_the_modulus_is_the_first_prime_above_all_32_byte_numbers() -> None:
    """Miller and Rabin's test with many bases; each number between has a factor or fails it."""
    assert is_probable_prime(PRIME)
    assert not any(is_probable_prime(number) for number in range(2**256 + 1, PRIME))


def is_probable_prime(number: int) -> bool:
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47):
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


@pytest.mark.parametrize(
    ("length", "threshold", "holders"),
    [(31, 2, 3), (33, 2, 3), (0, 2, 3), (32, 1, 3), (32, 0, 3), (32, -1, 3), (32, 4, 3)],
)
def test_a_secret_or_threshold_out_of_range_is_not_shared(
    length: int, threshold: int, holders: int
) -> None:
    with pytest.raises(PrivacyError, match="secret of 32 bytes"):
        split(bytes(length), threshold=threshold, holders=holders, key=bytes(32))


@pytest.mark.parametrize("holders", [(), (1, 1), (0, 1, 0), (-1, 1)])
def test_shares_are_not_put_together_from_other_than_distinct_holders(
    holders: tuple[int, ...],
) -> None:
    with pytest.raises(ProtocolError, match="distinct"):
        Basis.of(holders)


def test_another_number_of_shares_is_refused() -> None:
    shares = split(bytes(32), threshold=2, holders=3, key=bytes(32))
    for some in (shares[:1], shares):
        with pytest.raises(ProtocolError, match="Expected 2 shares"):
            Basis.of((0, 1)).secret(some)


@pytest.mark.parametrize(
    "share",
    [b"", bytes(32), bytes(34), PRIME.to_bytes(33, "little"), b"\xff" * 33],
)
def test_bytes_that_are_no_element_of_the_field_are_no_share(share: bytes) -> None:
    with pytest.raises(ProtocolError, match="33 bytes"):
        element(share)
    with pytest.raises(ProtocolError, match="33 bytes"):
        Basis.of((0, 1)).secret((bytes(33), share))


def test_the_ends_of_the_field_are_elements() -> None:
    assert element(bytes(33)) == 0
    assert element((PRIME - 1).to_bytes(33, "little")) == PRIME - 1


@pytest.mark.parametrize("beyond", [0, 1, 296])
def test_shares_of_a_number_beyond_32_bytes_do_not_belong_together(beyond: int) -> None:
    points = {0: 2**256 + beyond, 1: 12345}
    shares = [sharing.value_at(x, points).to_bytes(33, "little") for x in (1, 2)]
    with pytest.raises(ProtocolError, match="belong together"):
        Basis.of((0, 1)).secret(shares)
