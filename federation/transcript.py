"""What the coordinator writes down of a training, so that others can check it.

One JSON object a line. It holds what was signed and what was opened; masked sums, shares and seeds
are never in it, and neither is what a single institution answered in local mode.
"""

from collections.abc import Callable
from typing import Annotated, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation import canonical
from federation.messages import AnswerHeader
from federation.query import Question
from federation.secure_aggregation.session import Announcement
from federation.secure_aggregation.upload import Header

_Total = tuple[Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)], ...]

TRANSCRIPT_LABEL: Final = "fedscore/transcript/2"


class _Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """One line; its tag is the name of its class."""


class Planned(_Line, frozen=True, kw_only=True):
    """The first line.

    Attributes:
        plan: the signed plan's TOML.
        roster: the signed roster's TOML.
    """

    plan: str
    roster: str


class Joint(_Line, frozen=True, kw_only=True):
    """A session: everything from here on happened in it, until the next one.

    Attributes:
        session: 32 bytes.
        announcements: in order of the institutions' ids.
    """

    session: bytes
    announcements: tuple[Announcement, ...]


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that did not fit, as the coordinator says.

    Attributes:
        institution: whose message it was.
        accuser: the institution that said so; empty if the coordinator saw it itself.
        what: in words.
    """

    institution: str
    accuser: str
    what: str


class Asked(_Line, frozen=True, kw_only=True):
    """An attempt is about to be made: written before anybody is asked, so that a crash shows.

    Attributes:
        question: of the plan.
        round: of the question.
        attempt: from 0.
        signature: the coordinator's, of the context.
    """

    question: Question
    round: int
    attempt: int
    signature: str


class Attempted(_Line, frozen=True, kw_only=True):
    """What became of the attempt that was asked just before: its total, or how it ended.

    Attributes:
        question: of the plan.
        round: of the question.
        attempt: from 0.
        model: digest of the card that was asked about.
        columns: cells of each column of the question.
        signature: the coordinator's, of the context.
        uploaded: places of those whose headers follow.
        headers: of the uploads that were taken.
        signers: places of those whose set signatures follow.
        set_signatures: over the set of survivors, which is `uploaded`.
        voters: places of those whose abort votes follow.
        votes: abort votes.
        coins: of the survivors; empty if nothing was opened.
        total: the sum over the survivors in grid units; empty if nothing was opened.
        faults: what did not fit.
    """

    question: Question
    round: int
    attempt: int
    model: bytes
    columns: tuple[int, ...]
    signature: str
    uploaded: tuple[int, ...]
    headers: tuple[Header, ...]
    signers: tuple[int, ...]
    set_signatures: tuple[bytes, ...]
    voters: tuple[int, ...]
    votes: tuple[bytes, ...]
    coins: tuple[bytes, ...]
    total: _Total
    faults: tuple[Fault, ...]


class Answers(_Line, frozen=True, kw_only=True):
    """What became of the question that was asked just before, of a plan in local mode.

    Attributes:
        question: of the plan.
        round: of the question.
        model: digest of the model that was asked about.
        columns: cells of each column of the question.
        signature: the coordinator's, of the context.
        headers: of the answers that were taken, in order of the institutions' ids. What they
            answered is not written down, its digest is: an institution finds its own here.
        total: the sum of the answers in grid units; empty if they were fewer than the quorum.
        faults: what did not fit.
    """

    question: Question
    round: int
    model: bytes
    columns: tuple[int, ...]
    signature: str
    headers: tuple[AnswerHeader, ...]
    total: _Total
    faults: tuple[Fault, ...]


class Ended(_Line, frozen=True, kw_only=True):
    """The last line.

    Attributes:
        release: digest of the release, empty if there is none.
        signature: the coordinator's, over all lines before and the release.
    """

    release: str
    signature: str


Line = Planned | Joint | Asked | Attempted | Answers | Ended

_lines: Final[msgspec.json.Decoder[Line]] = msgspec.json.Decoder(Line)


class Transcript:
    """The lines so far; grows while a training runs, and tells how far it came if it was cut."""

    def __init__(
        self, content: bytes = b"", *, append: Callable[[bytes], None] = lambda _: None
    ) -> None:
        """Starts with the whole lines of an earlier process, or empty.

        Args:
            content: whole lines, each with its line feed.
            append: makes one more line durable, before anything follows from it.

        Raises:
            msgspec.DecodeError: a line is none.
        """
        self._lines = content.split(b"\n")[:-1]
        self._append = append
        for line in self._lines:
            read_line(line)

    def lines(self) -> tuple[Line, ...]:
        """Returns what was written."""
        return tuple(read_line(line) for line in self._lines)

    def write(self, line: Line) -> None:
        """Adds a line, durably."""
        encoded = msgspec.json.encode(line, order="deterministic")
        self._append(encoded + b"\n")
        self._lines.append(encoded)

    def end(self, release: str, key: Ed25519PrivateKey) -> None:
        """Adds the last line, signed."""
        body = ended_body(self._lines, release)
        self.write(Ended(release=release, signature=canonical.sign(key, TRANSCRIPT_LABEL, body)))

    def content(self) -> bytes:
        """Returns all lines."""
        return b"".join(line + b"\n" for line in self._lines)


def ended_body(lines: list[bytes], release: str) -> bytes:
    """Returns what the last line signs."""
    return canonical.framed("ended", release.encode(), *lines)


def read_line(line: bytes) -> Line:
    """Returns one line.

    Raises:
        msgspec.DecodeError: it is none.
    """
    try:
        return _lines.decode(line)
    except (ValueError, RecursionError) as error:  # not UTF-8, or nested too deep
        raise msgspec.DecodeError(str(error)) from error
