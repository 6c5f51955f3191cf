"""Rounds of real processes: daemons of ours, and the same behind stock SuperNodes of Flower.

Coordinator, SuperLink and all institutions on this one machine, over TLS on loopback, with one
plan's settings and one table of made-up people; masks, ledgers on disk and sealed envelopes as
always. Ours and the stock ones run one after the other. No process has pandas, which no
institution installs. Nothing is kept in the cache: a time is measured when it is asked for.
"""

import os
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from clients.configuration import Carrier
from experiments.experiment import Setting
from experiments.speed.live_federation import Measured, measured
from federation.errors import ConfigurationError

SIZES: Final[tuple[int, ...]] = (3, 5, 10)
ROUNDS: Final = 8
PEOPLE_EACH: Final = 10_000


class LiveRounds(msgspec.Struct, frozen=True, kw_only=True):
    """What `run live_rounds` found.

    Attributes:
        people_each: in each institution's table, roughly; a quarter of them is held out.
        cores: of the machine.
        ours: from few to many institutions.
        stock: as many institutions as the first of ours; None in a small version.
    """

    people_each: int
    cores: int
    ours: tuple[Measured, ...]
    stock: Measured | None


def run_live_rounds(setting: Setting) -> LiveRounds:
    """Runs federations of processes, one after the other.

    Raises:
        ConfigurationError: this system has no /proc that says what processes hold.
    """
    if not Path("/proc/self/smaps").exists():
        raise ConfigurationError("Only Linux says what processes hold: run this there.")
    if setting.quick:
        wanted = [(3, Carrier.NODE)]
        people_each, rounds = 500, 1
    else:
        wanted = [(SIZES[0], Carrier.SOCKET), *((size, Carrier.NODE) for size in SIZES)]
        people_each, rounds = PEOPLE_EACH, ROUNDS
    setting.expect(len(wanted))
    found: dict[Carrier, list[Measured]] = {carrier: [] for carrier in Carrier}
    for institutions, carrier in wanted:
        with tempfile.TemporaryDirectory(prefix="live-") as scratch:
            found[carrier].append(
                measured(
                    Path(scratch),
                    institutions=institutions,
                    people_each=people_each,
                    rounds=rounds,
                    carrier=carrier,
                )
            )
        setting.advance()
    return LiveRounds(
        people_each=people_each,
        cores=os.cpu_count() or 1,
        ours=tuple(found[Carrier.NODE]),
        stock=next(iter(found[Carrier.SOCKET]), None),
    )
