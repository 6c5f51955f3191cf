"""`fedscore institution run` with noise that a test knows: injected in code, and nowhere else.

python tests/seeded_daemon.py CONFIG
"""

import signal
import sys
import threading
from pathlib import Path

from clients.configuration import load_daemon_configuration
from clients.daemon import run_daemon
from clients.premises import premises_of
from fedscore import files
from fedscore.json_log import log_as_json
from fedscore.machine import system_clock, system_entropy


def noise_entropy() -> bytes:
    """Returns the same 32 bytes whoever draws, and however often: no order of answers matters."""
    return b"a noise key that everybody knows"


def main() -> None:
    log_as_json()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    configuration = load_daemon_configuration(Path(sys.argv[1]))
    premises = premises_of(configuration)
    run_daemon(
        configuration,
        premises,
        identity=files.read_key(premises.identity),
        schema=files.read_schema(Path(configuration.schema)),
        clock=system_clock,
        noise_entropy=noise_entropy,
        mask_entropy=system_entropy,
        stop=stop,
    )


if __name__ == "__main__":
    main()
