"""The rounds of a scorecard in Flower's own simulation engine: nothing is kept secret here.

A ClientApp adds up what its people bring, with the very functions of the product: no noise, no
mask, no ledger, no check. A ServerApp adds the arrays and takes the product's own step. People are
coded beforehand and stay in the memory of the engine's processes once they were read.

Only this file and its caller need the extra `fedscore[flower-simulation]`; importing it settles
that flwr and ray send nothing home.
"""

import os
import time
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # read when flwr is imported
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from numpy.typing import NDArray

from federation import door
from federation.asking import sum_for
from federation.errors import ProtocolError
from federation.model.card_fit import CardFit
from federation.model.scorecard import AdditiveCard, count_contribution
from federation.model.step import Packing, Step
from federation.plan import Plan, load_plan
from federation.pricing import stddev_of_total
from federation.query import UNITS_PER_ONE, Question
from federation.schema import Schema, load_schema

SCHEMA: Final = "schema.toml"
PLAN: Final = "plan.toml"
_ARRAYS: Final = "arrays"
_CONFIG: Final = "config"
_PAUSE_SECONDS: Final = 0.1

Whole = NDArray[np.int64]

client = ClientApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Returns the sum over one institution's people of a question."""
    directory = Path(str(message.content.config_records[_CONFIG]["directory"]))
    file = directory / f"{context.node_config['partition-id']}.npz"
    arrays = message.content.array_records[_ARRAYS].to_numpy_ndarrays()
    total = own_sum(directory, file, _card_of(arrays))
    return Message(RecordDict({_ARRAYS: ArrayRecord([total])}), reply_to=message)


def own_sum(directory: Path, file: Path, card: AdditiveCard | None) -> Whole:
    """Returns int64[length]: what the people of a file bring to STEP; without a card, to BINS."""
    plan, schema = _contract(directory)
    codes, bad = _people(file)
    if card is None:
        people, question = count_contribution(codes, bad, None), Question.BINS
    else:
        packing = Packing.of(card, frozenset())
        people = Step.at(card, packing).contribution(_packed(file, packing), bad, None)
        question = Question.STEP
    return door.sum_of(sum_for(plan, schema, question, card), [people]).total


@lru_cache(maxsize=1)
def _contract(directory: Path) -> tuple[Plan, Schema]:
    schema = load_schema((directory / SCHEMA).read_text())
    return load_plan((directory / PLAN).read_text()), schema


@cache
def _people(file: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    with np.load(file) as kept:
        return kept["codes"], kept["bad"]


@cache
def _packed(file: Path, packing: Packing) -> NDArray[np.uint16]:
    return packing.pack(_people(file)[0])


class Server:
    """The ServerApp's side: asks every node, adds up, takes a step.

    Attributes:
        seconds: of each round, the first of them left out.
        asked: each card and the sum that came back for it.
    """

    def __init__(self, directory: Path, institutions: int, rounds: int) -> None:
        """Prepares to ask institutions that many rounds, and one more before."""
        self.seconds: list[float] = []
        self.asked: list[tuple[AdditiveCard | None, Whole]] = []
        self._directory = directory
        self._institutions = institutions
        self._rounds = rounds

    def run(self, grid: Grid) -> None:
        """Trains."""
        plan, schema = _contract(self._directory)
        nodes: list[int] = []
        while len(nodes) < self._institutions:
            time.sleep(_PAUSE_SECONDS)
            nodes = list(grid.get_node_ids())
        fit = CardFit.begin(
            grids=schema.scored_grids,
            counts=self._ask(grid, nodes, None) / UNITS_PER_ONE,
            count_stddev=stddev_of_total(plan, Question.BINS, len(nodes)),
            residual_stddev=stddev_of_total(plan, Question.STEP, len(nodes)),
            rounds=plan.rounds,
        )
        for number in range(1 + self._rounds):
            started = time.perf_counter()
            fit = fit.after(self._ask(grid, nodes, fit.to_ask()) / UNITS_PER_ONE)
            if number > 0:
                self.seconds.append(time.perf_counter() - started)

    def _ask(self, grid: Grid, nodes: list[int], card: AdditiveCard | None) -> Whole:
        content = RecordDict(
            {
                _ARRAYS: ArrayRecord(_arrays_of(card)),
                _CONFIG: ConfigRecord({"directory": str(self._directory)}),
            }
        )
        replies = list(
            grid.send_and_receive(
                [Message(content, dst_node_id=node, message_type="train") for node in nodes]
            )
        )
        if len(replies) != len(nodes) or any(reply.has_error() for reply in replies):
            raise ProtocolError("A client of Flower's engine did not answer.")
        sums = [reply.content.array_records[_ARRAYS].to_numpy_ndarrays()[0] for reply in replies]
        total: Whole = np.sum(sums, axis=0)
        self.asked.append((card, total))
        return total


def flower_rounds(directory: Path, institutions: int, rounds: int) -> tuple[float, ...]:
    """Returns the seconds of each round, in a process that runs nothing else.

    Args:
        directory: of schema, plan and people, `0.npz` for the first institution.
        institutions: as many nodes.
        rounds: that are timed; a round of bins and one more step come before them.

    Raises:
        ProtocolError: a client failed, or a total is not the sum over all people.
    """
    server, app = Server(directory, institutions, rounds), ServerApp()

    @app.main()
    def main(grid: Grid, _context: Context) -> None:
        server.run(grid)

    run_simulation(
        server_app=app,
        client_app=client,
        num_supernodes=institutions,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},  # a process for each core
            "init_args": {"include_dashboard": False, "log_to_driver": False},
        },
    )
    everybody = [_people(directory / f"{number}.npz") for number in range(institutions)]
    whole = directory / "everybody.npz"
    np.savez(
        whole,
        codes=np.concatenate([codes for codes, _ in everybody], axis=1),
        bad=np.concatenate([bad for _, bad in everybody]),
    )
    for card, total in server.asked:
        if not np.array_equal(total, own_sum(directory, whole, card)):
            raise ProtocolError("Flower's engine did not do the same work: its total is another.")
    if len(server.seconds) != rounds:
        raise ProtocolError("Flower's engine did not run all rounds.")
    return tuple(server.seconds)


def _arrays_of(card: AdditiveCard | None) -> list[NDArray[np.int32]]:
    """Returns the card in three arrays: base and bins of each feature, weights, bins of cells."""
    if card is None:
        return [np.zeros(0, dtype=np.int32)]
    sizes = [
        number
        for pair in zip(map(len, card.bin_of_cell), card.bins, strict=True)
        for number in pair
    ]
    return [
        np.array([card.base, *sizes], dtype=np.int32),
        np.concatenate(card.weights).astype(np.int32),
        np.concatenate(card.bin_of_cell).astype(np.int32),
    ]


def _card_of(arrays: list[NDArray[np.int32]]) -> AdditiveCard | None:
    if len(arrays) == 1:
        return None
    base, *sizes = arrays[0].tolist()
    return AdditiveCard(
        base=base,
        bin_of_cell=_parts(arrays[2], sizes[::2]),
        weights=_parts(arrays[1], sizes[1::2]),
    )


def _parts(whole: NDArray[np.int32], sizes: list[int]) -> tuple[tuple[int, ...], ...]:
    parts = np.split(whole, np.cumsum(sizes)[:-1])
    return tuple(tuple(part.tolist()) for part in parts)
