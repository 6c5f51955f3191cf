"""What the frozen vectors hold, recomputed: tests compare it with the files, byte for byte.

The files change only when a format changes on purpose: `python -m tests.vectors.freezing` writes
them anew, and the difference is then read by a person.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from federation import canonical
from federation.messages import (
    Abort,
    Accept,
    Answered,
    AnswerHeader,
    Ask,
    Begin,
    Begun,
    Close,
    Closed,
    Coins,
    Invite,
    Join,
    Joined,
    Noted,
    Open,
    Refund,
    RefusalCode,
    Refuse,
    Reply,
    Request,
    Voted,
    encode,
)
from federation.model.scorecard import AdditiveCard
from federation.plan import plan_toml
from federation.population import Split, key_hashes
from federation.privacy.discrete_gaussian import sample
from federation.privacy.entropy import Keystream
from federation.query import Question
from federation.secure_aggregation.roster import roster_toml
from federation.secure_aggregation.session import Announcement
from federation.secure_aggregation.survivors import Reveal, SetSigned
from tests.federations import (
    KEY,
    NOW,
    OTHER_KEY,
    SALT,
    names,
    roster_of,
    signed_plan,
    small_schema,
)
from tests.networks import KINDS, plain_network
from tests.vectors import local_answers, masking, refusals

DIRECTORY: Final = Path(__file__).parent
KEYS: Final = (
    bytes(32),
    bytes(range(32)),
    b"\xff" * 32,
    bytes.fromhex("0aed202ff0e5bc9c69c744f3e8f9f9467242860149f5e770627e17da6f3090e8"),
)
VARIANCES: Final = (4, 17, 4096, 10**6 + 3, 10**12, 2**64 + 7, 2**80)
DIGEST: Final = "ab" * 32
CARD: Final = AdditiveCard(
    base=-5, bin_of_cell=((0, 1, 1), (0, 0)), weights=((-32768, 32768), (7,))
)
BYTES: Final = bytes(range(32))
SIGNATURE: Final = bytes(range(64))
ASKED: Final = Open(
    session=BYTES,
    question=Question.STEP,
    round=3,
    attempt=1,
    model=CARD,
    coins=Coins(context=BYTES, coins=(BYTES, bytes(32))),
    signature="ef" * 64,
)
ANNOUNCEMENT: Final = Announcement(institution="bank-00", key=BYTES, signature=SIGNATURE)
PLAYED: Final = refusals.ATTEMPT

MESSAGES: Final[dict[str, Request | Reply]] = {
    "invite": Invite(plan="format = 3\n"),
    "begin": Begin(plan=DIGEST, session=BYTES),
    "join": Join(session=BYTES, announcements=(ANNOUNCEMENT,)),
    "open bins": Open(
        session=BYTES,
        question=Question.BINS,
        round=0,
        attempt=0,
        model=None,
        coins=None,
        signature="",
    ),
    "open a step": ASKED,
    "open a gradient": Open(
        session=BYTES,
        question=Question.GRADIENT,
        round=2,
        attempt=0,
        model=plain_network(small_schema()),
        coins=None,
        signature="ef" * 64,
    ),
    "ask for bins": Ask(
        plan=DIGEST, question=Question.BINS, round=0, model=None, signature="ef" * 64
    ),
    "ask for a gradient": Ask(
        plan=DIGEST,
        question=Question.GRADIENT,
        round=2,
        model=plain_network(small_schema()),
        signature="",
    ),
    "survivors": PLAYED.told(0),
    "reveal": Reveal(context=BYTES, signers=(0, 2, 300), signatures=(SIGNATURE, b"", SIGNATURE)),
    "abort": Abort(context=BYTES),
    "refund": Refund(context=BYTES, voters=(0, 1), votes=(SIGNATURE, SIGNATURE)),
    "close with a release": Close(plan=DIGEST, release=b"{}", coins=ASKED.coins),
    "close without": Close(plan=DIGEST, release=b"", coins=None),
    "accept": Accept(plan=DIGEST, ledger_sequence=7, ledger_head="cd" * 32),
    "begun": Begun(session=BYTES, announcement=ANNOUNCEMENT),
    "joined": Joined(session=BYTES),
    "upload": PLAYED.collected.uploads[2],
    "answered": Answered(
        context=BYTES,
        header=AnswerHeader(
            institution="bank-00",
            numbers=BYTES,
            ledger_sequence=2**40,
            ledger_head="cd" * 32,
            signature=SIGNATURE,
        ),
        numbers=bytes(range(16)),
    ),
    "set signed": SetSigned(context=BYTES, signature=SIGNATURE),
    "revealed": PLAYED.revealed()[2],
    "voted": Voted(context=BYTES, signature=SIGNATURE),
    "noted": Noted(context=BYTES),
    "refuse": Refuse(code=RefusalCode.OUT_OF_ORDER),
    "refuse a peer": Refuse(code=RefusalCode.PEER, peer="bank-00"),
    "closed": Closed(plan=DIGEST, ledger_sequence=2**40, ledger_head="00" * 32),
}

VALUES: Final[dict[str, Any]] = {
    "empty": {},
    "keys are sorted": {"b": 1, "a": [2, 3], "A": None},
    "shortest floats": [0.1, 1e22, 1.0, -0.0, 5e-324],
    "no escapes beyond JSON's": {"\u00e9": '\u2028 "quoted" \\ \n'},
    "true is not one": [True, 1, False, 0],
    "large integers": [2**62, -(2**63), 10**30],
}


def keystreams() -> list[dict[str, Any]]:
    """Returns the first 8 words of the stream of each key, and words 6 to 9 drawn in two calls."""
    found = []
    for key in KEYS:
        stream = Keystream(key)
        first = [str(word) for word in stream.words(6)]
        found.append({"key": key.hex(), "words": [*first, *(str(w) for w in stream.words(4))]})
    return found


def draws() -> list[dict[str, Any]]:
    """Returns 12 draws for each of three keys and all variances."""
    return [
        {
            "key": key.hex(),
            "variance": str(variance),
            "draws": [str(one) for one in sample(variance=variance, count=12, key=key)],
        }
        for key in KEYS[1:]
        for variance in VARIANCES
    ]


def signatures() -> list[dict[str, Any]]:
    """Returns canonical bytes, digest and signature of values under two labels."""
    return [
        {
            "name": name,
            "label": label,
            "canonical": canonical.canonical_json(value).decode(),
            "digest": canonical.digest(label, canonical.canonical_json(value)),
            "public_key": canonical.public_key_of(key),
            "signature": canonical.sign(key, label, canonical.canonical_json(value)),
        }
        for label, key in (("fedscore/test/1", KEY), ("fedscore/other/1", OTHER_KEY))
        for name, value in VALUES.items()
    ]


def messages() -> list[dict[str, str]]:
    """Returns the bytes of every kind of message."""
    return [
        {"name": name, "kind": type(message).__name__, "bytes": encode(message).hex()}
        for name, message in MESSAGES.items()
    ]


def plans() -> list[dict[str, str]]:
    """Returns signed plans as TOML, with digest."""
    changes: dict[str, dict[str, Any]] = {
        "small": {},
        "ten institutions": {"invited": names(10), "quorum": 9, "colluders": 2, "rounds": 40},
        "nobody held out": {"held_out_fraction": 0.0, "spare_attempts": 0},
        "a year": {"days": 365, "valid_from": datetime.fromtimestamp(NOW + 1, UTC)},
        **KINDS,
    }
    schema = small_schema()
    found = []
    for name, change in changes.items():
        plan = signed_plan(schema, **change)
        found.append({"name": name, "toml": plan_toml(plan), "digest": plan.digest})
    return found


def rosters() -> list[dict[str, Any]]:
    """Returns a signed roster as TOML, with digest and the coordinator's key."""
    roster = roster_of(signed_plan(small_schema()))
    return [
        {
            "toml": roster_toml(roster),
            "digest": roster.digest,
            "coordinator": canonical.public_key_of(KEY),
        }
    ]


