"""`gateway sources`: addresses, secrets, last events and refusals of the sources; and the signature schemes."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from sqlalchemy import event as sql_event
from sqlalchemy import text

from gateway.cli import main
from gateway.operate.queries import NEWEST, Queries
from gateway.receive.refusals import RefusalRecord, RefusalTable
from gateway.store import Store
from gateway.store.database import Database
from gateway.store.schema import migrate
from gateway.verify import schemes
from tests.support.databases import opened, url_of
from tests.support.rows import begin, event

ROOT = Path(__file__).parents[2]
MAPPING = """\
version: 1
source: {source}
verify: {verify}
event_type: =type
events:
  paid: [{{call: ignore}}]
"""
SECRET = "s3cret-4711"
PUBLIC = "https://hooks.example.com/"

Gateway = Callable[..., Result]


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with `mappings`, and an environment without settings of the gateway."""
    for name in list(os.environ):
        if name.startswith(("CUSTOMERIO_", "GATEWAY_", "DATABASE_URL", "DYNO")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mappings").mkdir()
    return tmp_path


@pytest.fixture
def gateway(database: Database) -> Gateway:
    """Run `gateway sources` on a database, with the mappings `shop` and `idle`."""
    write("shop", "none")
    write("idle", "none")
    return lambda *words: sources(*words, DATABASE_URL=url_of(database))


def sources(*words: str, **environ: str) -> Result:
    return CliRunner().invoke(main, ["sources", *words], env=environ)


def write(source: str, verify: str, file: str | None = None) -> None:
    Path("mappings", f"{file or source}.yaml").write_text(MAPPING.format(source=source, verify=verify))


def as_json(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# Mapping files and environment


NO_EVENTS = "no events yet: there is no gateway.db, which gateway serve will create"


def test_a_fresh_directory_is_listed_and_no_database_is_created(directory: Path) -> None:
    """A source that is closed for want of its secret, and unused, is shown in full when it is named."""
    write("stripe", "{scheme: stripe, secret_env: STRIPE_WEBHOOK_SECRET}")
    write("github", "{scheme: github, secret_env: GITHUB_WEBHOOK_SECRET}")
    environ = {"GITHUB_WEBHOOK_SECRET": SECRET, "GATEWAY_PUBLIC_URL": PUBLIC}
    assert sources(**environ).stdout == (
        "github: open\n"
        "    address     https://hooks.example.com/hooks/github\n"
        "    verify      github, GITHUB_WEBHOOK_SECRET (set)\n"
        "    last event  never\n\n"
        "closed until their secrets are set (gateway sources NAME shows more):\n"
        "    stripe  STRIPE_WEBHOOK_SECRET\n\n"
        f"2 sources: 1 open, 1 closed; {NO_EVENTS}\n"
    )
    assert sources("stripe", **environ).stdout == (
        "stripe: closed: STRIPE_WEBHOOK_SECRET is not set: it holds the secret of source stripe\n"
        "    address     https://hooks.example.com/hooks/stripe\n"
        "    verify      stripe, STRIPE_WEBHOOK_SECRET (not set)\n"
        "    last event  never\n\n"
        f"1 source: 0 open, 1 closed; {NO_EVENTS}\n"
    )
    assert sources(**environ).exit_code == sources("stripe", **environ).exit_code == 0
    assert [path.name for path in directory.iterdir()] == ["mappings"]


def test_an_unused_source_is_shown_in_full_once_webhooks_arrive() -> None:
    write("stripe", "{scheme: stripe, secret_env: STRIPE_WEBHOOK_SECRET}")
    with opened("sqlite:///gateway.db") as database:
        migrate(database)
        RefusalTable(database).add([RefusalRecord(source="stripe", times=2, problem="the source is closed")])
    shown = sources().stdout
    assert "stripe: closed: STRIPE_WEBHOOK_SECRET is not set" in shown
    assert "2 in all: the source is closed" in shown


def test_a_secret_of_the_wrong_kind_is_pointed_out() -> None:
    write("pay", "{scheme: stripe, secret_env: PAY_SECRET}")
    assert "    but         PAY_SECRET: the secret does not begin with whsec_" in sources(PAY_SECRET="sk_live_1").stdout
    for good in ("whsec_1", "sk_live_1\nwhsec_1"):
        assert "    but " not in sources(PAY_SECRET=good).stdout


@pytest.mark.parametrize(
    ("scheme", "address"),
    [
        ("stripe", "/hooks/shop"),
        ("path", "/hooks/shop/<secret>"),
        ("mailchimp", "/hooks/shop/<secret>"),
        ("query", "/hooks/shop?token=<secret>"),
        ("{kind: token, at: query.key}", "/hooks/shop?key=<secret>"),
        ("mailgun", "/hooks/shop"),
    ],
)
def test_an_address_has_a_placeholder_for_the_secret_in_it(scheme: str, address: str) -> None:
    write("shop", f"{{scheme: {scheme}, secret_env: SHOP_SECRET}}")
    (path,) = as_json(sources("--json", SHOP_SECRET=SECRET))
    (whole,) = as_json(sources("--json", SHOP_SECRET=SECRET, GATEWAY_PUBLIC_URL="https://example.com/gw"))
    assert (path["address"], whole["address"]) == (address, f"https://example.com/gw{address}")
    shown = sources(SHOP_SECRET=SECRET).stdout
    assert f"    address     {address}\n" in shown
    assert shown.endswith("The addresses are paths only, as GATEWAY_PUBLIC_URL is not set.\n")


def test_every_variable_of_a_source_is_named_and_no_secret_is_shown() -> None:
    verify = "{scheme: meta, secret_env: [NEW_SECRET, OLD_SECRET], verify_token_env: META_TOKEN, networks: 10.0.0.0/8}"
    write("ads", verify)
    environ = {"NEW_SECRET": SECRET, "OLD_SECRET": "\n", "META_TOKEN": SECRET}
    shown = sources(**environ).stdout
    assert (
        "    verify      meta, NEW_SECRET (set), OLD_SECRET (not set), verify token META_TOKEN (set), only\n"
        "                from 10.0.0.0/8\n"
    ) in shown
    (listing,) = as_json(sources("--json", **environ))
    assert (listing["secret_env"], listing["verify_token_env"], listing["networks"]) == (
        {"NEW_SECRET": True, "OLD_SECRET": False},
        {"META_TOKEN": True},
        ["10.0.0.0/8"],
    )
    assert SECRET not in shown + json.dumps(listing)


def test_a_source_without_any_check_says_so() -> None:
    write("shop", "none")
    assert "    verify      none, anybody who knows the address can post\n" in sources().stdout


def test_a_source_that_its_file_closes_says_what_to_do(directory: Path) -> None:
    write("typo", "nothing")
    write("twice", "none", file="one")
    write("twice", "none", file="two")
    (directory / "mappings" / "bytes.yaml").write_bytes(b"\xff")
    shown = sources().stdout
    assert "typo: closed: mappings/typo.yaml has errors; gateway check shows them\n" in shown
    assert "bytes: closed: mappings/bytes.yaml is not UTF-8 text" in shown
    assert "mappings/one.yaml and mappings/two.yaml both say source: twice; rename one\n" in shown
    assert "3 sources: 0 open, 3 closed" in shown
    listings = {listing["source"]: listing for listing in as_json(sources("--json"))}
    assert (listings["typo"]["address"], listings["typo"]["scheme"]) == (None, None)


def test_sources_are_sorted_and_chosen_by_name() -> None:
    for file, name in enumerate(("b", "c", "a")):
        write(name, "none", file=str(file))
    assert [listing["source"] for listing in as_json(sources("--json"))] == ["a", "b", "c"]
    assert [listing["source"] for listing in as_json(sources("c", "a", "--json"))] == ["a", "c"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("shop", "strpe"), "there is no source strpe; did you mean 'stripe'?"),
        (("--schemes", "strpe"), "there is no scheme strpe; did you mean 'stripe'?"),
    ],
)
def test_an_unknown_name_is_an_error_that_suggests_a_known_one(words: tuple[str, ...], message: str) -> None:
    write("stripe", "none")
    write("shop", "none")
    result = sources(*words)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"Error: {message}\n")


