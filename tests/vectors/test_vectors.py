"""Frozen vectors: what has been written once is read, drawn and signed the same way for ever."""

import struct
from typing import Any, get_args

import msgspec
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from federation import canonical
from federation.errors import ConfigurationError, FedscoreError, PrivacyError, ProtocolError
from federation.messages import (
    LARGEST_MESSAGE,
    Reply,
    Request,
    decode_reply,
    decode_request,
    encode,
)
from federation.plan import load_plan, plan_toml
from federation.pricing import price_of
from federation.privacy.discrete_gaussian import _staircase, sample
from federation.privacy.entropy import Keystream
from federation.secure_aggregation.roster import load_roster, roster_toml
from tests.federations import small_schema
from tests.reference.primitives import packed as packed_by_hand
from tests.vectors.freezing import CARD, FROZEN, MESSAGES, load
from tests.vectors.refusals import error_of


@pytest.mark.parametrize("name", FROZEN)
def test_the_program_still_computes_what_was_frozen(name: str) -> None:
    assert FROZEN[name]() == load(name)


@pytest.mark.parametrize("vector", load("keystream.json"), ids=lambda vector: vector["key"][:8])
def test_the_keystream_is_aes_256_of_a_counter(vector: dict[str, Any]) -> None:
    """NIST SP 800-38A, 6.5: block i of CTR is AES(counter i), here from 0, big-endian."""
    encryptor = Cipher(algorithms.AES256(bytes.fromhex(vector["key"])), modes.ECB()).encryptor()  # noqa: S305  an oracle
    blocks = b"".join(encryptor.update(number.to_bytes(16, "big")) for number in range(5))
    assert [str(word) for word in struct.unpack("<10Q", blocks)] == vector["words"]


def test_aes_itself_is_that_of_the_standard() -> None:
    """FIPS 197, appendix C.3."""
    key, plain = bytes(range(32)), bytes.fromhex("00112233445566778899aabbccddeeff")
    encryptor = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()  # noqa: S305  an oracle
    assert encryptor.update(plain).hex() == "8ea2b7ca516745bfeafc49904b496089"


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_keystream_of_another_key_length_is_refused(length: int) -> None:
    with pytest.raises(PrivacyError, match="32 bytes"):
        Keystream(bytes(length))


@pytest.mark.parametrize("variance", [3, 0, -4, 2**80 + 1, 4.0, True, None])
def test_noise_of_a_variance_out_of_range_is_not_drawn(variance: Any) -> None:
    with pytest.raises(PrivacyError, match="whole noise variance"):
        sample(variance=variance, count=1, key=bytes(32))


@pytest.mark.parametrize("variance", [4, 10**6, 2**80])
def test_a_word_that_leaves_a_step_open_is_drawn_to_128_bits(variance: int) -> None:
    """One word in 2^57 is such; here all are."""
    stairs, key = _staircase(variance), bytes(range(32))
    lower = Keystream(key).words(len(stairs.upper))
    drawn = [int(high) << 64 | int(low) for high, low in zip(stairs.upper, lower, strict=True)]
    expected = [sum(one <= word for one in stairs.thresholds) for word in drawn]
    assert stairs.steps(stairs.upper, Keystream(key)).tolist() == expected


@pytest.mark.parametrize("vector", load("signatures.json"), ids=lambda v: v["name"] + v["label"])
def test_a_frozen_signature_is_ed25519_over_framed_bytes_and_nothing_else_verifies(
    vector: dict[str, str],
) -> None:
    body, label = vector["canonical"].encode(), vector["label"].encode()
    framed = len(label).to_bytes(8, "little") + label + len(body).to_bytes(8, "little") + body
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(vector["public_key"]))
    key.verify(bytes.fromhex(vector["signature"]), framed)
    with pytest.raises(InvalidSignature):
        key.verify(bytes.fromhex(vector["signature"]), framed + b" ")
    right = [vector[name] for name in ("public_key", "label", "canonical", "signature")]
    canonical.verify(right[0], right[1], right[2].encode(), right[3])
    wrong = {
        0: ["00" * 32, right[0][:-2], "zz" * 32, ""],
        1: [right[1] + "0", ""],
        2: [right[2] + " ", right[2][:-1]],
        3: [right[3][:-1] + ("0" if right[3][-1] != "0" else "1"), right[3][:-2], "", "zz" * 64],
    }
    for place, values in wrong.items():
        for value in values:
            changed = [*right[:place], value, *right[place + 1 :]]
            with pytest.raises(ProtocolError, match="not valid"):
                canonical.verify(changed[0], changed[1], changed[2].encode(), changed[3])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": -float("inf")}, {1, 2}, b"x"])
