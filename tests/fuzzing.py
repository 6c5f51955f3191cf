"""Bad input for everything that reads: how it is made, and what must hold whatever it is.

    for command in COMMANDS: one line for each endpoint of the command line
    damages(content): every way in which a file can be wrong, the same each time

After a command that fails: an exit code of the tree of errors (or 2, typer's own), one message and
no trace, and every file below the place as it was. `FEDSCORE_FUZZ=n` asks n times as many.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from federation.errors import FedscoreError
from fedscore import command

TIMES: Final = int(os.environ.get("FEDSCORE_FUZZ", "1"))
"""How many times as many inputs as in the daily tests."""

CHECKOUT: Final = Path(__file__).resolve().parents[1]

USAGE: Final = 2
"""The exit code of typer for words that no command has."""

VALUES: Final = (
    "0", "-1", "1", "true", '""', '"x"', '"\\u0000"', "[]", "[[]]", "{}", "nan", "-inf", "inf",
    "1e400", "1e308", "-1e308", "5e-324", "9223372036854775807", "9223372036854775808",
    "-9223372036854775809", "1" + "0" * 40, "9" * 5000, "0.1", "null", "1979-05-27T07:32:00Z",
    "9999-12-31T23:59:59-23:59",
    '"' + "a" * 3000 + '"', '"\U0001f4b3\u202e"', "[" * 1000, '"' + "ab" * 32 + '"',
    '"../../../etc"',
)  # fmt: skip
"""What stands instead of a value in TOML or JSON; much of it is neither."""

WORDS: Final = (
    "", " ", "-", "--", "\0", "a\0b", "\udc80", "\x1b[2J", "\U0001f4b3", "a" * 300, "a" * 5000,
    "b/" * 3000, "/", "..", ".", "/dev/null", "/proc/self/mem", "table.parquet", "table.parquet/x",
    "nowhere/x", "0", "-1", "nan", "inf", "1e400", "-1e308", "5e-324", "1" + "0" * 30, "9" * 5000,
    "1.5", "[", "a,,b", "a,a", "ab" * 32, "00" * 32, "ff" * 32,
)  # fmt: skip
"""What stands instead of a word of a command."""

_VALUE: Final = re.compile(rb'(?<=[=:,\[] )("[^"\n]*"|[^\s",\[\]{}]+|\[[^\]\n]*\])')


def exit_codes() -> set[int]:
    """Returns the exit codes of the tree of errors."""
    found, kinds = set(), [FedscoreError]
    while kinds:
        kind = kinds.pop()
        found.add(kind.exit_code)
        kinds += kind.__subclasses__()
    return found


def damages(content: bytes, *, seed: str, times: int) -> Iterator[bytes]:
    """Yields contents that are not this one: the fixed ones, then `times` of each random kind."""
    yield from (b"", b"\0", b"\xff\xfe" + bytes(40), b"\xef\xbb\xbf" + content, content + content)
    yield from (content.replace(b"\n", b"\r"), content[: len(content) // 2], content[:-1])
    yield from (b"[" * 100_000, b'{"a":' * 100_000, b"a = " + b"[" * 5000, b"a." * 5000 + b"b = 1")
    chance = Random(seed)  # noqa: S311  inputs, not secrets
    values = [found.span(1) for found in _VALUE.finditer(content)]
    for _ in range(times):
        yield chance.randbytes(chance.randrange(1, 300))
        at = chance.randrange(len(content) or 1)
        yield content[:at]
        yield content[:at] + chance.randbytes(chance.randrange(1, 9)) + content[at:]
        to = at + chance.randrange(1, 40)
        yield content[:at] + content[to:]
        yield content[:to] + content[at:]
        flipped = bytearray(content)
        for _ in range(chance.randrange(1, 4)):
            if flipped:
                flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
        yield bytes(flipped)
        for _ in range(4 if values else 0):
            start, end = chance.choice(values)
            yield content[:start] + chance.choice(VALUES).encode() + content[end:]


def no_files(path: Path) -> Iterator[str]:
    """Makes what is no file at a path, one kind after the other; yields what it is."""
    remove(path)
    yield "nothing"
    remove(path)
    path.mkdir()
    yield "a directory"
    remove(path)
    path.symlink_to(path.name)
    yield "a link to itself"
    remove(path)
    path.symlink_to(Path("somewhere", "else", "a" * 200))
    yield "a link to nowhere"
    remove(path)
    if os.geteuid():  # nothing is forbidden to root
        path.touch(mode=0)
        yield "forbidden"
        remove(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command, whole, and the files that it reads.

    Attributes:
        words: as they are typed in the place; none of them fails.
        reads: files of the place, each of which is spoilt in turn.
        times: how often each random damage is tried.
    """

    words: str
    reads: tuple[str, ...]
    times: int = 6

    @property
    def name(self) -> str:
        """What tests call it."""
        return "-".join(self.words.split()[:2])


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def typed(words: list[str]) -> Ended:
    """Returns how a command ends that somebody types, run in this process."""
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["fedscore", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            command.main()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except Exception as error:  # noqa: BLE001  a person would see a trace
        code = 1
        frames = traceback.extract_tb(error.__traceback__)
        ours = [one for one in frames if Path(one.filename).is_relative_to(CHECKOUT)][-1]
        place = f"{Path(ours.filename).relative_to(CHECKOUT)}:{ours.lineno}"
        err.write(f"Traceback: {place}: {type(error).__name__}: {str(error)[:200]}")
    finally:
        sys.argv = argv
    return Ended(code, out.getvalue(), err.getvalue())


def left_in(place: Path) -> dict[str, object]:
    """Returns everything below a place, kinds, modes and contents; without locks and their like."""
    found: dict[str, object] = {}
    for path in sorted(place.rglob("*")):
        # What the carrier needs is made anew at every start, and tells nothing.
        if path.name.endswith((".lock", "-wal", "-shm")) or "superlink" in path.parts:
            continue
        is_file = path.is_file() and not path.is_symlink() and os.access(path, os.R_OK)
        found[str(path.relative_to(place))] = (
            path.lstat().st_mode,
            path.read_bytes() if is_file else None,
        )
    return found


def complaint(ended: Ended, before: dict[str, object], place: Path) -> str:
    """Returns what is wrong with how a command ended, empty if nothing is.

    One that failed has said so in one message of ours, and has changed nothing.
    """
    said = ended.err.strip()
    if "Traceback" in said:
        return said
    if ended.code == 0:
        return ""
    if ended.code not in exit_codes() | {USAGE}:
        return f"exit code {ended.code}"
    if not said or (len(said) > 5000 and ended.code != USAGE) or "Error(" in said:
        return f"not a message for people: {said[:300]!r}"
    after = left_in(place)
    changed = {path for path in after.keys() | before if after.get(path) != before.get(path)}
    return f"changed {sorted(changed)}" if changed else ""


def spoil_all(command: Command, place: Path, original: Path) -> tuple[int, dict[str, str]]:
    """Returns how often a command was run with one of its files spoilt, and each complaint.

    Args:
        command: any.
        place: the current directory.
        original: that it is a copy of, restored when something was written.

    Returns:
        How often; and by complaint the first file and damage that led to it.
    """
    words = shlex.split(command.words)
    tried, complaints = 0, {}
    for name in command.reads:
        path = place / name
        content = (original / name).read_bytes()
        seed, most = command.words + name, command.times * TIMES
        contents = list(damages(content, seed=seed, times=most))
        chance = Random(seed)  # noqa: S311  inputs, not secrets
        contents = chance.sample(contents, min(2 * most, len(contents)))

        def spoilt(contents: list[bytes], path: Path) -> Iterator[str]:
            for damage in contents:
                path.write_bytes(damage)
                yield repr(damage[:300])
            yield from no_files(path)

        for what in spoilt(contents, path):
            before = left_in(place)
            ended = typed(words)
            tried += 1
            wrong = complaint(ended, before, place)
            if wrong:
                complaints.setdefault(wrong, f"{command.words}: {name} is {what}")
            if ended.code == 0 or wrong:
                restore(place, original)
        restore(place, original)
    return tried, complaints


def misread_all(command: Command, place: Path, original: Path) -> tuple[int, dict[str, str]]:
    """Returns the same with one word of a command replaced by what nobody would type."""
    words = shlex.split(command.words)
    tried, complaints = 0, {}
    cases = [
        (at, word) for at in range(len(words)) for word in WORDS if at > 1 and words[at][:2] != "--"
    ]
    most = command.times * TIMES
    chance = Random(command.words)  # noqa: S311  inputs, not secrets
    for at, word in chance.sample(cases, min(3 * most, len(cases))):
        before = left_in(place)
        typed_words = [*words[:at], word, *words[at + 1 :]]
        ended = typed(typed_words)
        tried += 1
        wrong = complaint(ended, before, place)
        if wrong:
            complaints.setdefault(wrong, f"{words[:2]}: {words[at - 1]} {word[:100]!r}")
        if ended.code == 0 or wrong:
            restore(place, original)
    return tried, complaints


def remove(path: Path) -> None:
    """Removes whatever is at a path."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def restore(place: Path, original: Path) -> None:
    """Makes a place what it was."""
    for path in place.iterdir():
        remove(path)
    shutil.copytree(original, place, dirs_exist_ok=True)
