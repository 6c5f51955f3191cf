"""A session and one attempt in it, from keys to total, as dictionaries of hexadecimal digits.

The names are those of the frozen files: `session` and `attempt` take what is `given` there and
return what is `expected`.
"""

import json
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from tests.reference.primitives import (
    expand,
    extract,
    framed,
    hashed,
    keystream,
    packed,
    public_identity,
    public_key,
    sealed,
    signed,
    x25519,
)
from tests.reference.sharing import path, root, secret_of, shares_of

VERSION = 2


class Session:
    """What everybody in a session could compute together: here one program knows all secrets."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.ids: list[str] = [one["id"] for one in given["members"]]
        self.identities = [bytes.fromhex(one["identity"]) for one in given["members"]]
        self.secrets = [bytes.fromhex(one["secret"]) for one in given["members"]]
        self.threshold: int = given["threshold"]
        name, plan = bytes.fromhex(given["session"]), bytes.fromhex(given["plan"])
        members = [
            {"id": one, "key": public_identity(identity).hex()}
            for one, identity in zip(self.ids, self.identities, strict=True)
        ]
        said = {"federation": given["federation"], "members": members}
        text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        self.roster = hashed("fedscore/roster/1", text.encode())
        self.keys = [public_key(secret) for secret in self.secrets]
        self.announcements = [
            {
                "body": body.hex(),
                "key": key.hex(),
                "signature": signed(identity, "fedscore/session-key/2", body).hex(),
            }
            for one, key, identity in zip(self.ids, self.keys, self.identities, strict=True)
            for body in [framed("announcement", name, one.encode(), key, self.roster, plan)]
        ]
        parts = [
            x for one, key in zip(self.ids, self.keys, strict=True) for x in (one.encode(), key)
        ]
        self.group = hashed("fedscore/session/2", name, plan, self.roster, *parts)

    def chain(self, u: int, v: int, round_: int) -> bytes:
        low, high = min(u, v), max(u, v)
        shared = x25519(self.secrets[u], self.keys[v])
        info = framed("fedscore/chain/2", place(low), place(high))
        key = expand(extract(self.group, shared), info)
        for _ in range(round_):
            key = extract(key, b"fedscore/ratchet/2")  # an HMAC under the last key
        return key

    def seed(self, u: int, v: int, round_: int, context: bytes) -> bytes:
        return self._derived(b"mask", min(u, v), max(u, v), round_, context)

    def seal_key(self, sender: int, receiver: int, round_: int, context: bytes) -> bytes:
        return self._derived(b"seal", sender, receiver, round_, context)

    def _derived(self, use: bytes, u: int, v: int, round_: int, context: bytes) -> bytes:
        info = framed("fedscore/pair/2", use, place(u), place(v), context)
        return expand(self.chain(u, v, round_), info)


def place(number: int) -> bytes:
    return number.to_bytes(4, "little")


def session(given: dict[str, Any]) -> dict[str, Any]:
    """Returns digests and keys of a session."""
    found = Session(given)
    context = bytes.fromhex(given["context"])
    pairs = [(u, v) for u in range(len(found.ids)) for v in range(len(found.ids)) if u != v]
    return {
        "roster": found.roster.hex(),
        "announcements": found.announcements,
        "group": found.group.hex(),
        "pairs": [
            {
                "round": round_,
                "from": u,
                "to": v,
                "chain": found.chain(u, v, round_).hex(),
                "mask": found.seed(u, v, round_, context).hex(),
                "seal": found.seal_key(u, v, round_, context).hex(),
            }
            for round_ in given["rounds"]
            for u, v in pairs
        ],
    }


def context_of(group: bytes, given: dict[str, Any]) -> bytes:
    numbers = [given["round"], given["attempt"], given["bits"], len(given["vectors"][0])]
    digests = [bytes.fromhex(given[name]) for name in ("plan", "model", "query")]
    eight = [number.to_bytes(8, "little") for number in numbers]
    return hashed("fedscore/context/2", group, *digests, *eight)


def sorted_json(value: Any) -> bytes:
    """Returns JSON with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def asked(given: dict[str, Any]) -> dict[str, Any]:
    """Returns word and context of one question of a plan."""
    most = bound(given["question"], given["most_people"])
    bits = word_bits(most, given["institutions"], given["share_variance"])
    query = {name: given[name] for name in ("question", "columns", "share_variance")}
    rest = {
        "round": given["position"],
        "attempt": given["attempt"],
        "bits": bits,
        "vectors": [[0] * sum(given["columns"])],
        "plan": given["plan"],
        "model": hashed("fedscore/model/3", packed(as_said(given["model"]))).hex(),
        "query": hashed("fedscore/query/2", sorted_json(query)).hex(),
    }
    return {"bits": bits, "context": context_of(bytes.fromhex(given["group"]), rest).hex()}