def test_the_shipped_mappings_are_listed_in_a_hundred_columns() -> None:
    result = sources("--mappings", str(ROOT / "mappings"), TWILIO_AUTH_TOKEN=SECRET)
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert "    address     /hooks/twilio\n" in result.stdout


# Last events and refusals


def test_the_last_event_and_the_last_refusal_are_shown(gateway: Gateway, store: Store, database: Database) -> None:
    now = time.time()
    for key, received_at in (("a", now), ("b", now - 200)):
        store.record([event(key, received_at=received_at)])
    RefusalTable(database).add([RefusalRecord(source="shop", times=1_300, problem="the signature does not match")])
    result = gateway()
    assert result.exit_code == 0
    assert re.search(
        r"shop: open\n    address     /hooks/shop\n    verify .*\n    last event  2, accepted, 3 minutes ago\n"
        r"    refused     .*, at least 1,300 in all: the signature does not match\n",
        result.stdout,
    )
    assert "idle: open" in result.stdout
    assert result.stdout.count("last event  never\n") == result.stdout.count("refused") == 1
    assert "\n2 sources: 2 open, 0 closed\n" in result.stdout
    idle, shop = as_json(gateway("--json"))
    assert (idle["last_event"], idle["refused"]) == (None, None)
    assert (shop["last_event"]["id"], shop["last_event"]["received_at"]) == (2, now - 200)
    assert (shop["refused"]["times"], shop["refused"]["problem"]) == (1_300, "the signature does not match")


