"""Whom an exchange waits for."""

import pytest

from server import waiting
from server.waiting import Waiting

REQUESTS = {"a": b"1", "b": b"2"}


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(waiting, "_PATIENCE_SECONDS", 0.0)


def test_who_never_came_is_worth_waiting_for(impatient):
    found = Waiting(unsent=dict(REQUESTS))
    assert found.is_worth_it(REQUESTS)
    found.replies["a"] = b""
    assert found.is_worth_it(REQUESTS)
    found.replies["b"] = b""
    assert not found.is_worth_it(REQUESTS)


def test_who_has_gone_is_waited_for_a_little_and_again_when_it_is_back(impatient, monkeypatch):
    found = Waiting(unsent=dict(REQUESTS))
    found.replies["a"] = b""
    found.note_gone(["b"])
    assert not found.is_worth_it(REQUESTS)
    found.note_gone([])
    assert found.is_worth_it(REQUESTS)
    monkeypatch.setattr(waiting, "_PATIENCE_SECONDS", 1000.0)
    found.note_gone(["b"])
    assert found.is_worth_it(REQUESTS)


def test_the_time_of_leaving_is_the_first_one(impatient):
    found = Waiting(unsent=dict(REQUESTS))
    found.note_gone(["a"])
    first = dict(found.gone_since)
    found.note_gone(["a", "b"])
    assert found.gone_since["a"] == first["a"]


def test_after_a_loss_everybody_who_has_not_answered_is_asked_and_new(impatient):
    found = Waiting(unsent={}, sent={"id": "b"}, replies={"a": b"yes"})
    found.note_gone(["b"])
    found.start_again(REQUESTS)
    assert found == Waiting(unsent={"b": b"2"}, replies={"a": b"yes"})
    assert found.is_worth_it(REQUESTS)
