"""What an institution notes of its sessions: once, for good, and all or nothing."""

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.records import ABORT, RELEASED, SET, UPLOAD, Records
from federation.canonical import hash_of
from federation.errors import ConfigurationError, LedgerCorrupt, ProtocolError

PLAN, OTHER_PLAN = "aa" * 32, "bb" * 32
SAID = (UPLOAD, SET, RELEASED, ABORT)


def session(number: int) -> bytes:
    return hash_of("test/session", bytes([number]))


def context(number: int) -> bytes:
    return hash_of("test/context", bytes([number]))


def say(records: Records, what: str, number: int = 0, **changes: object) -> None:
    settings: dict = {
        "context": context(number),
        "request": f"ask {what} {number}".encode(),
        "reply": f"{what} {number}".encode(),
    }
    records.say(what, **{**settings, **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.sqlite"


@pytest.fixture
def records(path: Path) -> Iterator[Records]:
    """Records with one session of one plan and one attempt in it, of which nothing was said."""
    with Records.create(path) as found:
        found.begin_session(session(0), PLAN)
        found.begin_attempt(context(0), session=session(0), round_=0, number=0)
        yield found


def reopened(records: Records, path: Path) -> Records:
    records.close()
    return Records(path)


# Once.


@pytest.mark.parametrize("again", [False, True])
def test_a_session_is_begun_once_in_any_plan_also_after_reopening(
    records: Records, path: Path, again: bool
) -> None:
    found = reopened(records, path) if again else records
    for plan in (PLAN, OTHER_PLAN):
        with pytest.raises(ProtocolError, match="begun before"):
            found.begin_session(session(0), plan)
    found.begin_session(session(1), PLAN)
    found.close()


@pytest.mark.parametrize("again", [False, True])
def test_an_attempt_is_seen_once_whatever_it_asks_also_after_reopening(
    records: Records, path: Path, again: bool
) -> None:
    found = reopened(records, path) if again else records
    found.begin_session(session(1), PLAN)
    for number, changes in (
        (1, {}),  # another question for the same round and number
        (0, {}),
        (0, {"number": 1}),  # the same context as another attempt
        (0, {"session": session(1)}),
    ):
        place = {"session": session(0), "round_": 0, "number": 0} | changes
        with pytest.raises(ProtocolError, match="opened before"):
            found.begin_attempt(context(number), **place)
    found.begin_attempt(context(1), session=session(0), round_=0, number=1)
    found.begin_attempt(context(2), session=session(0), round_=1, number=0)
    found.begin_attempt(context(3), session=session(1), round_=0, number=0)
    found.close()


def test_nothing_is_said_of_what_was_not_noted(records: Records) -> None:
    with pytest.raises(ProtocolError):
        say(records, UPLOAD, 7)
    with pytest.raises(ProtocolError):
        records.begin_attempt(context(7), session=session(7), round_=0, number=0)
    assert records.reply_to(b"ask upload 7") is None


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(
    "story",
    [
        (UPLOAD, SET, RELEASED),
        (UPLOAD, RELEASED),
        (UPLOAD, SET, ABORT),
        (UPLOAD, ABORT),
    ],
)
def test_what_a_member_may_say_is_noted_and_given_again_byte_for_byte(
    records: Records, path: Path, story: tuple[str, ...], again: bool
) -> None:
    for what in story:
        say(records, what)
    found = reopened(records, path) if again else records
    for what in SAID:
        expected = f"{what} 0".encode() if what in story else None
        assert found.reply_to(f"ask {what} 0".encode()) == expected
    found.close()


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(
    ("story", "refused"),
    [
        ((UPLOAD,), (UPLOAD,)),
        ((UPLOAD, SET), (UPLOAD, SET)),
        ((UPLOAD, RELEASED), SAID),
        ((UPLOAD, SET, RELEASED), SAID),
        ((UPLOAD, ABORT), SAID),
        ((UPLOAD, SET, ABORT), SAID),
    ],
)
def test_nothing_is_said_twice_and_a_release_and_a_vote_are_the_last_word(
    records: Records, path: Path, story: tuple[str, ...], refused: tuple[str, ...], again: bool
) -> None:
    for what in story:
        say(records, what)
    found = reopened(records, path) if again else records
    for what in refused:
        for request in (b"another request", f"ask {what} 0".encode()):
            with pytest.raises(ProtocolError, match="answered in another way before"):
                say(found, what, request=request, reply=b"another reply", peers={"bank-07": 9})
        assert found.reply_to(b"another request") is None
        expected = f"{what} 0".encode() if what in story else None
        assert found.reply_to(f"ask {what} 0".encode()) == expected
    assert found.sequence_of("bank-07") == 0
    found.close()


def test_one_request_is_not_answered_for_two_attempts(records: Records) -> None:
    records.begin_attempt(context(1), session=session(0), round_=1, number=0)
    say(records, UPLOAD)
    with pytest.raises(ProtocolError):
        say(records, UPLOAD, 1, request=b"ask upload 0")
    assert records.reply_to(b"ask upload 0") == b"upload 0"


# Peers.


def test_the_highest_sequence_that_each_peer_signed_is_kept(records: Records, path: Path) -> None:
    records.begin_attempt(context(1), session=session(0), round_=1, number=0)
    assert records.sequence_of("bank-01") == 0
    say(records, SET, peers={"bank-01": 3, "bank-02": 7})
    say(records, SET, 1, peers={"bank-01": 4})
    found = reopened(records, path)
    assert [found.sequence_of(f"bank-0{number}") for number in (1, 2, 3)] == [4, 7, 0]
    found.close()


@pytest.mark.parametrize("sequence", [0, 6, 7])
def test_a_peer_whose_ledger_did_not_grow_is_refused_and_nothing_is_said(
    records: Records, sequence: int
) -> None:
    records.begin_attempt(context(1), session=session(0), round_=1, number=0)
    say(records, SET, peers={"bank-01": 3, "bank-02": 7})
    with pytest.raises(ProtocolError):
        say(records, SET, 1, peers={"bank-01": 4, "bank-02": sequence})
    assert records.reply_to(b"ask set 1") is None
    assert (records.sequence_of("bank-01"), records.sequence_of("bank-02")) == (3, 7)
    say(records, SET, 1, peers={"bank-01": 4, "bank-02": 8})


# The end of a plan.


@pytest.mark.parametrize("again", [False, True])
def test_the_end_of_a_plan_forgets_its_replies_and_nothing_else(
    records: Records, path: Path, again: bool
) -> None:
    records.begin_session(session(1), OTHER_PLAN)
    records.begin_attempt(context(1), session=session(1), round_=0, number=0)
    say(records, SET, peers={"bank-01": 3})
    say(records, SET, 1, peers={"bank-01": 4})
    records.end_plan(PLAN)
    found = reopened(records, path) if again else records
    assert found.reply_to(b"ask set 0") is None
    assert found.reply_to(b"ask set 1") == b"set 1"
    assert found.sequence_of("bank-01") == 4
    with pytest.raises(ProtocolError, match="begun before"):
        found.begin_session(session(0), PLAN)
    with pytest.raises(ProtocolError, match="opened before"):
        found.begin_attempt(context(9), session=session(0), round_=0, number=0)
    found.close()


# The file.


def test_only_its_owner_may_read_any_of_its_files(records: Records, path: Path) -> None:
    say(records, UPLOAD)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {0o600}


def test_one_process_holds_the_records(records: Records, path: Path) -> None:
    with pytest.raises(ConfigurationError, match="another process"):
        Records(path)
    records.close()
    Records(path).close()


@pytest.mark.parametrize("content", [b"no database" * 100, bytes(4096)])
def test_a_file_that_is_no_database_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(LedgerCorrupt):
        Records(path)


def test_missing_records_are_never_made_anew_and_records_that_are_there_never_emptied(
    records: Records, path: Path
) -> None:
    records.note_own_head(7, "ab" * 32)
    records.close()
    with pytest.raises(ConfigurationError, match="forget what was said"):
        Records.create(path)
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        Records(path)
    path.chmod(0o600)
    with Records(path) as again:
        assert again.own_head() == (7, "ab" * 32)
    path.unlink()
    with pytest.raises(ConfigurationError, match="Restore the newest copy"):
        Records(path)
    assert not path.exists()


@pytest.mark.parametrize("damage", ["", "DROP TRIGGER what_was_said_stays", "DROP TABLE own_head"])
def test_a_file_that_lacks_a_table_or_a_trigger_of_records_is_refused(
    records: Records, path: Path, damage: str
) -> None:
    records.close()
    if damage:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(damage)
    else:
        path.write_bytes(b"")
    with pytest.raises(LedgerCorrupt, match="tables and triggers"):
        Records(path)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE said SET reply = x'00'",
        "UPDATE said SET what = 'set'",
        "UPDATE said SET request = x'00'",
        "UPDATE peer SET sequence = 2",
        "INSERT INTO said VALUES (x'01', (SELECT context FROM said), 'upload', x'00')",
        "INSERT INTO said VALUES (x'01', (SELECT context FROM said), 'abort', x'00')",
        "INSERT INTO session SELECT id, 'other' FROM session",
    ],
)
def test_sqlite_itself_refuses_to_change_what_was_said(
    records: Records, path: Path, statement: str
) -> None:
    say(records, RELEASED, peers={"bank-01": 2})
    records.close()
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as connection,
        pytest.raises(sqlite3.IntegrityError),
    ):
        connection.execute(statement)