def test_a_source_whose_webhooks_are_all_repeats_says_so(gateway: Gateway, database: Database) -> None:
    begin(database, "repeats", "shop", "the last 20 webhooks of source shop were all repeats of event 1")
    assert "    but         the last 20 webhooks of source shop were all repeats of event 1\n" in gateway().stdout
    idle, shop = as_json(gateway("--json"))
    assert (idle["repeats"], shop["repeats"][:11]) == (None, "the last 20")


def test_a_failed_event_shows_its_problem_without_control_characters(gateway: Gateway, store: Store) -> None:
    store.record([event("a", received_at=time.time() + 60, status="failed", problem="\x1b[31m of " + 30 * "long ")])
    result = gateway("shop")
    assert r"last event  1, failed, just now: \x1b[31m of long long" in result.stdout
    assert "\x1b" not in result.output
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_an_age_is_shown_in_the_largest_unit_of_which_it_has_two(gateway: Gateway, store: Store) -> None:
    ages = {
        "a": (-60.0, "just now"),
        "b": (31.0, r"\d\d seconds ago"),
        "c": (121.0, "2 minutes ago"),
        "d": (6_961.0, "116 minutes ago"),
        "e": (7_201.0, "2 hours ago"),
        "f": (86_401.0, "24 hours ago"),
        "g": (30 * 86_400 + 1.0, "30 days ago"),
    }
    for name in ages:
        write(name, "none")
    now = time.time()
    store.record([event(name, source=name, received_at=now - age) for name, (age, _) in ages.items()])
    shown = re.findall(r"last event  \d+, accepted, (.*)", gateway(*ages).stdout)
    for age, (_, expected) in zip(shown, ages.values(), strict=True):
        assert re.fullmatch(expected, age)


def test_a_database_without_events_is_no_error(gateway: Gateway) -> None:
    result = gateway()
    assert (result.exit_code, result.stderr) == (0, "")
    assert "\n2 sources: 2 open, 0 closed; no events yet\n" in result.stdout


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_database_that_was_not_migrated_is_reported_after_the_list(
    directory: Path, database_url: str, words: tuple[str, ...]
) -> None:
    write("shop", "none")
    # Without the file, SQLite would be no error.
    (directory / "gateway.db").touch()
    result = sources(*words, DATABASE_URL=database_url)
    problem = "the database's schema is not this version's; run: gateway migrate"
    assert (result.exit_code, result.stderr) == (1, f"Error: last events and refusals cannot be read: {problem}\n")
    if words:
        (shop,) = json.loads(result.stdout)
        assert shop["address"] == "/hooks/shop"
        assert {"last_event", "refused", "repeats"}.isdisjoint(shop)
    else:
        assert "shop: open\n" in result.stdout
        assert "last event" not in result.stdout


def test_a_database_that_cannot_be_reached_is_reported_after_the_list() -> None:
    write("shop", "none")
    result = sources(DATABASE_URL="postgresql://postgres@127.0.0.1:1/gateway")
    assert result.exit_code == 1
    assert result.stdout.startswith("shop: open\n")
    assert "last events and refusals cannot be read: the database cannot be used: " in result.stderr


