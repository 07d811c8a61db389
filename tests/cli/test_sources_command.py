"""`gateway sources`: where webhooks are taken, what came last, and how senders prove themselves."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from sqlalchemy import event as occasions
from sqlalchemy import text

from gateway.cli import main
from gateway.config import load
from gateway.mapping.compiler import parse
from gateway.operate.queries import NEWEST, Queries
from gateway.receive.refusals import RefusalRecord, RefusalTable
from gateway.store import Store
from gateway.store.database import Database, connect
from gateway.store.schema import migrate
from gateway.verify import KEYS, schemes
from gateway.verify.keys import incomplete
from tests.support.rows import event

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

Gateway = Callable[..., Result]


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of its own to work in, and an environment without any setting of ours."""
    for name in list(os.environ):
        if name.startswith(("CUSTOMERIO_", "GATEWAY_", "DATABASE_URL", "DYNO")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mappings").mkdir()
    return tmp_path


@pytest.fixture
def gateway(database: Database, directory: Path) -> Gateway:
    """Runs `gateway sources` on a database, with the mappings `shop` and `idle`."""
    write(directory, "shop", "none")
    write(directory, "idle", "none")
    url = database.engine.url.render_as_string(hide_password=False)

    def run(*words: str) -> Result:
        return sources(*words, DATABASE_URL=url)

    return run


def sources(*words: str, **environ: str) -> Result:
    return CliRunner().invoke(main, ["sources", *words], env=environ)


def write(directory: Path, source: str, verify: str, file: str | None = None) -> None:
    (directory / "mappings" / f"{file or source}.yaml").write_text(MAPPING.format(source=source, verify=verify))


def as_json(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# What files and environment say


def test_a_fresh_directory_is_listed_and_no_database_is_made(directory: Path) -> None:
    write(directory, "stripe", "{scheme: stripe, secret_env: STRIPE_WEBHOOK_SECRET}")
    write(directory, "github", "{scheme: github, secret_env: GITHUB_WEBHOOK_SECRET}")
    result = sources(GITHUB_WEBHOOK_SECRET=SECRET, GATEWAY_PUBLIC_URL="https://hooks.example.com/")
    assert (result.exit_code, result.stdout) == (
        0,
        "github: open\n"
        "    address     https://hooks.example.com/hooks/github\n"
        "    verify      github, GITHUB_WEBHOOK_SECRET (set)\n"
        "    last event  never\n\n"
        "closed, and waiting for a secret (gateway sources NAME shows more):\n"
        "    stripe  STRIPE_WEBHOOK_SECRET\n\n"
        "2 sources: 1 open, 1 closed; no events yet: there is no gateway.db, which gateway serve will make\n",
    )
    assert [each.name for each in directory.iterdir()] == ["mappings"]


def test_a_secret_of_another_kind_is_doubted(directory: Path) -> None:
    write(directory, "pay", "{scheme: stripe, secret_env: PAY_SECRET}")
    assert "    but         PAY_SECRET: the secret does not begin with whsec_" in sources(PAY_SECRET="sk_live_1").stdout
    for good in ("whsec_1", "sk_live_1\nwhsec_1"):
        assert "    but " not in sources(PAY_SECRET=good).stdout


def test_a_source_that_waits_for_its_secret_is_shown_in_full_when_it_is_asked_for(directory: Path) -> None:
    write(directory, "stripe", "{scheme: stripe, secret_env: STRIPE_WEBHOOK_SECRET}")
    result = sources("stripe", GATEWAY_PUBLIC_URL="https://hooks.example.com/")
    assert (result.exit_code, result.stdout) == (
        0,
        "stripe: closed: STRIPE_WEBHOOK_SECRET is not set: it holds the secret of source stripe\n"
        "    address     https://hooks.example.com/hooks/stripe\n"
        "    verify      stripe, STRIPE_WEBHOOK_SECRET (not set)\n"
        "    last event  never\n\n"
        "1 source: 0 open, 1 closed; no events yet: there is no gateway.db, which gateway serve will make\n",
    )


def test_a_source_that_waits_for_its_secret_is_shown_in_full_once_webhooks_come(directory: Path) -> None:
    write(directory, "stripe", "{scheme: stripe, secret_env: STRIPE_WEBHOOK_SECRET}")
    database = connect(load({}).database_url)
    migrate(database)
    RefusalTable(database).add([RefusalRecord(source="stripe", times=2, problem="the source is closed")])
    shown = sources().stdout
    assert "stripe: closed: STRIPE_WEBHOOK_SECRET is not set" in shown
    assert "2 in all: the source is closed" in shown


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
def test_an_address_has_a_placeholder_where_the_sender_shows_its_secret(
    directory: Path, scheme: str, address: str
) -> None:
    write(directory, "shop", f"{{scheme: {scheme}, secret_env: SHOP_SECRET}}")
    (path,) = as_json(sources("--json", SHOP_SECRET=SECRET))
    (whole,) = as_json(sources("--json", SHOP_SECRET=SECRET, GATEWAY_PUBLIC_URL="https://example.com/gw"))
    assert (path["address"], whole["address"]) == (address, f"https://example.com/gw{address}")
    said = sources(SHOP_SECRET=SECRET)
    assert f"    address     {address}\n" in said.stdout
    assert said.stdout.endswith("The addresses are paths only, as GATEWAY_PUBLIC_URL is not set.\n")


def test_every_variable_of_a_source_is_named_and_no_secret_is_shown(directory: Path) -> None:
    verify = "{scheme: meta, secret_env: [NEW_SECRET, OLD_SECRET], verify_token_env: META_TOKEN, networks: 10.0.0.0/8}"
    write(directory, "ads", verify)
    environ = {"NEW_SECRET": SECRET, "OLD_SECRET": "\n", "META_TOKEN": SECRET}
    said = sources(**environ).stdout
    assert (
        "    verify      meta, NEW_SECRET (set), OLD_SECRET (not set), verify token META_TOKEN (set), only\n"
        "                from 10.0.0.0/8\n"
    ) in said
    (told,) = as_json(sources("--json", **environ))
    assert (told["secret_env"], told["verify_token_env"], told["networks"]) == (
        {"NEW_SECRET": True, "OLD_SECRET": False},
        {"META_TOKEN": True},
        ["10.0.0.0/8"],
    )
    assert SECRET not in said + json.dumps(told)


def test_a_source_without_any_check_says_so(directory: Path) -> None:
    write(directory, "shop", "none")
    assert "    verify      none, anybody who knows the address can post\n" in sources().stdout


def test_a_source_that_only_its_file_closes_says_what_to_do(directory: Path) -> None:
    write(directory, "typo", "nothing")
    write(directory, "twice", "none", file="one")
    write(directory, "twice", "none", file="two")
    (directory / "mappings" / "bytes.yaml").write_bytes(b"\xff")
    said = sources().stdout
    assert "typo: closed: mappings/typo.yaml has errors; gateway check shows them\n" in said
    assert "bytes: closed: mappings/bytes.yaml cannot be read as UTF-8 text" in said
    assert "mappings/one.yaml and mappings/two.yaml both say source: twice; rename one\n" in said
    assert "3 sources: 0 open, 3 closed" in said
    told = {each["source"]: each for each in as_json(sources("--json"))}
    assert (told["typo"]["address"], told["typo"]["scheme"]) == (None, None)


def test_sources_are_sorted_and_chosen_by_name(directory: Path) -> None:
    for file, name in enumerate(("b", "c", "a")):
        write(directory, name, "none", file=str(file))
    assert [each["source"] for each in as_json(sources("--json"))] == ["a", "b", "c"]
    assert [each["source"] for each in as_json(sources("c", "a", "--json"))] == ["a", "c"]


def test_a_name_that_is_not_known_is_an_error_that_says_what_was_meant(directory: Path) -> None:
    write(directory, "stripe", "none")
    write(directory, "shop", "none")
    result = sources("shop", "strpe")
    assert (result.exit_code, result.stdout, result.stderr) == (
        1,
        "",
        "Error: there is no source strpe; did you mean 'stripe'?\n",
    )


def test_the_shipped_mappings_are_listed_in_a_hundred_columns() -> None:
    result = sources("--mappings", str(ROOT / "mappings"), TWILIO_AUTH_TOKEN=SECRET)
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert "    address     /hooks/twilio\n" in result.stdout


# What the database says


def test_the_last_event_and_the_last_refusal_are_told(gateway: Gateway, store: Store, database: Database) -> None:
    now = time.time()
    for key, received_at in (("a", now), ("b", now - 200)):
        store.record([event(key, received_at=received_at)])
    RefusalTable(database).add([RefusalRecord(source="shop", times=1_300, problem="the signature does not match")])
    said = gateway()
    assert said.exit_code == 0
    assert re.search(
        r"shop: open\n    address     /hooks/shop\n    verify .*\n    last event  2, accepted, 3 minutes ago\n"
        r"    refused     .*, at least 1,300 in all: the signature does not match\n",
        said.stdout,
    )
    assert "idle: open" in said.stdout
    assert said.stdout.count("last event  never\n") == said.stdout.count("refused") == 1
    assert "\n2 sources: 2 open, 0 closed\n" in said.stdout
    idle, shop = as_json(gateway("--json"))
    assert (idle["last_event"], idle["refused"]) == (None, None)
    assert (shop["last_event"]["id"], shop["last_event"]["received_at"]) == (2, now - 200)
    assert (shop["refused"]["times"], shop["refused"]["problem"]) == (1_300, "the signature does not match")


def test_an_event_on_which_the_mapping_failed_says_why_and_does_nothing_to_a_terminal(
    gateway: Gateway, store: Store
) -> None:
    store.record([event("a", received_at=time.time() + 60, status="failed", problem="\x1b[31m of " + 30 * "long ")])
    result = gateway("shop")
    assert r"last event  1, failed, just now: \x1b[31m of long long" in result.stdout
    assert "\x1b" not in result.output
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_times_are_told_as_people_tell_them(gateway: Gateway, store: Store, directory: Path) -> None:
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
        write(directory, name, "none")
    now = time.time()
    store.record([event(name, source=name, received_at=now - age) for name, (age, _) in ages.items()])
    told = re.findall(r"last event  \d+, accepted, (.*)", gateway(*ages).stdout)
    assert len(told) == len(ages)
    for text_, (_, expected) in zip(told, ages.values(), strict=True):
        assert re.fullmatch(expected, text_)


def test_a_database_without_events_is_no_error(gateway: Gateway) -> None:
    result = gateway()
    assert (result.exit_code, result.stderr) == (0, "")
    assert "\n2 sources: 2 open, 0 closed; no events yet\n" in result.stdout


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_database_that_was_not_migrated_is_told_after_the_rest(
    directory: Path, database_url: str, words: tuple[str, ...]
) -> None:
    write(directory, "shop", "none")
    # An SQLite file that is not there would be no error.
    (directory / "gateway.db").touch()
    result = sources(*words, DATABASE_URL=database_url)
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: what came last is not known: the database's schema is not this version's; run: gateway migrate\n",
    )
    if words:
        (shop,) = json.loads(result.stdout)
        assert shop["address"] == "/hooks/shop"
        assert {"last_event", "refused"}.isdisjoint(shop)
    else:
        assert "shop: open\n" in result.stdout
        assert "last event" not in result.stdout


def test_a_database_that_cannot_be_reached_is_told_after_the_rest(directory: Path) -> None:
    write(directory, "shop", "none")
    result = sources(DATABASE_URL="postgresql://postgres@127.0.0.1:1/gateway")
    assert result.exit_code == 1
    assert result.stdout.startswith("shop: open\n")
    assert result.stderr.startswith("Error: what came last is not known: the database cannot be used: ")


def test_the_last_event_of_each_source_is_found(database: Database, store: Store) -> None:
    store.record([event(f"early {each}", source="early") for each in range(3)])
    store.record([event(f"busy {each}", source="busy") for each in range(NEWEST)])
    store.record([event("late", source="late", status="ignored")])
    found = Queries(database).last_events(["early", "busy", "late", "never"])
    ids = {name: each.id for name, each in found.items()}
    assert ids == {"early": 3, "busy": NEWEST + 3, "late": NEWEST + 4}
    assert (found["late"].source, found["late"].status, found["late"].calls) == ("late", "ignored", 0)
    assert Queries(database).last_events([]) == {}


def test_a_source_that_never_had_an_event_costs_no_look_at_those_of_others(database: Database, store: Store) -> None:
    store.record([event(f"{each}") for each in range(2 * NEWEST)])
    for analyzed in (False, True):
        if analyzed:
            with database.transaction() as connection:
                connection.execute(text("ANALYZE"))
        with noted(database) as statements:
            assert Queries(database).last_events(["never", "again"]) == {}
        (asked,) = (each for each in statements if "WHERE events.source = " in each)
        plan = explained(database, asked, statements[asked])
        # The index of (source, key), searched for the source; SQLite has the ids in it too.
        assert re.search(r"USING COVERING INDEX \S+ \(source=\?\)|Index Cond: \(source = ", plan), plan


@contextmanager
def noted(database: Database) -> Iterator[dict[str, Any]]:
    """Note the statements that reach the database, each with the values that it was given."""
    statements: dict[str, Any] = {}

    def note(_connection: Any, _cursor: Any, statement: str, given: Any, *_: Any) -> None:
        statements[statement] = given

    occasions.listen(database.engine, "before_cursor_execute", note)
    yield statements
    occasions.remove(database.engine, "before_cursor_execute", note)


def explained(database: Database, statement: str, given: Any) -> str:
    explain = "EXPLAIN QUERY PLAN" if database.engine.dialect.name == "sqlite" else "EXPLAIN"
    with database.engine.connect() as connection:
        if database.engine.dialect.name == "postgresql":
            # So small a table may be read whole with good reason; this asks whether an index could serve.
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        rows = connection.exec_driver_sql(f"{explain} {statement}", given)
        return "\n".join(str(row[-1]) for row in rows)


# Schemes


def test_all_schemes_are_listed_in_a_hundred_columns() -> None:
    listed = sources("--schemes").stdout
    assert max(map(len, listed.splitlines())) <= 100
    assert [line.split()[0] for line in listed.splitlines() if line[0] != " "] == list(schemes())
    assert re.search(r"^stripe +Stripe, with the endpoint's signing secret \(whsec_…\)$", listed, re.MULTILINE)


def test_schemes_need_neither_mappings_nor_a_good_environment(directory: Path) -> None:
    (directory / "mappings").rmdir()
    assert sources("--schemes", "github", DATABASE_URL="nonsense").exit_code == 0


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (
            "slack",
            "# slack: Slack, with the app's signing secret\n"
            "kind: hmac\n"
            "header: X-Slack-Signature\n"
            "prefix: v0=\n"
            "algorithm: sha256\n"
            "encoding: hex\n"
            "secret: {encoding: utf8}\n"
            "signed: v0:{ts}:{body}\n"
            "timestamp: {header: X-Slack-Request-Timestamp, unit: s, tolerance: 300}\n"
            "# and what you have with  scheme: slack  or  base: slack  only:\n"
            "#   event_key: =event_id\n"
            "#   event_type: =event.type || type || command\n"
            "#   handshakes:\n"
            "#   - method: POST\n"
            "#     when: {body.type: url_verification}\n"
            "#     signed: true\n"
            "#     text: body.challenge\n"
            "#   answer: {status: 200, text: ''}\n",
        ),
        ("none", "# none: No check at all; anybody who knows the address can post\nkind: none\n"),
    ],
)
def test_a_scheme_is_shown_as_a_mapping_would_write_it(name: str, shown: str) -> None:
    assert sources("--schemes", name).stdout == shown