def splits() -> list[dict[str, Any]]:
    """Returns the hash of some person keys and the threshold below which they are held out."""
    split = Split(salt=SALT, held_out_fraction=0.25)
    keys: tuple[str | int, ...] = (0, 1, "1", "alice", "\u00e9", "", 10**18)
    hashes = key_hashes(split, keys)
    return [
        {
            "salt": SALT,
            "key": key,
            "hash": str(number),
            "held_out": bool(number < np.uint64(split.threshold)),
        }
        for key, number in zip(keys, hashes, strict=True)
    ]


FROZEN: Final[dict[str, Callable[[], Any]]] = {
    "keystream.json": keystreams,
    "discrete_gaussian.json": draws,
    "signatures.json": signatures,
    "messages.json": messages,
    "plans.json": plans,
    "split.json": splits,
    "rosters.json": rosters,
    "sessions.json": masking.sessions,
    "contexts.json": masking.contexts,
    "local_answers.json": local_answers.local_answers,
    "attempts.json": masking.attempts,
    "shamir.json": masking.shares,
    "merkle.json": masking.trees,
    "votes.json": masking.votes,
    "coins.json": masking.coins,
    "refusals.json": refusals.refusals,
}


def load(name: str) -> Any:
    """Returns the content of a frozen file."""
    return json.loads((DIRECTORY / name).read_text())


def freeze() -> None:
    """Writes all files anew."""
    for name, compute in FROZEN.items():
        text = json.dumps(compute(), indent=1, ensure_ascii=True)
        (DIRECTORY / name).write_text(text + "\n")


if __name__ == "__main__":
    freeze()
