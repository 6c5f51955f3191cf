"""What the frozen files of secure aggregation hold, computed by the product from what is given."""

from typing import Any, Final

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clients.audit import coin_of_attempt, falls_on
from federation import canonical
from federation.asking import asking
from federation.canonical import Digest
from federation.messages import Model, Open, model_digest
from federation.model.network import Network
from federation.model.scorecard import AdditiveCard
from federation.query import Question
from federation.secure_aggregation import merkle, shamir
from federation.secure_aggregation.roster import Member, Roster
from federation.secure_aggregation.session import (
    Group,
    Session,
    Terms,
    announce,
    announcement_body,
    at_round,
    join,
)
from federation.secure_aggregation.survivors import ABORT_LABEL, abort_body, reveal, sign_set
from federation.secure_aggregation.upload import Upload, coin_of, commitment_to, context_of
from tests.attempts import Played, ids, secret
from tests.federations import flat_card, signed_plan, small_schema
from tests.networks import KINDS, plain_network

CARD: Final = AdditiveCard(
    base=-5, bin_of_cell=((0, 1, 1), (0, 0)), weights=((-32768, 32768), (7,))
)
LOW_ORDER: Final = {
    "zero": 0,
    "one": 1,
    "of order 8": 325606250916557431795983626356110631294008115727848805560023387167927233504,
    "another of order 8": (
        39382357235489614581723060781553021112529911719440698176882885853963445705823
    ),
    "p - 1": 2**255 - 20,
    "p": 2**255 - 19,
    "p + 1": 2**255 - 18,
    "zero with the highest bit": 2**255,
}
"""Points of the curve or its twist that give the same secret with every key (RFC 7748, 6.1)."""
SHARES: Final = (0.0, 0.1, 0.5, 0.9375, 1.0)


def _joint(members: int, threshold: int, quorum: int) -> dict[str, Any]:
    return {
        "federation": "test-federation",
        "session": secret("session", members).hex(),
        "plan": secret("plan").hex(),
        "threshold": threshold,
        "quorum": quorum,
        "members": [
            {
                "id": name,
                "identity": secret("identity", place).hex(),
                "secret": secret("session key", place).hex(),
            }
            for place, name in enumerate(ids(members))
        ],
    }


def key_of(member: dict[str, str]) -> Ed25519PrivateKey:
    """Returns the identity key of a member of a frozen file."""
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(member["identity"]))


def terms_of(given: dict[str, Any]) -> Terms:
    """Returns the terms of the session of a frozen file."""
    roster = Roster(
        federation=given["federation"],
        members=tuple(
            Member(id=one["id"], key=canonical.public_key_of(key_of(one)))
            for one in given["members"]
        ),
        signature="",
    )
    return Terms(
        session=bytes.fromhex(given["session"]),
        plan=Digest(given["plan"]),
        roster=roster,
        threshold=given["threshold"],
        quorum=given["quorum"],
    )


def joined(given: dict[str, Any]) -> tuple[Session, ...]:
    """Returns the session of a frozen file as each member sees it."""
    terms = terms_of(given)
    states = [
        announce(
            terms,
            one["id"],
            identity=key_of(one),
            session_key=bytes.fromhex(one["secret"]),
        )
        for one in given["members"]
    ]
    announced = [state.announcement for state in states]
    return tuple(join(state, announced) for state in states)


def _session(given: dict[str, Any]) -> dict[str, Any]:
    terms, context = terms_of(given), bytes.fromhex(given["context"])
    found = joined(given)
    announced = [
        announce(
            terms, one["id"], identity=key_of(one), session_key=bytes.fromhex(one["secret"])
        ).announcement
        for one in given["members"]
    ]
    return {
        "roster": terms.roster.digest,
        "announcements": [
            {
                "body": announcement_body(terms, one.institution, one.key).hex(),
                "key": one.key.hex(),
                "signature": one.signature.hex(),
            }
            for one in announced
        ],
        "group": found[0].group.digest.hex(),
        "pairs": [
            {
                "round": round_,
                "from": one.place,
                "to": peer,
                "chain": one.chains[peer].hex(),
                "mask": one.mask_seed(peer, context).hex(),
                "seal": one.key_to(peer, context).hex(),
            }
            for round_ in given["rounds"]
            for one in (at_round(session, round_) for session in found)
            for peer in range(len(found))
            if peer != one.place
        ],
    }


def sessions() -> list[dict[str, Any]]:
    """Returns a session of three: announcements, and every pair's keys at rounds 0, 1 and 5."""
    given = _joint(3, 3, 3) | {"context": secret("context").hex(), "rounds": [0, 1, 5]}
    return [{"name": "three institutions", "given": given, "expected": _session(given)}]