def test_a_value_without_a_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="canonical"):
        canonical.canonical_json(value)


@pytest.mark.parametrize("value", [{1: "one"}, {None: 1}, {True: 1}, {"1": 0, 1: 0}])
def test_keys_that_are_not_text_have_no_canonical_form(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="canonical"):
        canonical.canonical_json(value)


def test_text_that_is_not_unicode_has_no_canonical_form() -> None:
    with pytest.raises(ConfigurationError, match="canonical"):
        canonical.canonical_json("\ud800")


# Messages.


def decode(data: bytes, name: str) -> object:
    request = isinstance(MESSAGES[name], Request)
    return decode_request(data) if request else decode_reply(data)


@pytest.mark.parametrize("vector", load("messages.json"), ids=lambda vector: vector["name"])
def test_a_frozen_message_decodes_to_what_was_sent(vector: dict[str, str]) -> None:
    data = bytes.fromhex(vector["bytes"])
    assert decode(data, vector["name"]) == MESSAGES[vector["name"]]
    assert encode(MESSAGES[vector["name"]]) == data


def fields_of(data: bytes) -> dict[str, Any]:
    return msgspec.msgpack.decode(data)


def packed(fields: dict[str, Any]) -> bytes:
    """Returns msgpack in the order of `fields`."""
    return msgspec.msgpack.encode(fields)


def damaged(data: bytes) -> dict[str, bytes]:
    """Returns byte strings that look like a message and must be refused."""
    fields = fields_of(data)
    first, *others = fields
    return {
        "leftover bytes": data + b"\x00",
        "the same twice": data + data,
        "cut short": data[:-1],
        "nothing": b"",
        "another order of the map": packed({k: fields[k] for k in (*others, first)}),
        "sorted throughout": packed({k: fields[k] for k in sorted(fields)}),
        "the last version": packed(fields | {"version": 3}),
        "the next version": packed(fields | {"version": 5}),
        "version as text": packed(fields | {"version": "4"}),
        "version as a float": packed(fields | {"version": 4.0}),
        "no version": packed({k: v for k, v in fields.items() if k != "version"}),
        "an unknown field": packed(fields | {"zzz": 0}),
        "another type": packed(fields | {"type": "Hello"}),
        "no type": packed({k: v for k, v in fields.items() if k != "type"}),
        "an array": msgspec.msgpack.encode(list(fields.values())),
        "a number": b"\x01",
        "a longer integer than needed": data.replace(b"\xa7version\x04", b"\xa7version\xcc\x04"),
        "a field twice": bytes([data[0] + 1]) + data[1:] + b"\xa7version\x04",
    }


@pytest.mark.parametrize("vector", load("messages.json"), ids=lambda vector: vector["name"])
def test_a_damaged_message_is_refused(vector: dict[str, str]) -> None:
    data = bytes.fromhex(vector["bytes"])
    assert packed(fields_of(data)) == data
    assert list(fields_of(data))[:2] == ["type", "version"]
    for what, wrong in damaged(data).items():
        assert wrong != data, what
        with pytest.raises(ProtocolError):
            decode(wrong, vector["name"])


@pytest.mark.parametrize("name", ["open a step", "survivors", "accept", "upload", "refuse"])
def test_a_request_is_not_a_reply_nor_the_other_way_round(name: str) -> None:
    data = encode(MESSAGES[name])
    other = decode_reply if isinstance(MESSAGES[name], Request) else decode_request
    with pytest.raises(ProtocolError):
        other(data)


@pytest.mark.parametrize(
    "card",
    [
        {"weights": [[-32769, 32768], [7]]},
        {"weights": [[-32768, 32768.0], [7]]},
        {"weights": [[-32768, 32768]]},
        {"base": 32769},
        {"base": 2**63},
        {"bin_of_cell": [[0, 2, 1], [0, 0]]},
        {"bin_of_cell": [[0, -1, 1], [0, 0]]},
        {"bin_of_cell": [[], [0, 0]]},
        {"extra": 1},
    ],
)
def test_a_card_beyond_its_bounds_has_no_message(card: dict[str, Any]) -> None:
    fields = fields_of(encode(MESSAGES["open a step"]))
    assert fields["model"] == msgspec.to_builtins(CARD) | {
        "bin_of_cell": [[0, 1, 1], [0, 0]],
        "weights": [[-32768, 32768], [7]],
    }
    with pytest.raises(ProtocolError):
        decode_request(packed(fields | {"model": fields["model"] | card}))


