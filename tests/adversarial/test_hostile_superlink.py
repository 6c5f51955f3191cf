"""A SuperLink that lies, against daemons that people's data are behind.

Whatever it says: nothing is answered that was not asked by the coordinator, the log says why,
ledger and records stay as they are, the daemon goes on, and two banks with different people say
the very same. `tests.hostile_nation` has the banks, `tests.hostile_fleet` the liar.
"""

import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("flwr")

from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import PullObjectResponse

from clients import flower_node
from clients.flower_node import serve
from clients.node_key import load_node_key
from federation.canonical import public_key_of
from federation.envelope import LARGEST_ENVELOPE, LONGEST_VALIDITY_SECONDS
from federation.errors import ProtocolError
from federation.messages import Begin, RefusalCode, Refuse
from tests.federations import NOW, OTHER_KEY
from tests.flower_processes import (
    card_of,
    start_node,
    write_certificates,
)
from tests.hostile_fleet import Answer, Fleet, nested, record_object, write_bad_certificates
from tests.hostile_nation import A, B, C, Nation, nation

PROBE = Begin(plan="ab" * 32, session=bytes(32))
"""A question that changes nothing: of a plan that nobody has."""


@pytest.fixture(scope="module")
def banks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nation]:
    with nation(tmp_path_factory.mktemp("banks")) as found:
        for name in (A, B, C):
            found.fleet.node_of(found.key_of(name))
        yield found


def require_alive(banks: Nation, name: str) -> None:
    """The daemon still answers its honest coordinator."""
    assert banks.is_alive(name)
    assert banks.ask(name, PROBE) == Refuse(code=RefusalCode.OUT_OF_ORDER)


def refused_alike(banks: Nation, make: Callable[[str], bytes], **metadata: object) -> str:
    """Returns why two banks with different people gave no answer, in words that both used."""
    why = []
    for name in (A, B):
        before = banks.state(name)
        assert banks.deliver(name, make(name), **metadata) is None
        assert banks.state(name) == before
        why.append(banks.said(name))
        require_alive(banks, name)
    assert why[0].replace(A, B) == why[1]
    assert why[0].startswith("a message without reply: ")
    return why[0]


# Envelopes that the coordinator did not make like this.

WHOLE = msgspec.msgpack.decode


def changed(envelope: bytes, name: str, change: Callable[[bytes], bytes]) -> bytes:
    """Returns an envelope one field of which is another; all else is as it was."""
    parts = WHOLE(envelope)
    return msgspec.msgpack.encode({**parts, name: change(parts[name])})


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "first bit": lambda field: bytes([field[0] ^ 1]) + field[1:],
    "last bit": lambda field: field[:-1] + bytes([field[-1] ^ 0x80]),
    "zeros": lambda field: bytes(len(field)),
    "ones": lambda field: b"\xff" * len(field),
    "shorter": lambda field: field[:-1],
    "longer": lambda field: field + b"\0",
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("field", ["header", "ephemeral", "box", "signature"])
@pytest.mark.parametrize("change", CHANGES)
def test_an_envelope_with_another_field_is_refused(banks: Nation, field: str, change: str) -> None:
    why = refused_alike(
        banks, lambda name: changed(banks.seal(name, PROBE).envelope, field, CHANGES[change])
    )
    assert any(words in why for words in ("not an envelope", "signature", "canonical"))


HEADERS: dict[str, object] = {
    "federation": "another",
    "coordinator": public_key_of(OTHER_KEY),
    "institution": C,
    "id": bytes(31),
    "expires_at": NOW + LONGEST_VALIDITY_SECONDS + 1,
    "reply_to": b"\1" * 32,
}


@pytest.mark.parametrize("field", HEADERS)
def test_a_header_with_another_field_is_refused(banks: Nation, field: str) -> None:
    def spoilt(header: bytes) -> bytes:
        return msgspec.msgpack.encode({**WHOLE(header), field: HEADERS[field]})

    why = refused_alike(
        banks, lambda name: changed(banks.seal(name, PROBE).envelope, "header", spoilt)
    )
    assert "signature" in why