@pytest.mark.parametrize("name", schemes())
def test_what_is_shown_of_a_scheme_makes_the_same_one_in_a_mapping(name: str) -> None:
    scheme = schemes()[name]
    shown = sources("--schemes", name).stdout
    keys = set(KEYS[scheme.kind])
    if incomplete(scheme):
        shown, keys = f"{shown}header: X-Signature\n", keys - {"header"}
    if scheme.kind != "none" and not re.search(r"\{(body|form)\}", scheme.signed):
        # Only the table may sign less than the body.
        shown, keys = re.sub("(?m)^signed: .*", "signed: '{ts}.{body}'", shown), keys - {"signed"}
    secret = "" if scheme.kind == "none" else "  secret_env: SHOP_SECRET\n"
    verify = f"\n  scheme:\n{indent(shown, '    ')}{secret}"
    written = parse(MAPPING.format(source="shop", verify=verify), "shop.yaml")[0].verify.scheme
    assert written.kind == scheme.kind
    for key in keys:
        assert getattr(written, key) == getattr(scheme, key)


def test_what_is_shown_of_a_scheme_is_all_that_the_table_says() -> None:
    table = yaml.safe_load((ROOT / "gateway" / "verify" / "schemes.yaml").read_text())
    told = {each["name"]: each for each in json.loads(sources("--schemes", "--json").stdout)}
    assert list(told) == list(table)
    for name, entry in table.items():
        for key, value in entry.items():
            # A `base` is worked in; an empty text in `secret` takes back what the base says.
            if key not in ("base", "secret", "timestamp"):
                assert told[name][key] == value
            elif key != "base":
                assert {each: what for each, what in value.items() if what}.items() <= told[name][key].items()


def test_people_and_machines_are_told_the_same_of_a_scheme() -> None:
    told = json.loads(sources("--schemes", "--json").stdout)
    for each in told:
        shown = sources("--schemes", each["name"]).stdout.replace("\n#   ", "\n")
        data = yaml.safe_load(shown)
        data["kind"] = data.pop("base", None) or data["kind"]
        assert {"name": each["name"], "description": each["description"], **data} == each


def test_several_schemes_are_shown_apart(directory: Path) -> None:
    shown = sources("--schemes", "bearer", "path").stdout
    assert shown == (
        "# bearer: A token sent as `Authorization: Bearer <token>`\n"
        "kind: token\nheader: Authorization\nprefix: 'Bearer '\n\n"
        "# path: A secret at the end of the address, /hooks/<source>/<secret>, for senders that can prove\n"
        "# nothing else\nkind: token\nat: path\n"
    )


def test_a_scheme_that_is_not_known_is_an_error_that_says_what_was_meant() -> None:
    result = sources("--schemes", "strpe")
    assert (result.exit_code, result.stdout, result.stderr) == (
        1,
        "",
        "Error: there is no scheme strpe; did you mean 'stripe'?\n",
    )