def test_the_last_event_of_each_source_is_found(database: Database, store: Store) -> None:
    store.record([event(f"early {number}", source="early") for number in range(3)])
    store.record([event(f"busy {number}", source="busy") for number in range(NEWEST)])
    store.record([event("late", source="late", status="ignored")])
    last = Queries(database).last_events(["early", "busy", "late", "never"])
    assert {name: entry.id for name, entry in last.items()} == {"early": 3, "busy": NEWEST + 3, "late": NEWEST + 4}
    assert (last["late"].source, last["late"].status, last["late"].calls) == ("late", "ignored", 0)
    assert Queries(database).last_events([]) == {}


def test_a_source_without_events_is_looked_up_by_an_index(database: Database, store: Store) -> None:
    store.record([event(f"{number}") for number in range(2 * NEWEST)])
    for analyzed in (False, True):
        if analyzed:
            with database.transaction() as connection:
                connection.execute(text("ANALYZE"))
        with recorded_statements(database) as statements:
            assert Queries(database).last_events(["never", "again"]) == {}
        (statement,) = (sql for sql in statements if "WHERE events.source = " in sql)
        plan = query_plan(database, statement, statements[statement])
        # The index of (source, key), searched for the source; SQLite has the ids in it too.
        assert re.search(r"USING COVERING INDEX \S+ \(source=\?\)|Index Cond: \(source = ", plan), plan


@contextmanager
def recorded_statements(database: Database) -> Iterator[dict[str, Any]]:
    """Record the statements that reach the database, each with its parameters."""
    statements: dict[str, Any] = {}

    def record(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements[statement] = parameters

    sql_event.listen(database.engine, "before_cursor_execute", record)
    yield statements
    sql_event.remove(database.engine, "before_cursor_execute", record)


def query_plan(database: Database, statement: str, parameters: Any) -> str:
    explain = "EXPLAIN QUERY PLAN" if database.engine.dialect.name == "sqlite" else "EXPLAIN"
    with database.engine.connect() as connection:
        if database.engine.dialect.name == "postgresql":
            # PostgreSQL rightly reads so small a table whole; the question is whether the index could serve.
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        rows = connection.exec_driver_sql(f"{explain} {statement}", parameters)
        return "\n".join(str(row[-1]) for row in rows)


# Schemes


def test_all_schemes_are_listed_in_a_hundred_columns() -> None:
    listed = sources("--schemes").stdout
    assert max(map(len, listed.splitlines())) <= 100
    assert [line.split()[0] for line in listed.splitlines() if line[0] != " "] == list(schemes())
    assert re.search(r"^stripe +Stripe, with the endpoint's signing secret \(whsec_…\)$", listed, re.MULTILINE)


def test_schemes_need_neither_mappings_nor_a_valid_environment(directory: Path) -> None:
    (directory / "mappings").rmdir()
    assert sources("--schemes", "github", DATABASE_URL="nonsense").exit_code == 0


def test_a_scheme_is_shown_as_it_stands_in_the_table() -> None:
    assert sources("--schemes", "telegram").stdout == (
        "telegram:\n"
        "  description: Telegram, with the secret_token that you passed to setWebhook\n"
        "  kind: token\n"
        "  header: X-Telegram-Bot-Api-Secret-Token\n"
        "  event_key: =update_id\n"
        "  # Telegram executes the body of a response as an API call.\n"
        '  answer: {status: 200, text: ""}\n'
    )


def test_a_scheme_is_followed_by_those_it_starts_from_each_shown_once() -> None:
    shown = sources("--schemes", "clerk", "svix").stdout
    assert list(yaml.safe_load(shown)) == ["svix", "standard", "clerk"]
    assert shown.count("\n\n") == 2


@pytest.mark.parametrize("as_json", [False, True])
def test_every_scheme_is_shown_with_all_that_the_table_says(as_json: bool) -> None:
    table = yaml.safe_load((ROOT / "gateway" / "verify" / "schemes.yaml").read_text())
    if as_json:
        shown = {entry.pop("name"): entry for entry in json.loads(sources("--schemes", "--json").stdout)}
    else:
        shown = yaml.safe_load(sources("--schemes", *table).stdout)
    assert shown == table
    assert set(table) == set(schemes())