RUBBISH: dict[str, bytes] = {
    "nothing": b"",
    "zeros": bytes(100),
    "text": b"<html>502 Bad Gateway</html>",
    "an empty map": b"\x80",
    "a map of a million": b"\xdf\x00\x10\x00\x00",
    "an array of four billion": b"\xdd\xff\xff\xff\xff",
    "bytes of four billion": b"\xc6\xff\xff\xff\xff",
    "arrays in arrays": b"\x91" * 100_000,
    "maps in maps": b"\x81\xa0" * 100_000,
    "keys that are no text": b"\x84\xa3\xff\xfe\xfd\xc4\x00",
}


@pytest.mark.parametrize("kind", RUBBISH)
def test_rubbish_instead_of_an_envelope_is_refused(banks: Nation, kind: str) -> None:
    assert "not an envelope" in refused_alike(banks, lambda _: RUBBISH[kind])


# Envelopes that it has seen, elsewhere or at another time.


def test_a_request_is_answered_once(banks: Nation) -> None:
    kept = {name: banks.seal(name, PROBE).envelope for name in (A, B)}
    replies = {name: banks.deliver(name, kept[name]) for name in (A, B)}
    for name in (A, B):
        assert banks.deliver(name, kept[name]) == replies[name]  # a reply that was lost
        require_alive(banks, name)
    assert "delivered before" in refused_alike(banks, lambda name: kept[name])


def test_a_request_for_one_bank_is_refused_by_all_others(banks: Nation) -> None:
    other = {A: C, B: C}
    why = refused_alike(banks, lambda name: banks.seal(other[name], PROBE).envelope)
    assert "another key" in why


def test_a_request_that_was_sealed_to_us_and_names_another_bank_is_refused(banks: Nation) -> None:
    why = refused_alike(banks, lambda name: banks.seal(name, PROBE, institution=C).envelope)
    assert "another institution" in why


def test_a_request_of_another_federation_is_refused(banks: Nation) -> None:
    why = refused_alike(banks, lambda name: banks.seal(name, PROBE, federation="other").envelope)
    assert "another institution or federation" in why


@pytest.mark.parametrize("late", [0, 1, 10**6])
def test_a_request_that_comes_too_late_is_refused(banks: Nation, late: int) -> None:
    why = refused_alike(banks, lambda name: banks.seal(name, PROBE, expires_at=NOW - late).envelope)
    assert "expired" in why


def test_a_request_that_is_valid_for_longer_than_a_day_is_refused(banks: Nation) -> None:
    too_long = NOW + LONGEST_VALIDITY_SECONDS + 1
    why = refused_alike(banks, lambda name: banks.seal(name, PROBE, expires_at=too_long).envelope)
    assert "more than a day" in why


def test_requests_in_another_order_are_each_answered_to_whom_asked(banks: Nation) -> None:
    asked = [banks.seal(A, PROBE) for _ in range(3)]
    before = banks.state(A)
    replies = [banks.deliver(A, one.envelope) for one in reversed(asked)]
    assert banks.state(A) == before
    assert len(set(replies)) == 3  # each is sealed to another key


def test_answers_of_two_banks_differ_in_nothing_but_their_names(banks: Nation) -> None:
    replies = [banks.deliver(name, banks.seal(name, PROBE).envelope) for name in (A, B)]
    assert None not in replies
    assert len({len(reply) for reply in replies if reply}) == 1


# Strangers.


def test_a_stranger_who_signs_is_no_coordinator(banks: Nation) -> None:
    why = refused_alike(banks, lambda name: banks.seal(name, PROBE, key=OTHER_KEY).envelope)
    assert "signature" in why or "another institution" in why


@pytest.mark.parametrize(
    "metadata",
    [
        {"dst_node_id": 99},
        {"run_id": 2**64 - 1, "src_node_id": 2**64 - 1},
        {"message_type": "train.evil", "group_id": "\0"},
        {"ttl": float("nan"), "created_at": float("inf")},
        {"ttl": -1e300, "created_at": 1e300},
        {"reply_to_message_id": "ab" * 32},
    ],
)
def test_what_a_message_says_of_itself_is_not_believed(
    banks: Nation, metadata: dict[str, object]
) -> None:
    refused_alike(banks, lambda _: b"hello", **metadata)