@pytest.mark.parametrize(
    "network",
    [
        {"type": "card"},
        {"type": "network2"},
        {"extra": 1},
        {"parameters": "text"},
        {"parameters": b""},
        *({"parameters": of} for of in ("too long", "too short", "nan", "inf", "too large")),
        *(
            {"shape": of}
            for of in (
                {"hidden": [3]},
                {"hidden": [3, 513]},
                {"hidden": [3, 2, 1, 1, 1]},
                {"activation": "sigmoid"},
                {"ordered_cells": [11, 6]},
                {"ordered_cells": [12, 6, 0]},
                {"extra": 1},
            )
        ),
    ],
    ids=str,
)
def test_a_network_beyond_its_bounds_has_no_message(network: dict[str, Any]) -> None:
    fields = fields_of(encode(MESSAGES["open a gradient"]))
    right = fields["model"]
    whole = right["parameters"]
    damaged_parameters = {
        "too long": whole + bytes(4),
        "too short": whole[:-4],
        "nan": struct.pack("<f", float("nan")) + whole[4:],
        "inf": struct.pack("<f", float("inf")) + whole[4:],
        "too large": whole[:-4] + struct.pack("<f", -64.5),
    }
    assert decode_request(packed(fields)) == MESSAGES["open a gradient"]
    changed = right | network
    if "shape" in network:
        changed["shape"] = right["shape"] | network["shape"]
    if network.get("parameters") in damaged_parameters:
        changed["parameters"] = damaged_parameters[network["parameters"]]
    with pytest.raises(ProtocolError):
        decode_request(packed(fields | {"model": changed}))


def test_every_message_that_exists_is_frozen() -> None:
    kinds = {type(message) for message in MESSAGES.values()}
    assert kinds == {*get_args(Request), *get_args(Reply)}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_the_shortest_messagepack_of_its_fields(name: str) -> None:
    fields = msgspec.to_builtins(MESSAGES[name], builtin_types=(bytes,))
    assert packed_by_hand(fields) == encode(MESSAGES[name])


INNER = {
    "open a step": ("model", "coins"),
    "open a gradient": ("model",),
    "join": ("announcements",),
    "begun": ("announcement",),
    "upload": ("header",),
    "survivors": ("relayed",),
}


@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name, fields in INNER.items() for field in fields]
)
def test_what_lies_within_a_message_is_as_strict(name: str, field: str) -> None:
    fields = fields_of(encode(MESSAGES[name]))
    listed = isinstance(fields[field], list)
    inner = fields[field][0] if listed else fields[field]
    first, *others = inner
    for changed in (
        inner | {"zzz": 0},
        {key: inner[key] for key in others},
        {key: inner[key] for key in (*others, first)},
        inner | {first: {}},
        list(inner.values()),
    ):
        with pytest.raises(ProtocolError):
            decode(packed(fields | {field: [changed] if listed else changed}), name)


def test_nothing_nested_deeper_than_a_program_can_follow_is_a_message() -> None:
    for decoder in (decode_request, decode_reply):
        for data in (b"\x91" * 10**6, b"\x81\xa0" + b"\x91" * 10**6):
            with pytest.raises(ProtocolError):
                decoder(data)


def test_a_message_longer_than_any_is_not_looked_at() -> None:
    with pytest.raises(ProtocolError, match="larger"):
        decode_reply(bytes(LARGEST_MESSAGE + 1))


# What is refused in a session, and rosters.


@pytest.mark.parametrize(
    "vector", load("refusals.json"), ids=lambda vector: f"{vector['step']}, {vector['name']}"
)
def test_a_step_refuses_a_frozen_message_with_its_class_of_error(vector: dict[str, Any]) -> None:
    """Valid ones among them show that the others are refused for what was changed."""
    accepted = {"as it should be", "also by one who dropped"}
    assert (vector["error"] is None) == (vector["name"] in accepted)
    assert error_of(vector["step"], bytes.fromhex(vector["bytes"])) == vector["error"]


