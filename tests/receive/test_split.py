"""A webhook that its mapping splits, recorded and replayed on a real database."""

from __future__ import annotations

import json
import time

from sqlalchemy import select

from gateway.event import Webhook
from gateway.mapping.compiler import parse
from gateway.mapping.model import MappingFile
from gateway.operate.replay import Replay
from gateway.receive.record import build_event
from gateway.store import Recorded, Store
from gateway.store.database import Database
from gateway.store.tables import PLACE, deliveries, events

MAPPING = """\
version: 1
source: mail
verify: none
event_type: =event
event_key: =key
split: =@
defaults: {email: =email}
events:
  open: [{call: track, name: Email Opened}]
  click: [{call: track, name: =link}]
"""
OPEN = {"event": "open", "email": "a@example.com", "key": "1"}
CLICK = {"event": "click", "email": "b@example.com", "key": "2"}
BOUNCE = {"event": "bounce", "email": "c@example.com", "key": "3"}


def mapped(text: str = MAPPING) -> MappingFile:
    return parse(text, "mail.yaml")[0]


def receive(store: Store, *parts: dict[str, str], text: str = MAPPING) -> Recorded:
    webhook = Webhook(method="POST", url="", headers={}, query={}, body=json.dumps(parts).encode())
    return store.record([build_event(mapped(text), webhook, time.time())])[0]


def recorded(database: Database) -> tuple[str, str, list[str]]:
    """The status and the type of the event, and the names of its calls."""
    with database.engine.connect() as connection:
        event = connection.execute(select(events).where(events.c.id == 1)).one()
        calls = connection.scalars(select(deliveries.c.call).where(deliveries.c.event_id == 1).order_by(PLACE)).all()
    return event.status, event.event_type, [json.loads(call)["name"] for call in calls]


def test_the_calls_of_good_parts_are_recorded_with_the_problem_of_the_bad(store: Store, database: Database) -> None:
    receive(store, OPEN, CLICK, BOUNCE)
    assert recorded(database) == ("failed", "open, click, bounce", ["Email Opened"])
    with database.engine.connect() as connection:
        problem = connection.scalar(select(events.c.problem))
    assert problem is not None
    assert "mail.yaml:10:31: name: null or empty" in problem
    assert "part 2 of 3" in problem


def test_a_replay_adds_the_part_that_failed_and_leaves_the_others(store: Store, database: Database) -> None:
    receive(store, OPEN, CLICK)
    replayed = Replay(database).replay(1, mapped(MAPPING.replace("=link", "Link Clicked")))
    assert replayed is not None
    assert (replayed.status, replayed.new, replayed.waiting) == ("accepted", 1, 1)
    assert recorded(database) == ("accepted", "open, click", ["Email Opened", "Link Clicked"])


def test_a_replay_that_fails_on_some_parts_adds_the_others_and_cancels_nothing(
    store: Store, database: Database
) -> None:
    receive(store, OPEN, CLICK, BOUNCE, text=MAPPING.replace("=link", "Link Clicked"))
    edited = MAPPING.replace("Email Opened", "=missing") + "  bounce: [{call: track, name: Bounced}]\n"
    replayed = Replay(database).replay(1, mapped(edited.replace("=link", "Link Clicked")))
    assert replayed is not None
    assert (replayed.status, replayed.new, replayed.cancelled, replayed.waiting) == ("failed", 1, 0, 1)
    # It came to something once: that stays.
    status, _, names = recorded(database)
    assert (status, names) == ("accepted", ["Email Opened", "Link Clicked", "Bounced"])


def test_a_part_that_is_posted_again_among_others_is_sent_once(store: Store, database: Database) -> None:
    first = receive(store, OPEN, BOUNCE)
    again = receive(store, OPEN, {**OPEN, "key": "4"})
    assert not first.duplicate
    assert not again.duplicate
    with database.engine.connect() as connection:
        assert len(connection.execute(select(deliveries.c.id)).all()) == 2
    assert receive(store, OPEN, BOUNCE).duplicate