def test_metadata_that_no_reply_can_have_ends_nothing(banks: Nation) -> None:
    for name in (A, B):
        before = banks.state(name)
        for metadata in ({"ttl": float("nan")}, {"created_at": float("inf")}, {"ttl": -1e300}):
            banks.deliver(name, banks.seal(name, PROBE).envelope, **metadata)
        assert banks.state(name) == before
        require_alive(banks, name)


# Objects that are none.

OBJECTS: dict[str, bytes] = {
    "nothing": b"",
    "no head": b"no zero byte at all",
    "a head only": b"ConfigRecord  0\0",
    "another key": record_object(b"hello", key="evil"),
    "two items": record_object(b"hello") + record_object(b"hello").partition(b"\0")[2],
    "a million items": b"ConfigRecord  1\0" + b"\x0a\x00" * 2**20,
    "a length beyond the end": b"\0\x0a\xff\xff\xff\xff\x0f",
    "an endless length": b"\0\x0a" + b"\xff" * 100,
    "a bundle with an application": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_an_object_that_is_no_record_is_refused(banks: Nation, kind: str) -> None:
    for name in (A, B):
        before = banks.state(name)
        delivery = banks.fleet.post_object(banks.key_of(name), OBJECTS[kind])
        assert banks.fleet.outcome(delivery) is None
        assert "none of our records" in banks.said(name)
        assert banks.state(name) == before
        require_alive(banks, name)


def test_an_object_that_never_comes_is_given_up(
    banks: Nation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower_node, "_OBJECT_TRIES", 3)
    for name in (A, B):
        before = banks.state(name)
        delivery = banks.fleet.post_object(banks.key_of(name), b"", is_there=False)
        assert banks.fleet.outcome(delivery) is None
        assert "without its record" in banks.said(name)
        assert banks.state(name) == before
        require_alive(banks, name)


# Answers that are none. One node is enough: its people are far behind this.

TREE = b"\x12\x00" + b"\x1a"  # one message, and its tree of objects follows
DEEP = nested(10_000)


def pulled(tree: bytes) -> bytes:
    """Returns an answer to pull-messages with one message and any bytes as its tree."""
    found = PullMessagesResponse()
    found.messages_list.add().metadata.message_id = "1"
    size, length = len(tree), b""
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    number = PullMessagesResponse.DESCRIPTOR.fields_by_name["message_object_trees"].number
    return found.SerializeToString() + bytes([number << 3 | 2]) + length + bytes([size]) + tree


def endless() -> Iterator[bytes]:
    while True:
        yield bytes(2**20)


ANSWERS: dict[str, tuple[str, Callable[[], Answer]]] = {
    "malformed protobuf": ("pull-messages", lambda: Answer(b"\xff" * 40)),
    "text": ("pull-messages", lambda: Answer(b"hello", headers={"content-type": "text/html"})),
    "a tree 10,000 deep": ("pull-messages", lambda: Answer(pulled(DEEP))),
    "a tree 90 deep": ("pull-messages", lambda: Answer(pulled(nested(90, "ab" * 32)))),
    "endless messages": ("pull-messages", lambda: Answer(endless())),
    "thirty thousand messages": ("pull-messages", lambda: Answer(b"\x12\x00" * 30_000)),
    "a redirect": (
        "pull-messages",
        lambda: Answer(status=307, headers={"location": f"http://{elsewhere.address}/internal"}),
    ),
    "a redirect for good": (
        "pull-messages",
        lambda: Answer(status=301, headers={"location": f"https://{elsewhere.address}/internal"}),
    ),
    "a redirect to nowhere": (
        "pull-messages",
        lambda: Answer(status=302, headers={"location": "http://[::1"}),
    ),
    "what is packed": (
        "pull-messages",
        lambda: Answer(b"\x1f\x8b" + bytes(50), headers={"content-encoding": "gzip"}),
    ),
    "what is packed in an unknown way": (
        "pull-messages",
        lambda: Answer(b"\x12\x00\x12\x00", headers={"content-encoding": "evil"}),
    ),
    "a length that is not true": (
        "pull-messages",
        lambda: Answer(iter([b"x"]), headers={"content-length": str(2**62)}),
    ),
    "a refusal": ("pull-messages", lambda: Answer(status=403)),
    "an error of a gateway": ("pull-messages", lambda: Answer(b"x" * 10**5, status=502)),
    "a code that is none": ("pull-messages", lambda: Answer(status=999)),
    "no node at all": ("activate-node", lambda: Answer(b"\xff")),
    "many cookies": (
        "pull-messages",
        lambda: Answer(headers={"set-cookie": "a=" + "b" * 4000}),
    ),
    "a heartbeat that is none": ("send-node-heartbeat", lambda: Answer(b"\xff" * 9)),
    "an object that is none": ("pull-object", lambda: Answer(b"\xff" * 9)),
    "a receipt that is none": ("confirm-message-received", lambda: Answer(b"\xff" * 9)),
    "wishes that are none": ("push-messages", lambda: Answer(b"\xff" * 9)),
    "thanks that are none": ("push-object", lambda: Answer(b"\xff" * 9)),
}


class Elsewhere:
    """A machine in the bank's own network, which a redirect names."""

    address = ""
    fleet: Fleet


elsewhere = Elsewhere()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with certificates and node keys, and a machine that must never be asked."""
    directory = tmp_path_factory.mktemp("network")
    write_certificates(directory)
    card_of(A, directory)
    with Fleet(directory) as fleet:
        elsewhere.address, elsewhere.fleet = fleet.address, fleet
        yield directory


class Node:
    """`serve` in a thread, with an institution that answers everything with its own name."""

    def __init__(self, directory: Path, address: str, *, root: str = "ca.pem") -> None:
        self.handled: list[bytes] = []
        self.ended_with: list[BaseException] = []
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(directory, address, root))
        self._thread.daemon = True

    def _run(self, directory: Path, address: str, root: str) -> None:
        try:
            serve(
                address,
                root_certificates=directory / root,
                node_key=load_node_key(directory / f"{A}.key"),
                handle=self._handle,
                idle=lambda: None,
                stop=self.stop,
            )
        except BaseException as error:  # noqa: BLE001  a test asks what it was
            self.ended_with.append(error)

    def _handle(self, request: bytes) -> bytes:
        if request == b"refuse":
            raise ProtocolError("so it is")
        self.handled.append(request)
        return A.encode() + b" heard " + request

    def __enter__(self) -> "Node":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join(20.0)
        assert not self._thread.is_alive()
        assert not self.ended_with, self.ended_with


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("_POLL_SECONDS", "_RECONNECT_SECONDS", "_HEARTBEAT_SECONDS"):
        monkeypatch.setattr(flower_node, name, 0.01)
    monkeypatch.setattr(flower_node, "_OBJECT_TRIES", 3)
    return monkeypatch


def honest_key(fleet: Fleet) -> bytes:
    fleet.wait_for(lambda: fleet.nodes)
    return next(iter(fleet.nodes))


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_that_is_none_ends_nothing(
    network: Path, quick: pytest.MonkeyPatch, kind: str
) -> None:
    path, make = ANSWERS[kind]
    with Fleet(network) as fleet:
        fleet.says[path] = lambda _: make()
        with Node(network, fleet.address) as node:
            if path in ("confirm-message-received", "pull-object", "push-messages", "push-object"):
                fleet.post(honest_key(fleet), b"before")
            fleet.wait_for(lambda: fleet.asked[path] >= 3 or fleet.asked["pull-messages"] >= 30)
            fleet.says.clear()
            assert fleet.deliver(honest_key(fleet), b"after") == A.encode() + b" heard after"
            fleet.says["deactivate-node"] = lambda _: make()
    assert set(node.handled) <= {b"before", b"after"}
    assert elsewhere.fleet.asked.total() == 0
    assert fleet.asked.keys().isdisjoint({"get-fab", "get-run"})


def test_nothing_is_remembered_of_an_answer_but_its_body(
    network: Path, quick: pytest.MonkeyPatch
) -> None:
    """Cookies would grow without bound, and be sent to whoever asks for them."""
    sent: list[str] = []
    with Fleet(network) as fleet:
        fleet.says["pull-messages"] = lambda _: Answer(headers={"set-cookie": f"a{len(sent)}=b"})
        fleet.hears = lambda headers: sent.append(headers.get("cookie", ""))
        with Node(network, fleet.address):
            fleet.wait_for(lambda: len(sent) > 20)
    assert set(sent) == {""}


def test_a_flood_of_rubbish_is_taken_no_faster_than_it_is_polled_for(
    network: Path, quick: pytest.MonkeyPatch
) -> None:
    """Each piece of it is a line in a log, and a log lies on a disk."""
    waited: list[float] = []
    real = threading.Event.wait

    def wait(event: threading.Event, timeout: float | None = None) -> bool:
        if timeout is not None:
            waited.append(timeout)
        return real(event, timeout)

    with Fleet(network) as fleet, Node(network, fleet.address):
        key = honest_key(fleet)
        before = fleet.asked["pull-object"]
        for _ in range(100):
            fleet.post(key, b"refuse")
        quick.setattr(threading.Event, "wait", wait)
        waited.clear()
        fleet.wait_for(lambda: fleet.asked["pull-object"] >= before + 20)
        assert len(waited) >= 10, "it waits after each piece that is none"


def test_an_answer_that_trickles_is_not_waited_for(
    network: Path, quick: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def trickle(_: bytes) -> Answer:
        return Answer((b"\x12" for _ in range(10**6)), pause=0.05)

    quick.setattr(flower_node, "_ANSWER_SECONDS", 0.2)
    with Fleet(network) as fleet:
        fleet.says["pull-messages"] = trickle
        with Node(network, fleet.address):
            fleet.wait_for(lambda: fleet.asked["pull-messages"] >= 3)
            fleet.says.clear()
            assert fleet.deliver(honest_key(fleet), b"after") == A.encode() + b" heard after"
    assert "longer than 0.2 seconds" in caplog.text


# Who it is.


@pytest.mark.parametrize(
    ("certificate", "why"),
    [
        ("stranger", "self-signed certificate|unable to get local issuer|signature failure"),
        ("elsewhere", "IP address mismatch|doesn't match"),
        ("expired", "certificate has expired"),
        ("early", "not yet valid"),
    ],
)
def test_a_server_without_our_certificate_is_told_nothing(  # noqa: PLR0917  fixtures
    network: Path,
    tmp_path: Path,
    quick: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    certificate: str,
    why: str,
) -> None:
    write_bad_certificates(tmp_path)
    (tmp_path / f"{A}.key").write_bytes((network / f"{A}.key").read_bytes())
    with Fleet(tmp_path, certificate=certificate) as fleet:
        with Node(tmp_path, fleet.address):
            fleet.wait_for(lambda: "trying again" in caplog.text)
        assert fleet.asked.total() == 0
    assert re.search(why, caplog.text)
    with Fleet(tmp_path, certificate="honest") as fleet, Node(tmp_path, fleet.address):
        assert fleet.deliver(honest_key(fleet), b"hello") == A.encode() + b" heard hello"


# Sizes, in a process of its own: its memory is measured.


def peak_megabytes(process: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_whatever_is_sent_memory_is_bounded_by_one_envelope(network: Path) -> None:
    """Answers without an end, and objects whose two bytes describe an item of fifty."""
    largest = LARGEST_ENVELOPE / 2**20
    bomb = PullObjectResponse(
        object_available=True, object_content=b"ConfigRecord  1\0" + b"\x0a\x00" * 2**26
    ).SerializeToString()
    with Fleet(network) as fleet:
        node = start_node(A, network, fleet.address)
        try:
            key = honest_key(fleet)
            ordinary = peak_megabytes(node.pid)
            for path, answer in (
                ("pull-messages", lambda _: Answer(endless())),
                ("pull-messages", lambda _: Answer(b"\x12\x00" * 2**26)),
                ("pull-object", lambda _: Answer(bomb)),
                ("pull-object", lambda _: Answer(endless())),
            ):
                fleet.says[path] = answer
                before = fleet.asked["pull-messages"]
                if path == "pull-object":
                    fleet.post(key, b"large")
                fleet.wait_for(lambda at=before: fleet.asked["pull-messages"] >= at + 3, 60.0)
                fleet.says.clear()
            grown = peak_megabytes(node.pid) - ordinary
            assert node.poll() is None
            sys.stdout.write(f"\n{ordinary:.0f} MB, and {grown:.0f} MB more at the peak\n")
            assert grown < 4 * largest
        finally:
            node.terminate()
            assert node.wait(60) == 0