def _vectors(members: int, bits: int) -> list[list[int]]:
    """Returns the ends of the word, zeros, and small numbers; the first cell's sum wraps."""
    end = 2 ** (bits - 1)
    return [
        [end - 1 - place, -end, 0, place - 1, (-1) ** place * (1000 + place)]
        for place in range(members)
    ]


def _attempt_given(members: int, threshold: int, dropped: list[int], bits: int) -> dict[str, Any]:
    def each(what: str) -> list[str]:
        return [secret(what, place, members, bits).hex() for place in range(members)]

    return _joint(members, threshold, threshold) | {
        "round": 2 if dropped else 0,
        "attempt": 1 if dropped else 0,
        "model": model_digest(CARD if dropped else None).hex(),
        "query": secret("query").hex(),
        "bits": bits,
        "vectors": _vectors(members, bits),
        "own_masks": each("own mask"),
        "share_keys": each("share key"),
        "noise": each("noise"),
        "ledger": [[2 + 10**place, secret("ledger", place).hex()] for place in range(members)],
        "dropped": dropped,
    }


def played(given: dict[str, Any]) -> Played:
    """Returns the attempt of a frozen file, after the uploads."""
    found = joined(given)
    context = context_of(
        group=found[0].group.digest,
        round_=given["round"],
        attempt=given["attempt"],
        plan=bytes.fromhex(given["plan"]),
        model=bytes.fromhex(given["model"]),
        query=bytes.fromhex(given["query"]),
        bits=given["bits"],
        length=len(given["vectors"][0]),
    )

    def each(what: str) -> list[bytes]:
        return [bytes.fromhex(one) for one in given[what]]

    return Played.of(
        found,
        [np.array(vector, dtype=np.int64) for vector in given["vectors"]],
        bits=given["bits"],
        dropped=given["dropped"],
        round_=given["round"],
        attempt=given["attempt"],
        own_masks=each("own_masks"),
        share_keys=each("share_keys"),
        noise=each("noise"),
        ledgers=[(sequence, head) for sequence, head in given["ledger"]],
        at=context,
    )


def _upload(upload: Upload | None, context: bytes) -> dict[str, Any] | None:
    if upload is None:
        return None
    header = upload.header
    return {
        "header": {
            "masked": header.masked.hex(),
            "own_mask": header.own_mask.hex(),
            "leaves": header.leaves.hex(),
            "body": header.body(context).hex(),
            "signature": header.signature.hex(),
        },
        "words": upload.words.hex(),
        "shares": upload.shares.hex(),
        "seeds": upload.seeds.hex(),
        "sealed": [one.hex() for one in upload.sealed],
    }


def _attempt(given: dict[str, Any]) -> dict[str, Any]:
    found = played(given)
    collected, context = found.collected, found.context
    signatures = {
        place: sign_set(found.checked(place), key_of(given["members"][place]))
        for place in found.survivors
    }
    revealed = {
        place: reveal(found.checked(place), signature) for place, signature in signatures.items()
    }
    opened = collected.opened(revealed)
    headers = [collected.uploads[place].header for place in found.survivors]
    return {
        "group": collected.group.digest.hex(),
        "context": context.hex(),
        "uploads": [
            _upload(collected.uploads.get(place), context)
            for place in range(len(collected.group.members))
        ],
        "paths": [
            [one.path.hex() for one in found.told(place).relayed] for place in found.survivors
        ],
        "set": collected.body.hex(),
        "set_signatures": [one.hex() for one in signatures.values()],
        "revealed": [
            {"shares": one.shares.hex(), "seeds": one.seeds.hex()} for one in revealed.values()
        ],
        "total": opened.total.tolist(),
        "coins": [one.hex() for one in opened.coins],
        "coin": coin_of_attempt(context, headers, opened.coins).hex(),
    }


def attempts() -> list[dict[str, Any]]:
    """Returns whole attempts of 3 and 5, with and without a dropout, in both words.

    No plan lets one of three drop out; the arithmetic does not mind.
    """
    found = []
    for members, full, fewer in ((3, 3, 2), (5, 4, 4)):
        for dropped in ([], [1]):
            for bits in (32, 64):
                given = _attempt_given(members, fewer if dropped else full, dropped, bits)
                name = f"{members} institutions, {len(dropped)} dropped, {bits} bits"
                found.append({"name": name, "given": given, "expected": _attempt(given)})
    return found


