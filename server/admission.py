"""Who is let into a federation: cards compared out of band, and the roster they make."""

import re
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from federation.card import Card, is_fingerprint_of
from federation.errors import ConfigurationError, ProtocolError
from federation.plan import Plan
from federation.secure_aggregation.roster import Member, Roster

_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")


def admitted(
    roster: Roster,
    cards: Mapping[str, Card],
    card: Card,
    *,
    fingerprint: str,
    key: Ed25519PrivateKey,
) -> Roster:
    """Returns the roster with one more institution, signed.

    Args:
        roster: so far.
        cards: of those it names.
        card: its signature checked, otherwise unknown.
        fingerprint: of the institution's key, as its people gave it by another way.
        key: the coordinator's.

    Raises:
        ConfigurationError: the fingerprint is another key's, the card is for another federation,
            names no usable id or node key, or its id or one of its keys is somebody's already.
    """
    name = card.institution
    if not _ID.fullmatch(name):
        raise ConfigurationError("The card's id is not 1 to 64 letters, digits and hyphens.")
    if not is_fingerprint_of(card.key, fingerprint):
        raise ConfigurationError(
            f"The card of {name} has another fingerprint than the one given. Ask its people again, "
            "by another way than the card came: somebody may have exchanged the card."
        )
    if card.federation != roster.federation:
        raise ConfigurationError(
            f"The card of {name} is for the federation {card.federation!r}, this is "
            f"{roster.federation!r}."
        )
    _require_node_key(card)
    if roster.key_of(name) is not None:
        raise ConfigurationError(f"{name} is admitted already.")
    for other in cards.values():
        if {card.key, card.sealing, card.node} & {other.key, other.sealing, other.node}:
            raise ConfigurationError(f"The card of {name} has a key of {other.institution}.")
    members = (*roster.members, Member(id=name, key=card.key))
    return Roster(
        federation=roster.federation,
        members=tuple(sorted(members, key=lambda one: one.id)),
        signature="",
    ).signed(key)


def cards_of_invited(
    plan: Plan, roster: Roster, cards: Mapping[str, Card], *, has_begun: bool
) -> dict[str, Card]:
    """Returns the card of each institution that a plan invites.

    Args:
        plan: signed.
        roster: as it is now.
        cards: of those it names.
        has_begun: whether the training is under way; then whoever was revoked since is left out.

    Raises:
        ConfigurationError: an institution is not admitted, or the plan is another federation's.
        ProtocolError: a card is not the one whose key the roster names.
    """
    if plan.federation != roster.federation:
        raise ConfigurationError(
            f"The plan is for the federation {plan.federation!r}, this is {roster.federation!r}."
        )
    invited = plan.participation.invited
    here = [name for name in invited if roster.key_of(name) is not None]
    strangers = [name for name in invited if name not in here]
    if strangers and not has_begun:
        raise ConfigurationError(f"Not admitted, but invited: {', '.join(strangers)}.")
    for name in here:
        if name not in cards or cards[name].key != roster.key_of(name):
            raise ProtocolError(f"The card of {name} is missing or not the one in the roster.")
    return {name: cards[name] for name in here}


def revoked(roster: Roster, name: str, *, key: Ed25519PrivateKey) -> Roster:
    """Returns the roster without an institution, signed. Nobody else needs anything new.

    Raises:
        ConfigurationError: it is not admitted.
    """
    if roster.key_of(name) is None:
        raise ConfigurationError(f"{name} is not admitted: there is nothing to revoke.")
    return Roster(
        federation=roster.federation,
        members=tuple(one for one in roster.members if one.id != name),
        signature="",
    ).signed(key)


def _require_node_key(card: Card) -> None:
    try:
        key = load_ssh_public_key(card.node.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(
            f"The node key on the card of {card.institution} is no OpenSSH public key."
        ) from error
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP384R1):
        raise ConfigurationError(
            f"Expected the node key on the card of {card.institution} on the curve P-384."
        )
