"""The daemon's log: whatever goes wrong, standard error holds JSON objects only, a line each."""

import json
import subprocess
import sys

import pytest

SAYS = {
    "a line": "log.info('plan %s', 'p1')",
    "a warning": "import warnings; warnings.simplefilter('always'); warnings.warn('old\\nthing')",
    "text that is no text": "log.info('\\udcff\\x00\\u2028 \\u56fd')",
    "a bad log call": "log.info('%d people', 'x')",
    "an error in a thread": "t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()",
    "an error in a finaliser": "X = type('X', (), {'__del__': lambda s: 1 / 0}); X()",
    "an error with its place": "try: 1 / 0\nexcept ZeroDivisionError: log.exception('failed')",
    "an uncaught error": "raise ValueError('income 4711')",
    "an uncaught error in a cause": (
        "try:\n  raise KeyError('4711')\nexcept KeyError as e:\n  raise ValueError('4711') from e"
    ),
}


def lines_of(code: str, **environment: str) -> tuple[int, list[dict[str, object]]]:
    script = (
        "import logging, threading\nfrom fedscore.json_log import log_as_json\nlog_as_json()\n"
        f"log = logging.getLogger('x')\n{code}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        capture_output=True,
        env={"PYTHONPATH": ":".join(sys.path), **environment},
    )
    assert done.stdout == b""
    return done.returncode, [json.loads(line) for line in done.stderr.split(b"\n") if line]


@pytest.mark.parametrize("says", SAYS, ids=str)
@pytest.mark.parametrize("language", ["C.UTF-8", "POSIX"])
def test_each_line_is_an_object_with_time_level_and_event(says, language):
    code, lines = lines_of(SAYS[says], LC_ALL=language, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert len(lines) == 1
    assert set(lines[0]) - {"trace"} == {"time", "level", "from", "event"}
    assert code == (1 if says.startswith("an uncaught") else 0)


@pytest.mark.parametrize("says", [one for one in SAYS if "uncaught" in one])
def test_an_error_of_ours_is_traced_without_what_it_says(says):
    _, (line,) = lines_of(SAYS[says])
    assert line["level"] == "critical"
    assert "ValueError" in line["trace"]
    assert "4711" not in json.dumps(line)


def test_what_is_below_info_is_left_out():
    code = "logging.getLogger('flwr').setLevel(10); logging.getLogger('flwr').debug('x')"
    assert lines_of(code) == (0, [])


@pytest.mark.slow
def test_flower_has_no_handler_of_its_own_left():
    pytest.importorskip("flwr")
    _, lines = lines_of("import clients.flower_node\nlogging.getLogger('flwr').warning('retrying')")
    assert [line["event"] for line in lines] == ["retrying"]