def test_a_full_database_notes_nothing_and_says_so(records: Records, path: Path) -> None:
    pages = records._connection.execute("PRAGMA page_count").fetchone()[0]
    records._connection.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(ConfigurationError, match="full"):
        say(records, SET, reply=bytes(10**6), peers={"bank-01": 3})
    with reopened(records, path) as found:
        assert found.reply_to(b"ask set 0") is None
        assert found.sequence_of("bank-01") == 0
        say(found, SET, peers={"bank-01": 3})


# Any history.

Act = tuple[str, int, int]
ACTS = st.lists(
    st.tuples(
        st.sampled_from([*SAID, "attempt", "session", "reopen", "end"]),
        st.integers(0, 2),
        st.integers(0, 3),
    ),
    max_size=25,
)


class Model:
    """The same in a few sets, from the docstrings alone. Attempt i is of session i % 2."""

    def __init__(self) -> None:
        self.sessions: set[int] = set()
        self.attempts: set[int] = set()
        self.said: dict[tuple[int, str], bytes] = {}
        self.requests: dict[bytes, bytes] = {}

    def allows(self, what: str, number: int, request: bytes) -> bool:
        match what:
            case "session":
                return number not in self.sessions
            case "attempt":
                return number % 2 in self.sessions and number not in self.attempts
            case _:
                done = {word for of, word in self.said if of == number}
                over = what in done or done & {RELEASED, ABORT} or request in self.requests
                return number in self.attempts and not over

    def note(self, what: str, number: int, request: bytes) -> None:
        match what:
            case "session":
                self.sessions.add(number)
            case "attempt":
                self.attempts.add(number)
            case _:
                self.said[number, what] = request
                self.requests[request] = request + b"!"

    def end(self, plan: int) -> None:
        """Session i is of plan i % 2, and so is attempt i."""
        for key in [key for key in self.said if key[0] % 2 == plan]:
            del self.requests[self.said.pop(key)]


def act(records: Records, what: str, number: int, request: bytes) -> None:
    match what:
        case "session":
            records.begin_session(session(number), str(number % 2))
        case "attempt":
            records.begin_attempt(
                context(number), session=session(number % 2), round_=number, number=0
            )
        case _:
            records.say(what, context=context(number), request=request, reply=request + b"!")


@given(ACTS)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_any_history_of_notes_and_reopenings_is_that_of_a_few_sets(
    tmp_path_factory: pytest.TempPathFactory, acts: list[Act]
) -> None:
    path = tmp_path_factory.mktemp("history") / "records.sqlite"
    model, records = Model(), Records.create(path)
    for what, number, variant in acts:
        request = f"{what} {number} {variant}".encode()
        if what == "reopen":
            records = reopened(records, path)
        elif what == "end":
            records.end_plan(str(number % 2))
            model.end(number % 2)
        elif model.allows(what, number, request):
            act(records, what, number, request)
            model.note(what, number, request)
        else:
            with pytest.raises(ProtocolError):
                act(records, what, number, request)
        for known, reply in model.requests.items():
            assert records.reply_to(known) == reply
    records.close()
