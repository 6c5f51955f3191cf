"""What a look at one thing found, and what to do about it."""

from collections.abc import Callable
from enum import StrEnum

import msgspec

from federation.errors import FedscoreError


class Verdict(StrEnum):
    """How one check came out."""

    PASS = "pass"  # noqa: S105  a verdict
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "skipped"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One check.

    Attributes:
        check: what was looked at.
        verdict: how it came out; skipped: it could not be looked at, `found` says why.
        found: what is there. Never a value of a row.
        advice: what to do, commands between backticks; empty where nothing is to be done.
    """

    check: str
    verdict: Verdict
    found: str
    advice: str = ""


def passed(check: str, found: str) -> Finding:
    """Returns that all is well."""
    return Finding(check=check, verdict=Verdict.PASS, found=found)


def warned(check: str, found: str, advice: str) -> Finding:
    """Returns that it works now and somebody should look."""
    return Finding(check=check, verdict=Verdict.WARN, found=found, advice=advice)


def failed(check: str, found: str, advice: str) -> Finding:
    """Returns that the daemon would not work so."""
    return Finding(check=check, verdict=Verdict.FAIL, found=found, advice=advice)


def skipped(check: str, why: str) -> Finding:
    """Returns that this could not be looked at."""
    return Finding(check=check, verdict=Verdict.SKIPPED, found=why)


def looked_at(check: str, look: Callable[[], Finding], advice: str) -> Finding:
    """Returns what `look` finds; an error of ours or of the system is a failed check.

    Args:
        check: its name.
        look: does it.
        advice: against such an error.
    """
    try:
        return look()
    except FedscoreError as error:
        return failed(check, str(error), advice)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return failed(check, f"{error.strerror or type(error).__name__}{where}", advice)