def test_a_frozen_roster_keeps_its_digest_and_signature_and_no_other_is_believed() -> None:
    (vector,) = load("rosters.json")
    roster = load_roster(vector["toml"])
    assert roster.digest == vector["digest"]
    assert roster_toml(roster) == vector["toml"]
    roster.require_signed_by(vector["coordinator"])
    with pytest.raises(ProtocolError, match="signature"):
        roster.require_signed_by(roster.members[0].key)
    for old, new in (("test-federation", "other"), ('id = "bank-03"', 'id = "bank-04"')):
        changed = load_roster(vector["toml"].replace(old, new))
        assert changed.digest != roster.digest
        with pytest.raises(ProtocolError, match="signature"):
            changed.require_signed_by(vector["coordinator"])


# Plans.


@pytest.mark.parametrize("vector", load("plans.json"), ids=lambda vector: vector["name"])
def test_a_frozen_plan_keeps_its_digest_signature_and_price(vector: dict[str, str]) -> None:
    plan = load_plan(vector["toml"])
    assert plan.digest == vector["digest"]
    plan.require_signed()
    assert plan_toml(plan) == vector["toml"]
    price = price_of(plan, small_schema())
    promised = price.trained if price.institution is None else price.institution
    assert 0.999 * plan.privacy.epsilon < promised <= plan.privacy.epsilon


def changed_line(toml: str, name: str, value: str) -> str:
    lines = toml.splitlines()
    (place,) = [number for number, line in enumerate(lines) if line.startswith(f"{name} = ")]
    lines[place] = f"{name} = {value}"
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rounds", "4"),
        ("name", '"other"'),
        ("purpose", '"marketing"'),
        ("schema", f'"{"00" * 32}"'),
        ("valid_until", "2033-11-14T22:13:20Z"),
        ("quorum", "3"),
        ("spare_attempts", "2"),
        ("epsilon", "4.5"),
        ("delta", "2e-6"),
        ("salt", f'"{"00" * 32}"'),
        ("held_out_fraction", "0.2"),
        ("step", "4096"),
        ("bins", "4096"),
        ("evaluation", "4096"),
        ("points", "661"),
        ("threshold", "4"),
        ("audited_share", "0.03"),
        ("epsilon_coordinator_alone", "3.5"),
    ],
)
def test_any_change_to_a_signed_plan_breaks_its_digest_and_signature(name: str, value: str) -> None:
    vector = load("plans.json")[0]
    plan = load_plan(changed_line(vector["toml"], name, value))
    assert plan.digest != vector["digest"]
    with pytest.raises(ProtocolError, match="signature"):
        plan.require_signed()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", "1"),
        ("format", "2"),
        ("format", "4"),
        ("format", '"3"'),
        ("rounds", "0"),
        ("rounds", "3.0"),
        ("rounds", "10001"),
        ("name", '""'),
        ("colluders", "0"),
        ("colluders", "3"),
        ("threshold", "2"),
        ("quorum", "5"),
        ("spare_attempts", "-1"),
        ("audited_share", "-0.1"),
        ("audited_share", "1.1"),
        ("audited_share", "nan"),
        ("epsilon_coordinator_alone", "4.1"),
        ("national", "99"),
        ("salt", '"5a"'),
        ("held_out_fraction", "0.6"),
        ("held_out_fraction", "nan"),
        ("epsilon", "0.0"),
        ("epsilon", "-1.0"),
        ("epsilon", "nan"),
        ("epsilon", "inf"),
        ("delta", "0.0"),
        ("delta", "0.001"),
        ("delta", "nan"),
        ("step", "4095"),
        ("bins", "-4096"),
        ("evaluation", "1e12"),
        ("valid_from", "2023-11-14T22:13:20"),
        ("valid_until", "2023-11-14T22:13:20Z"),
        ("odds", "0.0"),
        ("invited", '["bank-01", "bank-00", "bank-02", "bank-03"]'),
        ("invited", '["bank-00", "bank-00", "bank-02", "bank-03"]'),
    ],
)
def test_a_plan_that_breaks_a_rule_does_not_load(name: str, value: str) -> None:
    toml = load("plans.json")[0]["toml"]
    if name == "invited":
        start, end = toml.index("invited = ["), toml.index("]", toml.index("invited = [")) + 1
        changed = toml[:start] + f"invited = {value}" + toml[end:]
    else:
        changed = changed_line(toml, name, value)
    with pytest.raises(FedscoreError):
        load_plan(changed)


@pytest.mark.parametrize("extra", ["surprise = 1\n", 'rounds = 3\n"', "["])
def test_a_plan_with_an_unknown_field_or_broken_toml_does_not_load(extra: str) -> None:
    with pytest.raises(ConfigurationError, match="not a plan"):
        load_plan(extra + load("plans.json")[0]["toml"])
