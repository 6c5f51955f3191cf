"""Flower's side of the comparison does the work that it is timed for; Ray is not needed here."""

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from experiments.audit.membership_crowd import SCHEMA as SCHEMA_TOML
from experiments.audit.membership_crowd import Crowd, contribution, plan_for
from experiments.cache import Cache
from experiments.experiment import Setting
from experiments.speed import flower_simulation
from experiments.speed.flower_peer import PLAN, SCHEMA, Server, client
from federation import door
from federation.asking import sum_for
from federation.errors import ConfigurationError
from federation.plan import load_plan, plan_toml
from federation.query import Question

ROUNDS = 2


class OneProcess:
    """A grid whose nodes are called one after the other."""

    def __init__(self, nodes):
        self._nodes = nodes

    def get_node_ids(self):
        return range(1, self._nodes + 1)

    def send_and_receive(self, messages):
        for message in messages:
            node = message.metadata.dst_node_id
            config = {"partition-id": node - 1}
            context = Context(1, node, config, RecordDict(), {})
            yield client(message, context)


@pytest.fixture(scope="module")
def crowd():
    return Crowd.drawn(people_each=200, canaries=10)


@pytest.fixture
def directory(crowd, tmp_path):
    plan = plan_for(crowd.schema, epsilon=4.0, rounds=1 + ROUNDS, people=610)
    (tmp_path / SCHEMA).write_text(SCHEMA_TOML)
    (tmp_path / PLAN).write_text(plan_toml(plan))
    for number, people in enumerate(crowd.others.values()):
        np.savez(tmp_path / f"{number}.npz", codes=people.codes, bad=people.bad.astype(np.uint8))
    return tmp_path


def test_the_totals_of_flowers_rounds_are_the_sums_over_all_people(crowd, directory, monkeypatch):
    for name in ("_task_id", "_run_id", "_node_id"):  # the engine would have set them
        monkeypatch.setattr(TaskIdentity, name, 1)
    server = Server(directory, len(crowd.others), ROUNDS)
    server.run(OneProcess(len(crowd.others)))
    assert len(server.seconds) == ROUNDS
    (no_card, _), *steps = server.asked
    assert no_card is None
    assert len({card for card, _ in steps}) == 1 + ROUNDS
    plan = load_plan((directory / PLAN).read_text())
    for card, total in server.asked:
        question = Question.BINS if card is None else Question.STEP
        everybody = [contribution(plan, people, card) for people in crowd.others.values()]
        exact = door.sum_of(sum_for(plan, crowd.schema, question, card), everybody)
        assert np.array_equal(total, exact.total)


def test_without_flowers_engine_the_experiment_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(flower_simulation, "find_spec", lambda _: None)
    setting = Setting(name="flower_simulation", quick=True, cache=Cache(tmp_path))
    with pytest.raises(ConfigurationError, match=r"fedscore\[flower-simulation\]"):
        flower_simulation.run_flower_simulation(setting)