def asked_locally(given: dict[str, Any]) -> dict[str, Any]:
    """Returns what is signed of one question in local mode, and of one institution's answer."""
    query = {name: given[name] for name in ("question", "columns", "share_variance")}
    context = hashed(
        "fedscore/local-context/1",
        bytes.fromhex(given["plan"]),
        hashed("fedscore/model/3", packed(as_said(given["model"]))),
        hashed("fedscore/query/2", sorted_json(query)),
        given["position"].to_bytes(8, "little"),
    )
    numbers = b"".join(int(one).to_bytes(8, "little", signed=True) for one in given["numbers"])
    sequence, head = given["ledger"]
    digest = hashed("fedscore/numbers/1", numbers)
    body = framed(
        "answered",
        context,
        given["institution"].encode(),
        digest,
        sequence.to_bytes(8, "little"),
        head.encode(),
    )
    identity, coordinator = (bytes.fromhex(given[one]) for one in ("identity", "coordinator"))
    return {
        "context": context.hex(),
        "asked": signed(coordinator, "fedscore/ask/1", context).hex(),
        "numbers": digest.hex(),
        "answered": signed(identity, "fedscore/answer/1", body).hex(),
    }


def as_said(model: dict[str, Any] | None) -> dict[str, Any] | None:
    """Returns a model as a message has it: the parameters of a network are bytes."""
    if model is None or "parameters" not in model:
        return model
    return model | {"parameters": bytes.fromhex(model["parameters"])}


def bound(question: str, most_people: int) -> int:
    """Returns how large a cell of one institution's sum can be: people times what each may bring.

    A gradient's people bring 2^24 each; an update is one vector of that length, whoever they are.
    """
    match question:
        case "update":
            return 2**24
        case "gradient":
            return most_people * 2**24
        case _:
            return most_people * 2**16


def word_bits(most: int, institutions: int, share_variance: int) -> int:
    """Returns the least word that 14 standard deviations of every share of noise stay within."""
    deviation = 0
    while deviation**2 <= share_variance:  # the next whole number above, doubled until it is found
        deviation = 2 * deviation + 1
    low, high = 0, deviation
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**2 <= share_variance else (low, middle - 1)
    total = institutions * (most + 14 * (low + 1))
    return 32 if total < 2**31 else 64


def masked(vector: Sequence[int], added: list[bytes], subtracted: list[bytes], bits: int) -> bytes:
    """Returns a vector with masks on it, each number modulo the word."""
    size, words = bits // 8, list(vector)
    for keys, sign in ((added, 1), (subtracted, -1)):
        for key in keys:
            stream = keystream(key, size * len(words))
            for i in range(len(words)):
                words[i] += sign * int.from_bytes(stream[size * i : size * i + size], "little")
    return b"".join((word % 2**bits).to_bytes(size, "little") for word in words)


def header(given: dict[str, Any], one: int, context: bytes, digests: list[bytes]) -> dict[str, str]:
    member = given["members"][one]
    sequence, head = given["ledger"][one]
    body = framed(
        "header",
        context,
        member["id"].encode(),
        *digests,
        bytes.fromhex(given["noise"][one]),
        sequence.to_bytes(8, "little"),
        head.encode(),
    )
    return {
        "masked": digests[0].hex(),
        "own_mask": digests[1].hex(),
        "leaves": digests[2].hex(),
        "body": body.hex(),
        "signature": signed(bytes.fromhex(member["identity"]), "fedscore/header/2", body).hex(),
    }


