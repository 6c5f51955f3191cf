"""Messages that must be refused, each with the class of error, and beside them one that is not.

All are about the second of the frozen attempts of three: the member in the middle dropped out. What
is changed is changed after signing unless it says otherwise.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation import canonical
from federation.errors import FedscoreError
from federation.messages import (
    Join,
    Reply,
    Request,
    Voted,
    decode_reply,
    decode_request,
    encode,
)
from federation.secure_aggregation.attempt import Signed, Undecided, on_signatures, on_survivors
from federation.secure_aggregation.opening import require_fits
from federation.secure_aggregation.session import (
    ANNOUNCEMENT_LABEL,
    Announcement,
    announce,
    announcement_body,
    join,
)
from federation.secure_aggregation.survivors import (
    ABORT_LABEL,
    SET_LABEL,
    Reveal,
    Revealed,
    SetSigned,
    Survivors,
    abort_body,
    checked,
    valid_signers,
)
from federation.secure_aggregation.upload import HEADER_LABEL, Header, Upload
from tests.attempts import secret
from tests.vectors.masking import LOW_ORDER, attempts, key_of, played, terms_of

GIVEN: Final[dict[str, Any]] = attempts()[2]["given"]
TERMS: Final = terms_of(GIVEN)
KEYS: Final = tuple(key_of(one) for one in GIVEN["members"])
ATTEMPT: Final = played(GIVEN)
US: Final = 0
DROPPED: Final = 1
PEER: Final = 2


def _announced() -> list[Announcement]:
    return [
        announce(
            TERMS, one["id"], identity=KEYS[place], session_key=bytes.fromhex(one["secret"])
        ).announcement
        for place, one in enumerate(GIVEN["members"])
    ]


def _resigned(place: int, key: bytes, *, by: Ed25519PrivateKey | None = None) -> Announcement:
    """Returns an announcement of any key, truly signed."""
    name = GIVEN["members"][place]["id"]
    body = announcement_body(TERMS, name, key)
    signature = canonical.sign(by or KEYS[place], ANNOUNCEMENT_LABEL, body)
    return Announcement(institution=name, key=key, signature=bytes.fromhex(signature))


# What each step says to a message.


def _join(message: Any) -> object:
    member = GIVEN["members"][US]
    state = announce(
        TERMS, member["id"], identity=KEYS[US], session_key=bytes.fromhex(member["secret"])
    )
    return join(state, message.announcements)


def _collect(message: Any) -> object:
    nbytes = len(GIVEN["vectors"][0]) * GIVEN["bits"] // 8
    return require_fits(ATTEMPT.collected.group, ATTEMPT.context, US, message, nbytes)


def _check(message: Any) -> object:
    group = ATTEMPT.collected.group
    on_survivors(
        Undecided(),
        message.survivors,
        members=len(group.members),
        quorum=group.terms.quorum,
        place=US,
    )
    return checked(ATTEMPT.sharings[US], message)


def _release(message: Any) -> object:
    group = ATTEMPT.collected.group
    signers = valid_signers(group, ATTEMPT.collected.body, message)
    return on_signatures(Signed(ATTEMPT.survivors), signers, threshold=group.terms.threshold)


def _vote(message: Any) -> object:
    body = abort_body(ATTEMPT.context)
    return ATTEMPT.collected.group.require_signed(PEER, ABORT_LABEL, body, message.signature)


STEPS: Final[Mapping[str, tuple[Callable[[bytes], Any], Callable[[Any], object]]]] = {
    "join": (decode_request, _join),
    "collect": (decode_reply, _collect),
    "check": (decode_request, _check),
    "sign": (
        decode_reply,
        lambda message: ATTEMPT.collected.require_signed_set(PEER, message.signature),
    ),
    "release": (decode_request, _release),
    "reveal": (
        decode_reply,
        lambda message: ATTEMPT.collected.require_reveals(PEER, message),
    ),
    "vote": (decode_reply, _vote),
}


def error_of(step: str, data: bytes) -> str | None:
    """Returns the class of error with which a message is refused in a step, None if it is not."""
    decode, judge = STEPS[step]
    try:
        judge(decode(data))
    except FedscoreError as error:
        return type(error).__name__
    return None


# The messages.


def flipped(data: bytes, place: int = 0) -> bytes:
    """Returns bytes with one bit changed."""
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def _with(message: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(message, **changes)


def _joins() -> dict[str, Request]:
    first, second, third = _announced()

    def joined(*announcements: Announcement) -> Join:
        return Join(session=TERMS.session, announcements=announcements)

    stranger = _resigned(1, second.key)
    found = {
        "as it should be": joined(first, second, third),
        "in another order": joined(first, third, second),
        "one of them twice": joined(first, second, second, third),
        "fewer than the quorum": joined(first),
        "without us": joined(second, third),
        "our key changed and signed by us": joined(_resigned(0, secret("another")), second, third),
        "a key changed": joined(first, _with(second, key=flipped(second.key)), third),
        "a signature changed": joined(
            first, _with(second, signature=flipped(second.signature)), third
        ),
        "no signature": joined(first, _with(second, signature=b""), third),
        "signed by another member": joined(first, _resigned(1, second.key, by=KEYS[2]), third),
        "two members with one key": joined(first, second, _resigned(2, second.key)),
        "our key again": joined(first, _resigned(1, first.key), third),
        "a name that the roster lacks": joined(
            first, _with(stranger, institution="bank-0011"), third
        ),
        "no name": joined(_with(stranger, institution=""), first, third),
        "a key of 31 bytes": joined(first, _resigned(1, second.key[:-1]), third),
        "a key of 33 bytes": joined(first, _resigned(1, second.key + b"\x00"), third),
        "no key": joined(first, _resigned(1, b""), third),
    }
    for name, point in LOW_ORDER.items():
        weak = _resigned(1, point.to_bytes(32, "little"))
        found[f"a key of low order: {name}"] = joined(first, weak, third)
    return found


def _signed_header(header: Header, context: bytes, by: int = US) -> Header:
    signature = canonical.sign(KEYS[by], HEADER_LABEL, header.body(context))
    return _with(header, signature=bytes.fromhex(signature))


def _uploads() -> dict[str, Reply]:
    upload, other = ATTEMPT.collected.uploads[US], ATTEMPT.collected.uploads[PEER]
    header = upload.header

    def headed(**changes: Any) -> Upload:
        return _with(upload, header=_with(header, **changes))

    return {
        "as it should be": upload,
        "another context": _with(upload, context=flipped(upload.context)),
        "a context of another length": _with(upload, context=upload.context + b"\x00"),
        "another member's": other,
        "under another name": headed(institution=other.header.institution),
        "a masked sum changed": _with(upload, words=flipped(upload.words)),
        "a masked sum cut": _with(upload, words=upload.words[:-4]),
        "a masked sum of half a word more": _with(upload, words=upload.words + bytes(2)),
        "the digest of a share changed": _with(upload, shares=flipped(upload.shares, 40)),
        "fewer digests of shares": _with(upload, shares=upload.shares[:-32]),
        "more digests of shares": _with(upload, shares=upload.shares + bytes(32)),
        "the digest of a seed changed": _with(upload, seeds=flipped(upload.seeds, 40)),
        "fewer digests of seeds": _with(upload, seeds=upload.seeds[:-32]),
        "shares and seeds exchanged": _with(upload, shares=upload.seeds, seeds=upload.shares),
        "fewer sealed shares": _with(upload, sealed=upload.sealed[:-1]),
        "more sealed shares": _with(upload, sealed=(*upload.sealed, b"")),
        "another commitment to the own mask": headed(own_mask=flipped(header.own_mask)),
        "another root": headed(leaves=flipped(header.leaves)),
        "another commitment to the noise": headed(noise=flipped(header.noise)),
        "another ledger sequence": headed(ledger_sequence=header.ledger_sequence + 1),
        "another ledger head": headed(ledger_head="00" * 32),
        "another digest of the masked sum": headed(masked=flipped(header.masked)),
        "a signature changed": headed(signature=flipped(header.signature)),
        "a signature cut": headed(signature=header.signature[:-1]),
        "no signature": headed(signature=b""),
        "signed by another member": _with(
            upload, header=_signed_header(header, ATTEMPT.context, by=PEER)
        ),
        "signed for another context": _with(
            upload, header=_signed_header(header, flipped(ATTEMPT.context))
        ),
    }


def _told() -> dict[str, Request]:
    told = ATTEMPT.told(US)
    own, peer = told.relayed
    header = peer.header

    def relayed(**changes: Any) -> Survivors:
        return _with(told, relayed=(own, _with(peer, **changes)))

    def headed(**changes: Any) -> Survivors:
        return relayed(header=_with(header, **changes))

    for_another = ATTEMPT.collected.uploads[PEER].sealed[DROPPED]
    return {
        "as it should be": told,
        "in another order": _with(told, survivors=(PEER, US), relayed=(peer, own)),
        "below the quorum": _with(told, survivors=(US,), relayed=(own,)),
        "nobody": _with(told, survivors=(), relayed=()),
        "without us": _with(told, survivors=(DROPPED, PEER)),
        "a survivor twice": _with(told, survivors=(US, PEER, PEER), relayed=(own, peer, peer)),
        "a place that does not exist": _with(told, survivors=(US, 3)),
        "a place far away": _with(told, survivors=(US, 2**63 - 1)),
        "a place below the first": _with(told, survivors=(-1, US)),
        "a header too few": _with(told, relayed=(own,)),
        "a header too many": _with(told, relayed=(own, peer, peer)),
        "a peer at the place of one who dropped": _with(told, survivors=(US, DROPPED)),
        "one who dropped among the survivors": _with(
            told, survivors=(US, DROPPED, PEER), relayed=(own, peer, peer)
        ),
        "headers exchanged": _with(told, relayed=(peer, own)),
        "our header changed": _with(
            told, relayed=(_with(own, header=_with(own.header, ledger_sequence=9)), peer)
        ),
        "a header under another name": headed(institution=own.header.institution),
        "a masked digest changed": headed(masked=flipped(header.masked)),
        "a noise commitment changed": headed(noise=flipped(header.noise)),
        "a ledger sequence changed": headed(ledger_sequence=header.ledger_sequence + 1),
        "a signature changed": headed(signature=flipped(header.signature)),
        "a header of another attempt": relayed(
            header=_signed_header(header, flipped(ATTEMPT.context), by=PEER)
        ),
        "a root changed and signed": relayed(
            header=_signed_header(
                _with(header, leaves=flipped(header.leaves)), ATTEMPT.context, by=PEER
            )
        ),
        "a sealed share changed": relayed(sealed=flipped(peer.sealed)),
        "a sealed share cut": relayed(sealed=peer.sealed[:-1]),
        "no sealed share": relayed(sealed=b""),
        "a share sealed for another": relayed(sealed=for_another),
        "our own share sealed for the peer": relayed(
            sealed=ATTEMPT.collected.uploads[US].sealed[PEER]
        ),
        "a path changed": relayed(path=flipped(peer.path)),
        "a path cut": relayed(path=peer.path[:-32]),
        "a path too long": relayed(path=peer.path + bytes(32)),
        "a path of part of a hash": relayed(path=peer.path[:-1]),
        "the path of another place": relayed(path=ATTEMPT.told(PEER).relayed[1].path),
    }


def _set_signatures() -> dict[int, bytes]:
    return {
        place: bytes.fromhex(canonical.sign(KEYS[place], SET_LABEL, ATTEMPT.collected.body))
        for place in range(3)
    }


def _signed_sets() -> dict[str, Reply]:
    of = _set_signatures()
    context = ATTEMPT.context
    headers = bytes.fromhex(canonical.sign(KEYS[PEER], HEADER_LABEL, ATTEMPT.collected.body))

    def said(signature: bytes) -> SetSigned:
        return SetSigned(context=context, signature=signature)

    return {
        "as it should be": said(of[PEER]),
        "changed": said(flipped(of[PEER])),
        "none": said(b""),
        "another member's": said(of[US]),
        "under another label": said(headers),
    }


def _releases() -> dict[str, Request]:
    of = _set_signatures()

    def asked(*signers: int, **changes: Any) -> Reveal:
        signatures = tuple(of.get(place, of[US]) for place in signers)
        return _with(
            Reveal(context=ATTEMPT.context, signers=signers, signatures=signatures), **changes
        )

    return {
        "as it should be": asked(US, PEER),
        "also by one who dropped": asked(US, DROPPED, PEER),
        "too few": asked(PEER),
        "nobody": asked(),
        "one of them twice": asked(PEER, PEER),
        "in another order": asked(PEER, US),
        "a place that does not exist": asked(US, 3),
        "a place below the first": asked(-1, US),
        "a place far away": asked(US, 2**63 - 1),
        "a signature too few": asked(US, PEER, signatures=(of[US],)),
        "a signature too many": asked(US, PEER, signatures=(of[US], of[PEER], of[PEER])),
        "a signature changed": asked(US, PEER, signatures=(of[US], flipped(of[PEER]))),
        "a signature under another place": asked(US, PEER, signatures=(of[US], of[US])),
    }


def _reveals() -> dict[str, Reply]:
    revealed: Revealed = ATTEMPT.revealed()[PEER]
    shares, seeds = revealed.shares, revealed.seeds
    return {
        "as it should be": revealed,
        "another context": _with(revealed, context=flipped(revealed.context)),
        "another member's": ATTEMPT.revealed()[US],
        "a share changed": _with(revealed, shares=flipped(shares)),
        "a share with a bit beyond the prime": _with(revealed, shares=flipped(shares, 32)),
        "shares exchanged": _with(revealed, shares=shares[33:] + shares[:33]),
        "a share too few": _with(revealed, shares=shares[:33]),
        "shares cut": _with(revealed, shares=shares[:-1]),
        "a share too many": _with(revealed, shares=shares + shares[:33]),
        "no shares": _with(revealed, shares=b""),
        "a seed changed": _with(revealed, seeds=flipped(seeds)),
        "no seed": _with(revealed, seeds=b""),
        "a seed too many": _with(revealed, seeds=seeds * 2),
        "another set": _with(revealed, signature=flipped(revealed.signature)),
        "no signature": _with(revealed, signature=b""),
    }


def _votes() -> dict[str, Reply]:
    def voted(place: int, label: str, context: bytes) -> Voted:
        signature = canonical.sign(KEYS[place], label, abort_body(context))
        return Voted(context=ATTEMPT.context, signature=bytes.fromhex(signature))

    return {
        "as it should be": voted(PEER, ABORT_LABEL, ATTEMPT.context),
        "on another attempt": voted(PEER, ABORT_LABEL, flipped(ATTEMPT.context)),
        "another member's": voted(US, ABORT_LABEL, ATTEMPT.context),
        "under another label": voted(PEER, SET_LABEL, ATTEMPT.context),
    }


MESSAGES: Final[Mapping[str, Callable[[], Mapping[str, Request | Reply]]]] = {
    "join": _joins,
    "collect": _uploads,
    "check": _told,
    "sign": _signed_sets,
    "release": _releases,
    "reveal": _reveals,
    "vote": _votes,
}


def refusals() -> list[dict[str, Any]]:
    """Returns, for each step, messages and the class of error of each; none if it is accepted."""
    return [
        {"step": step, "name": name, "bytes": data.hex(), "error": error_of(step, data)}
        for step, messages in MESSAGES.items()
        for name, message in messages().items()
        for data in [encode(message)]
    ]
