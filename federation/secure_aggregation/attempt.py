"""What an institution has said about one attempt at one round, and what it may still say.

    Undecided -> Signed(set) -> Released(set)
    Undecided ----------------> Released(everybody)
    Undecided or Signed ------> Aborted

Nothing leads back, so there is one set at most, and an abort vote is never followed by a release.
With 2t > n + c no two different totals can then be completed, and t abort votes mean that none can
(PROTOCOL.md; tests/adversarial/test_lying_coordinator.py walks through every case).
"""

from dataclasses import dataclass

from federation.errors import ProtocolError


@dataclass(frozen=True, slots=True)
class Undecided:
    """Said nothing yet."""


@dataclass(frozen=True, slots=True)
class Signed:
    """Signed one set of survivors; released nothing.

    Attributes:
        survivors: places in order.
    """

    survivors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Released:
    """Released shares and seeds for one set of survivors.

    Attributes:
        survivors: places in order.
    """

    survivors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Aborted:
    """Voted that the attempt be given up, and promised never to release anything for it."""


Standing = Undecided | Signed | Released | Aborted


def on_survivors(
    standing: Standing, survivors: tuple[int, ...], *, members: int, quorum: int, place: int
) -> Signed | Released:
    """Returns where we stand once we were told who uploaded.

    If everybody did, shares are released at once; that counts as signing the full set.

    Args:
        standing: so far.
        survivors: places in order.
        members: of the session.
        quorum: m.
        place: ours.

    Raises:
        ProtocolError: we signed or voted already; the set is malformed, below the quorum, or we
            are not in it.
    """
    if not isinstance(standing, Undecided):
        raise ProtocolError("This attempt has one set of survivors, and we have had our say.")
    if list(survivors) != sorted(set(survivors)) or not (
        survivors and survivors[0] >= 0 and survivors[-1] < members
    ):
        raise ProtocolError("A set of survivors names places of the session in order, each once.")
    if len(survivors) < quorum:
        raise ProtocolError(f"{len(survivors)} survivors are fewer than the quorum {quorum}.")
    if place not in survivors:
        raise ProtocolError("We are not among the survivors.")
    return Released(survivors) if len(survivors) == members else Signed(survivors)


def on_signatures(standing: Standing, signers: int, *, threshold: int) -> Released:
    """Returns where we stand once enough members signed the very set that we signed.

    Args:
        standing: so far.
        signers: different members whose signatures on our set are valid.
        threshold: t.

    Raises:
        ProtocolError: we have not signed a set, or too few have.
    """
    if not isinstance(standing, Signed):
        raise ProtocolError("We have not signed a set of survivors that waits for signatures.")
    if signers < threshold:
        raise ProtocolError(f"{signers} signatures are fewer than the threshold {threshold}.")
    return Released(standing.survivors)


def on_abort(standing: Standing) -> Aborted:
    """Returns where we stand after an abort vote.

    Raises:
        ProtocolError: we have released something for this attempt.
    """
    if isinstance(standing, Released):
        raise ProtocolError("We have released shares of this attempt: it may have been opened.")
    return Aborted()