def attempt(given: dict[str, Any]) -> dict[str, Any]:
    """Returns everything that is said in one attempt."""
    joint = Session(given)
    context, round_, bits = context_of(joint.group, given), given["round"], given["bits"]
    everybody = range(len(joint.ids))
    survivors = [one for one in everybody if one not in given["dropped"]]
    uploads: list[dict[str, Any] | None] = []
    leaves: dict[int, list[bytes]] = {}
    shares: dict[int, list[bytes]] = {}
    seeds = {
        u: {v: joint.seed(u, v, round_, context) for v in everybody if v != u} for u in everybody
    }
    for u in everybody:
        if u not in survivors:
            uploads.append(None)
            continue
        own = bytes.fromhex(given["own_masks"][u])
        words = masked(
            given["vectors"][u],
            [own, *(seeds[u][v] for v in everybody if v > u)],
            [seeds[u][v] for v in everybody if v < u],
            bits,
        )
        key = bytes.fromhex(given["share_keys"][u])
        shares[u] = shares_of(own, given["threshold"], len(everybody), key)
        of_shares = [
            hashed("fedscore/share/2", context, place(u), place(v), shares[u][v]) for v in everybody
        ]
        of_seeds = [
            bytes(32) if v == u else hashed("fedscore/seed/2", seeds[u][v]) for v in everybody
        ]
        leaves[u] = [a + b for a, b in zip(of_shares, of_seeds, strict=True)]
        digests = [hashed("fedscore/masked/2", words), commitment(coin(own)), root(leaves[u])]
        uploads.append(
            {
                "header": header(given, u, context, digests),
                "words": words.hex(),
                "shares": b"".join(of_shares).hex(),
                "seeds": b"".join(of_seeds).hex(),
                "sealed": [
                    ""
                    if v == u
                    else sealed(
                        joint.seal_key(u, v, round_, context),
                        shares[u][v],
                        framed("share", context, place(u), place(v)),
                    ).hex()
                    for v in everybody
                ],
            }
        )
    headers = [x for x in uploads if x is not None]
    parts = [bytes.fromhex(x["header"][name]) for x in headers for name in ("body", "signature")]
    body = framed("set", context, *map(place, survivors), hashed("fedscore/headers/2", *parts))
    owns = {
        u: secret_of({v: shares[u][v] for v in survivors[: given["threshold"]]}) for u in survivors
    }
    words = bytes(len(given["vectors"][0]) * bits // 8)
    total = [0] * len(given["vectors"][0])
    for x in headers:
        for i, word in enumerate(_numbers(bytes.fromhex(x["words"]), bits)):
            total[i] += word
    left = [(u, v) for u in survivors for v in given["dropped"]]
    words = masked(
        total,
        [seeds[u][v] for u, v in left if v < u],
        [*owns.values(), *(seeds[u][v] for u, v in left if v > u)],
        bits,
    )
    coins = [coin(owns[u]) for u in survivors]
    return {
        "group": joint.group.hex(),
        "context": context.hex(),
        "uploads": uploads,
        "paths": [[b"".join(path(leaves[u], v)).hex() for u in survivors] for v in survivors],
        "set": body.hex(),
        "set_signatures": [
            signed(joint.identities[u], "fedscore/survivors/2", body).hex() for u in survivors
        ],
        "revealed": [
            {
                "shares": b"".join(shares[u][v] for u in survivors).hex(),
                "seeds": b"".join(seeds[v][w] for w in given["dropped"]).hex(),
            }
            for v in survivors
        ],
        "total": [word - 2**bits if word >> (bits - 1) else word for word in _numbers(words, bits)],
        "coins": [one.hex() for one in coins],
        "coin": hashed("fedscore/audit-coin/2", context, *coins).hex(),
    }


def _numbers(words: bytes, bits: int) -> list[int]:
    size = bits // 8
    return [int.from_bytes(words[i : i + size], "little") for i in range(0, len(words), size)]


def coin(own_mask: bytes) -> bytes:
    return hashed("fedscore/coin/2", own_mask)


def commitment(of_coin: bytes) -> bytes:
    return hashed("fedscore/own-mask/2", of_coin)


def falls_on(of_attempt: bytes, member: int, share: float) -> bool:
    drawn = hashed("fedscore/audited/2", of_attempt, place(member))[:8]
    return Fraction(int.from_bytes(drawn, "little"), 2**64) < Fraction(share)


def vote(identity: bytes, context: bytes) -> bytes:
    return signed(identity, "fedscore/abort/2", framed("abort", context))
