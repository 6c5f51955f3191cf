"""Log lines for programs: one JSON object a line on standard error, whatever happens."""

import json
import logging
import sys
import threading
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import TextIO

_log = logging.getLogger("fedscore")


class _AsJson(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "from": record.name,
            "event": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = _trace_of(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False)


def _trace_of(error: BaseException | None) -> list[str]:
    """Returns where an error came from, and its kind. What it says may quote a record: left out."""
    trace = []
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        trace += [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
        trace.append(type(error).__name__)
        error = error.__cause__ or error.__context__
    return trace


class _OneLineEach(logging.StreamHandler[TextIO]):
    """Standard error; a line that cannot be made is replaced by one that says so."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the library's name
        """Names the place of a log call that does not fit its own text; its parts are left out."""
        if not isinstance(sys.exception(), OSError):  # else nobody reads standard error any more
            place = f"{record.pathname}:{record.lineno}"
            self.handle(
                logging.LogRecord(
                    record.name, logging.ERROR, place, 0, "bad log call at %s", (place,), None
                )
            )


def log_as_json() -> None:
    """Makes all that this process says on standard error JSON lines, from the level INFO on.

    That includes warnings, and errors that nobody has caught, in whatever thread.
    """
    if hasattr(sys.stderr, "reconfigure"):  # what UTF-8 lacks becomes an escape that JSON knows
        sys.stderr.reconfigure(encoding="utf-8", errors="backslashreplace")
    handler = _OneLineEach()
    handler.setFormatter(_AsJson())
    handler.setLevel(logging.INFO)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable


def _uncaught(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    _log.critical("ended by an error that is a mistake of ours", exc_info=(kind, error, where))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    name = args.thread.name if args.thread is not None else "?"
    error = args.exc_value
    if error is not None:
        _log.critical(
            "thread %s ended by an error that is a mistake of ours",
            name,
            exc_info=(args.exc_type, error, args.exc_traceback),
        )


def _unraisable(args: "sys.UnraisableHookArgs") -> None:
    _log.error("an error where none can be raised: %s", args.exc_type.__name__)
