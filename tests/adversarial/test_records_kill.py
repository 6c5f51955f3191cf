"""Kill -9 at random moments: what an institution was about to say is noted, whole, or not at all.

As with the ledger, SIGKILL leaves the operating system's cache alone: that a note outlives a power
cut rests on SQLite's `synchronous=FULL`, which opening the records checks.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from clients.records import ABORT, RELEASED, SET, UPLOAD, Records
from federation.canonical import hash_of
from federation.errors import ProtocolError

LIVES = 60
KILLED_WHILE_OPENING = 10  # one life in ten; all others are killed while they write
LONGEST_LIFE_SECONDS = 0.012
PLAN = "aa" * 32
PEERS = ("bank-01", "bank-02")


def session(life: int) -> bytes:
    return hash_of("test/session", life.to_bytes(4, "big"))


def context(life: int, number: int) -> bytes:
    return hash_of("test/context", life.to_bytes(4, "big"), number.to_bytes(4, "big"))


def story(number: int) -> tuple[str, ...]:
    """What is said about an attempt: each of the ways that there are."""
    return ((UPLOAD, RELEASED), (UPLOAD, SET, RELEASED), (UPLOAD, SET, ABORT), (UPLOAD,))[
        number % 4
    ]


def asked(life: int, number: int, what: str) -> bytes:
    return f"ask {what} of {number} in {life}".encode()


def reply(life: int, number: int, what: str) -> bytes:
    """A reply of many pages, each different: half of it would show."""
    return b"".join(hash_of(what, bytes([life, number % 256, part])) for part in range(200))


def sequence(life: int, number: int, what: str) -> int:
    """A ledger sequence that grows from note to note."""
    return 1 + 10**6 * life + 10 * number + SAID.index(what)


SAID = (UPLOAD, SET, RELEASED, ABORT)


def live(path: Path, life: int, pipe: int) -> None:
    """Writes until it is killed, and reports each note after the call that wrote it returned."""
    records = Records(path) if path.exists() else Records.create(path)
    records.begin_session(session(life), PLAN)
    os.write(pipe, b"session\n")
    for number in range(10**6):
        records.begin_attempt(context(life, number), session=session(life), round_=number, number=0)
        os.write(pipe, f"attempt {number}\n".encode())
        for what in story(number):
            peers = dict.fromkeys(PEERS, sequence(life, number, what))
            records.say(
                what,
                context=context(life, number),
                request=asked(life, number, what),
                reply=reply(life, number, what),
                peers=peers,
            )
            os.write(pipe, f"{what} {number}\n".encode())


def acknowledged_before_the_kill(
    path: Path, life: int, seconds: float, *, is_writing: bool
) -> list[str]:
    """Returns each note that a killed child reported.

    The kill comes `seconds` after the child's first report if `is_writing`, else after its birth.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1  # only an error ends the loop before the kill does
        try:
            os.close(reading)
            live(path, life, writing)
        finally:
            os._exit(status)
    os.close(writing)
    first = os.read(reading, 4096) if is_writing else b""
    time.sleep(seconds)  # chooses the moment of the kill; nothing is waited for
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as report:
        lines = (first + report.read()).decode().splitlines()
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    return lines


def check_noted(records: Records, life: int, lines: list[str]) -> None:
    """Raises unless all that was reported is there, is final, and only one note beyond it is."""
    if not lines:
        return
    with pytest.raises(ProtocolError, match="begun before"):
        records.begin_session(session(life), PLAN)
    reported = [tuple(line.split()) for line in lines[1:]]
    order = [
        (what, str(number))
        for number in range(len(reported) + 2)
        for what in ("attempt", *story(number))
    ]
    assert reported == order[: len(reported)]
    last = 0
    for what, number in reported:
        if what == "attempt":
            with pytest.raises(ProtocolError, match="opened before"):
                records.begin_attempt(
                    b"another", session=session(life), round_=int(number), number=0
                )
            continue
        noted = records.reply_to(asked(life, int(number), what))
        assert noted == reply(life, int(number), what)
        last = sequence(life, int(number), what)
    what, number = order[len(reported)]
    unreported = None if what == "attempt" else records.reply_to(asked(life, int(number), what))
    if unreported is not None:  # noted, and killed before it could say so
        assert unreported == reply(life, int(number), what)
        last = sequence(life, int(number), what)
    if last:  # peers are noted with what was said, or not at all
        assert [records.sequence_of(peer) for peer in PEERS] == [last, last]
    for what, number in order[len(reported) + 1 :]:
        if what != "attempt":
            assert records.reply_to(asked(life, int(number), what)) is None


def check_over(records: Records, life: int, lines: list[str]) -> None:
    """Raises unless nothing more can be said where a release or a vote was the last word."""
    for line in lines[1:]:
        what, number = line.split()
        if what in (RELEASED, ABORT):
            for more in SAID:
                with pytest.raises(ProtocolError):
                    records.say(
                        more, context=context(life, int(number)), request=b"more", reply=b"more"
                    )


@pytest.mark.slow
# The child of the fork uses nothing but the records, and no thread of ours is running.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_what_was_acknowledged_before_a_kill_is_noted_whole_and_final(tmp_path: Path) -> None:
    path, moments = tmp_path / "records.sqlite", random.Random(11)  # noqa: S311 - the same moments
    killed_while_writing = logs_left = 0
    for life in range(LIVES):
        is_writing = life % KILLED_WHILE_OPENING > 0
        seconds = moments.uniform(0, LONGEST_LIFE_SECONDS)
        lines = acknowledged_before_the_kill(path, life, seconds, is_writing=is_writing)
        killed_while_writing += bool(lines)
        logs_left += path.with_name("records.sqlite-wal").exists()
        with Records(path) if path.exists() else Records.create(path) as records:
            check_noted(records, life, lines)
            check_over(records, life, lines)
    assert killed_while_writing >= 45
    assert logs_left >= 45