def contexts() -> list[dict[str, Any]]:
    """Returns the contexts of questions of a plan, with all that goes into them."""
    schema = small_schema()
    kinds = {name: signed_plan(schema, **kind) for name, kind in KINDS.items()}
    group = Group(
        terms=terms_of(_joint(3, 3, 3)), members=(), identities=(), digest=secret("group")
    )
    flat = flat_card(schema)
    steep = msgspec.structs.replace(
        flat, base=-300, weights=tuple(tuple(range(-len(w), 0)) for w in flat.weights)
    )
    network = plain_network(schema)
    asked = (
        ("a scorecard, joint", Question.BINS, 0, 0, None),
        ("a scorecard, joint", Question.BINS, 0, 1, None),
        ("a scorecard, joint", Question.STEP, 0, 0, flat),
        ("a scorecard, joint", Question.STEP, 2, 1, steep),
        ("a scorecard, joint", Question.EVALUATION, 0, 0, steep),
        ("a network, joint", Question.BINS, 0, 0, None),
        ("a network, joint", Question.GRADIENT, 1, 0, network),
        ("a network, joint, sampled", Question.GRADIENT, 2, 1, network),
        ("a network, joint", Question.EVALUATION, 0, 0, network),
        ("a network, institution", Question.UPDATE, 0, 0, network),
        ("a network, institution", Question.UPDATE, 2, 0, network),
    )
    found = []
    for kind, question, round_, attempt, model in asked:
        plan = kinds[kind]
        opened = Open(
            session=bytes(32),
            question=question,
            round=round_,
            attempt=attempt,
            model=model,
            coins=None,
            signature="",
        )
        asked_ = asking(plan, schema, group, opened)
        found.append(
            {
                "given": {
                    "group": group.digest.hex(),
                    "plan": group.terms.plan,
                    "position": asked_.position,
                    "attempt": attempt,
                    "model": as_said(model),
                    "question": question.value,
                    "columns": list(asked_.query.columns),
                    "share_variance": asked_.query.share_variance,
                    "most_people": plan.people.most_per_institution,
                    "institutions": len(plan.participation.invited),
                },
                "expected": {"bits": asked_.bits, "context": asked_.context.hex()},
            }
        )
    return found


def as_said(model: Model | None) -> Any:
    """Returns a model as in a message, the parameters of a network in hexadecimal digits."""
    said = msgspec.json.decode(msgspec.json.encode(model))
    return said | {"parameters": model.parameters.hex()} if isinstance(model, Network) else said


def shares() -> list[dict[str, Any]]:
    """Returns shares of the smallest, the largest and other secrets."""
    secrets = {"zero": bytes(32), "largest": b"\xff" * 32, "one": b"\x01" + bytes(31)}
    found = []
    for name, hidden in (secrets | {"some": secret("shared")}).items():
        for threshold, holders in ((2, 2), (2, 3), (4, 5), (7, 10)):
            key = secret("polynomial", name, threshold, holders)
            parts = shamir.split(hidden, threshold=threshold, holders=holders, key=key)
            found.append(
                {
                    "name": f"{name}, {threshold} of {holders}",
                    "secret": hidden.hex(),
                    "threshold": threshold,
                    "key": key.hex(),
                    "shares": [one.hex() for one in parts],
                }
            )
    return found


def trees() -> list[dict[str, Any]]:
    """Returns roots and paths of trees of 1 to 9 leaves."""
    found = []
    for count in range(1, 10):
        leaves = [secret("leaf", number) * 2 for number in range(count)]
        tree = merkle.levels(leaves)
        found.append(
            {
                "leaves": [one.hex() for one in leaves],
                "root": merkle.root(leaves).hex(),
                "paths": [merkle.path(tree, place).hex() for place in range(count)],
            }
        )
    return found


def votes() -> list[dict[str, str]]:
    """Returns abort votes on two contexts."""
    found = []
    for place in range(2):
        member = {"identity": secret("identity", place).hex()}
        context = secret("context", place)
        signature = canonical.sign(key_of(member), ABORT_LABEL, abort_body(context))
        found.append(member | {"context": context.hex(), "signature": signature})
    return found


def coins() -> list[dict[str, Any]]:
    """Returns coins, commitments to them, and on whom they fall at some audited shares."""
    return [
        {
            "own_mask": own.hex(),
            "coin": coin_of(own).hex(),
            "commitment": commitment_to(coin_of(own)).hex(),
            "falls_on": [
                {
                    "share": share,
                    "members": [
                        place for place in range(8) if falls_on(coin_of(own), place, share)
                    ],
                }
                for share in SHARES
            ],
        }
        for own in (bytes(32), b"\xff" * 32, secret("own"))
    ]
