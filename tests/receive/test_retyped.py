"""A body that is known does not come back as a deletion, where the sender does not sign which type it has."""

from __future__ import annotations

import json
import time

from gateway.event import Webhook
from gateway.mapping.compiler import parse
from gateway.operate.replay import Replay
from gateway.receive.record import build_event
from gateway.store import NewEvent, Store
from gateway.store.database import Database
from gateway.store.tables import deliveries, events
from tests.deliver.running import column

MAPPING = """\
version: 1
source: shop
verify: {scheme: SCHEME, secret_env: SHOP_SECRET}
event_type: =TYPE
defaults: {id: =id}
events:
  created:
    - call: identify
  updated:
    - call: identify
  deleted:
    - call: destroy
  blocked:
    - call: suppress
"""
UNSIGNED, _ = parse(MAPPING.replace("SCHEME", "shopify").replace("TYPE", "header('X-Shopify-Topic')"), "shop.yaml")
SIGNED, _ = parse(MAPPING.replace("SCHEME", "chargify").replace("TYPE", "type"), "shop.yaml")


def webhook(event_type: str, delivery_id: str, *, person: str = "ann") -> NewEvent:
    headers = {"x-shopify-topic": event_type, "x-shopify-webhook-id": delivery_id, "content-type": "application/json"}
    request = Webhook(method="POST", url="", headers=headers, query={}, body=json.dumps({"id": person}).encode())
    return build_event(UNSIGNED, request, time.time())


def test_a_captured_webhook_that_comes_again_as_a_deletion_deletes_nobody(database: Database, store: Store) -> None:
    (created,) = store.record([webhook("created", "1")])
    for number, event_type in enumerate(("deleted", "blocked"), start=2):
        (recorded,) = store.record([webhook(event_type, str(number))])
        assert recorded.problem is not None
        assert f"the same body came as 'created' before (event {created.id})" in recorded.problem
    assert column(database, events.c.status) == ["accepted", "failed", "failed"]
    assert len(column(database, deliveries.c.id)) == 1


def test_it_deletes_nobody_in_the_same_group_either(database: Database, store: Store) -> None:
    recorded = store.record([webhook("created", "1"), webhook("deleted", "2"), webhook("deleted", "3", person="bob")])
    assert [result.problem is None for result in recorded] == [True, False, True]
    assert sorted(column(database, events.c.status)) == ["accepted", "accepted", "failed"]


def test_deletions_of_their_own_and_other_types_are_obeyed(database: Database, store: Store) -> None:
    for number, event_type in enumerate(("deleted", "deleted", "created", "updated")):
        (recorded,) = store.record([webhook(event_type, str(number))])
        assert recorded.problem is None, event_type
    assert set(column(database, events.c.status)) == {"accepted"}


def test_the_operator_may_replay_a_genuine_one(database: Database, store: Store) -> None:
    store.record([webhook("created", "1")])
    (refused,) = store.record([webhook("deleted", "2")])
    Replay(database).replay(refused.id, UNSIGNED)
    assert column(database, events.c.status) == ["accepted", "accepted"]
    assert len(column(database, deliveries.c.id)) == 2


def test_where_the_body_says_the_type_nothing_more_is_stored() -> None:
    body = b'{"type": "deleted", "id": "ann"}'
    request = Webhook(method="POST", url="", headers={}, query={}, body=body)
    assert build_event(SIGNED, request, time.time()).content is None
    assert webhook("created", "1").content is not None
