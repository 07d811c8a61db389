"""The environment and the sources: what is read, and the messages when it cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import listen_address, load
from gateway.customerio.retry import Policy
from gateway.errors import ConfigError
from gateway.receive.sources import load_sources

CREDENTIALS = {"CUSTOMERIO_SITE_ID": "site", "CUSTOMERIO_API_KEY": "key-4711"}
MAPPING = "{{version: 1, source: {source}, verify: {{scheme: bearer, secret_env: TOKEN}}, events: {{}}}}"


def test_an_empty_environment_is_enough_to_receive() -> None:
    config = load({})
    assert (config.database_url, config.mappings) == ("sqlite:///gateway.db", Path("mappings"))
    assert config.max_body == 1_048_576
    assert config.embedded
    assert config.connections == {}


def test_the_address_of_alerts_is_a_secret() -> None:
    config = load({"GATEWAY_ALERT_URL": "https://hooks.example.com/T4711?wait=true", "GATEWAY_ALERT_MINUTES": "5"})
    assert (config.alert_url, config.late_after) == ("https://hooks.example.com/T4711?wait=true", 300)
    assert "4711" not in repr(config)
    assert load({"GATEWAY_ALERT_URL": "http://127.0.0.1:9/"}).alert_url == "http://127.0.0.1:9/"
    assert (load({}).alert_url, load({}).late_after) == (None, 900)


def test_the_token_of_the_metrics_is_a_secret_that_a_header_can_hold() -> None:
    token = "t4711-._~+/abcdefgh=="
    config = load({"GATEWAY_METRICS_TOKEN": token})
    assert config.metrics_token == token
    assert "4711" not in repr(config)
    assert load({"GATEWAY_METRICS_TOKEN": " "}).metrics_token is None
    for wrong in ("short", "x" * 501, "white space in the middle", "=" * 20, "p\xe4ssword" * 3):
        with pytest.raises(ConfigError, match="GATEWAY_METRICS_TOKEN must have 16 to 500 characters") as caught:
            load({"GATEWAY_METRICS_TOKEN": wrong})
        assert wrong not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("postgres//u:S3cret@db/x", "must start with postgresql://"),
        ("mysql://u:S3cret@db/x", "must start with postgresql://"),
        ("postgresql+asyncpg://u:S3cret@db/x", "must start with postgresql://"),
        ('"postgresql://u:S3cret@db/x"', "remove the quotation marks"),
        ("u:S3cret@db/x", "must start with postgresql://"),
        ("postgresql://u:S3cret@db:54x2/x", "must have a port from 1 to 65535"),
        ("postgresql://u:S3cret@db:99999/x", "must have a port from 1 to 65535"),
        ("postgresql://u:S3cret@db:/x", "must have a port from 1 to 65535"),
        ("postgresql://u:S3cret@/x", "has no host"),
        ("postgresql:///x", "has no host"),
        ("postgresql://:S3cret@db/x", "has no user"),
        ("postgresql://u:S3cret@db", "names no database"),
        ("postgresql://u:S3cret@db/?sslmode=require", "names no database"),
        ("postgresql://u:S3c@ret@db/x", "%40 for @"),
        ("postgresql://u:S3c#ret@db/x", "%23 for #"),
        ("postgresql://u:S3c/ret@db/x", "%2F for /"),
        ("postgresql://u:S3c:ret@db/x", "%3A for :"),
        ("postgresql://u:S3c?ret@db/x", "%3F for ?"),
        ("postgresql://u:S3c%ret@db/x", "%25 for %"),
        ("postgresql://u:S3c ret@db/x", "must not hold white space"),
        ("postgresql://u:S3cret@db/x'", "quotation marks"),
        ("sqlite://gateway.db", "sqlite:////var/lib/gateway.db (four slashes)"),
        ("sqlite:gateway.db", "a file such as sqlite:///gateway.db"),
        ("sqlite:////", "must be a file"),
        ("sqlite:///gateway.db?mode=ro", "must be the path of a file alone"),
    ],
)
def test_a_mistyped_database_url_is_an_error_without_any_part_of_it(url: str, advice: str) -> None:
    with pytest.raises(ConfigError) as error:
        load({"DATABASE_URL": url})
    assert str(error.value).startswith("DATABASE_URL ")
    assert advice in str(error.value)
    assert error.value.__cause__ is error.value.__context__ is None
    assert not any(part in str(error.value) for part in ("S3c", "ret@", "54x2"))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://db/x",
        "postgresql://u@db/x",
        "postgresql://u:p%40%2F%25@[::1]:5432/x?sslmode=require",
        "postgresql://u:p@/x?host=/var/run/postgresql",
        "postgresql:///x?host=/var/run/postgresql",
        "sqlite:////var/lib/gateway.db",
        "sqlite:///data/gateway.db",
    ],
)
def test_a_database_url_that_can_be_used_is_taken(url: str) -> None:
    assert load({"DATABASE_URL": f"  {url}\n"}).database_url.partition(":")[2] == url.partition(":")[2]


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_postgresql_is_accepted(scheme: str) -> None:
    config = load({"DATABASE_URL": f"{scheme}://u:p@db/x?sslmode=require"})
    assert config.database_url == "postgresql+psycopg://u:p@db/x?sslmode=require"
    assert not config.embedded


def test_connections_are_read_with_their_own_settings() -> None:
    further = {
        "CUSTOMERIO_EU_PROD_SITE_ID": "other",
        "CUSTOMERIO_EU_PROD_API_KEY": "other-key",
        "CUSTOMERIO_EU_PROD_REGION": "EU",
        "CUSTOMERIO_EU_PROD_RETRY_DELAY_MS": "250",
        "CUSTOMERIO_EU_PROD_IDENTIFIERS": "id, Email",
        "CUSTOMERIO_RETRY_MAX_AGE": "60",
    }
    connections = load({**CREDENTIALS, **further}).connections
    assert sorted(connections) == ["default", "eu-prod"]
    default, eu = connections["default"], connections["eu-prod"]
    assert (default.site_id, default.region, default.policy.max_age) == ("site", "us", 60)
    assert (eu.site_id, eu.region, eu.policy.delay) == ("other", "eu", 0.25)
    assert (default.identifiers, eu.identifiers) == (None, "id,email")
    assert eu.host() == "https://track-eu.customer.io"


def test_plain_http_is_allowed_to_a_loopback_address() -> None:
    environ = {**CREDENTIALS, "CUSTOMERIO_BASE_URL": "http://127.0.0.1:8080/"}
    assert load(environ).connections["default"].host("eu") == "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"GATEWAY_ALERT_URL": "http://hooks.example.com/x"}, "GATEWAY_ALERT_URL must start with https://"),
        ({"GATEWAY_ALERT_URL": "hooks.example.com"}, "GATEWAY_ALERT_URL must be an address"),
        ({"GATEWAY_ALERT_MINUTES": "0"}, "GATEWAY_ALERT_MINUTES must be a whole number from 1 to 43200"),
        ({"DATABASE_URL": "mysql://x"}, "DATABASE_URL must start with postgresql://"),
        ({"DATABASE_URL": "sqlite://"}, "DATABASE_URL must be a file"),
        ({"DATABASE_URL": "sqlite:///:memory:"}, "DATABASE_URL must be a file"),
        ({"DYNO": "web.1"}, "DATABASE_URL is not set, and a dyno's disk does not last"),
        ({"GATEWAY_MAX_BODY": "1MB"}, "GATEWAY_MAX_BODY must be a whole number from 1 to"),
        ({"GATEWAY_PUBLIC_URL": "hooks.example.com"}, "GATEWAY_PUBLIC_URL must be an address"),
        ({**CREDENTIALS, "CUSTOMERIO_IDENTIFIERS": "email"}, "CUSTOMERIO_IDENTIFIERS must be id or id,email"),
        ({"CUSTOMERIO_SITE_ID": "x"}, "CUSTOMERIO_SITE_ID and CUSTOMERIO_API_KEY must both be set"),
        ({"CUSTOMERIO_EU_API_KEY": "x"}, "CUSTOMERIO_EU_SITE_ID and CUSTOMERIO_EU_API_KEY must both be set"),
        ({**CREDENTIALS, "CUSTOMERIO_REGION": "de"}, "CUSTOMERIO_REGION must be us or eu"),
        ({**CREDENTIALS, "CUSTOMERIO_RETRY_DELAY_MS": "-1"}, "CUSTOMERIO_RETRY_DELAY_MS must be a whole number"),
        ({**CREDENTIALS, "CUSTOMERIO_RATE": "1001"}, "CUSTOMERIO_RATE must be a whole number from 1 to 1000"),
        ({**CREDENTIALS, "CUSTOMERIO_RETRY_JITTER": "on"}, "CUSTOMERIO_RETRY_JITTER must be true or false"),
        ({**CREDENTIALS, "CUSTOMERIO_BASE_URL": "http://proxy.example"}, "CUSTOMERIO_BASE_URL must start with https"),
        ({**CREDENTIALS, "CUSTOMERIO_BASE_URL": "https://h/api"}, "CUSTOMERIO_BASE_URL must be a scheme and a host"),
        ({**CREDENTIALS, "CUSTOMERIO_BASE_URL": "https://u:p@h"}, "CUSTOMERIO_BASE_URL must be an address"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named_with_the_fix(environ: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(environ)
    assert str(error.value).startswith(problem)


def test_each_connection_has_its_own_rate_and_retry_settings() -> None:
    settings = "SITE_ID=s API_KEY=k RETRY_MAX=0 RETRY_DELAY_MS=50 RETRY_EXPONENTIAL=false RETRY_JITTER=False"
    settings += " RETRY_ALL_ERRORS=true RETRY_MAX_AGE=60"
    of_eu = dict(setting.split("=") for setting in settings.split())
    environ = {**CREDENTIALS, "CUSTOMERIO_RATE": "250"} | {f"CUSTOMERIO_EU_{name}": of_eu[name] for name in of_eu}
    default, eu = (load(environ).connections[name] for name in ("default", "eu"))
    assert (default.rate, default.policy) == (250, Policy())
    policy = Policy(max=0, delay=0.05, exponential=False, jitter=False, all_errors=True, max_age=60)
    assert (eu.rate, eu.policy) == (100, policy)


def test_all_wrong_variables_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        load({"DATABASE_URL": "x", "GATEWAY_MAX_BODY": "x", "CUSTOMERIO_SITE_ID": "x"})
    assert len(str(error.value).splitlines()) == 3


def test_no_secret_is_in_the_repr() -> None:
    environ = {**CREDENTIALS, "DATABASE_URL": "postgresql://u:p4711@db/x"}
    assert "4711" not in repr(load(environ))


@pytest.mark.parametrize(
    ("environ", "host", "port", "address"),
    [
        ({}, None, None, ("127.0.0.1", 8000)),
        ({"PORT": "80"}, None, None, ("0.0.0.0", 80)),
        ({"PORT": "80"}, "::1", 81, ("::1", 81)),
    ],
)
def test_a_port_of_the_platform_is_open_to_its_network(
    environ: dict[str, str], host: str | None, port: int | None, address: tuple[str, int]
) -> None:
    assert listen_address(environ, host, port) == address


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1", "٣"])
def test_a_port_that_is_none_is_an_error(port: str) -> None:
    with pytest.raises(ConfigError, match="PORT must be a number from 1 to 65535"):
        listen_address({"PORT": port})


def write(directory: Path, *names: str, text: str = MAPPING) -> None:
    for name in names:
        (directory / f"{name}.yaml").write_text(text.format(source=name))


def test_a_source_is_open_with_its_secret_and_closed_without(tmp_path: Path) -> None:
    write(tmp_path, "shop")
    assert load_sources(tmp_path, {"TOKEN": "t-4711"})["shop"].closed is None
    assert load_sources(tmp_path, {})["shop"].closed == "TOKEN is not set: it holds the secret of source shop"


def test_an_unusable_secret_closes_the_source_without_showing_it(tmp_path: Path) -> None:
    write(tmp_path, "shop", text=MAPPING.replace("bearer", "standard"))
    closed = load_sources(tmp_path, {"TOKEN": "whsec_4711!!"})["shop"].closed or ""
    assert closed.startswith("TOKEN: ")
    assert "4711" not in closed


def test_a_broken_file_closes_its_own_source_only(tmp_path: Path) -> None:
    write(tmp_path, "shop")
    write(tmp_path, "payments", text="version: 1\nsource: stripe\nevents: [\n")
    sources = load_sources(tmp_path, {"TOKEN": "t"})
    assert sources["shop"].closed is None
    assert sources["stripe"].closed == f"{tmp_path}/payments.yaml has errors; gateway check shows them"
    assert [problem.location.line for problem in sources["stripe"].problems] == [4]


def test_several_files_of_one_source_close_it_and_are_all_named(tmp_path: Path) -> None:
    write(tmp_path, *"abc", text=MAPPING.replace("{source}", "shop"))
    closed = load_sources(tmp_path, {"TOKEN": "t"})["shop"].closed
    files = " and ".join(f"{tmp_path}/{name}.yaml" for name in "abc")
    assert closed == f"{files} all say source: shop; rename one"


def test_hidden_files_are_not_read(tmp_path: Path) -> None:
    write(tmp_path, "pay")
    (tmp_path / "pay.yaml").with_name(".shop.yaml").write_text(MAPPING.format(source="shop"))
    assert list(load_sources(tmp_path, {"TOKEN": "t"})) == ["pay"]


def test_a_directory_without_mappings_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set GATEWAY_MAPPINGS"):
        load_sources(tmp_path / "none", {})
    with pytest.raises(ConfigError, match=r"cannot be read \(File name too long\)"):
        load_sources(tmp_path / ("x" * 300), {})
    with pytest.raises(ConfigError, match="no mapping file"):
        load_sources(tmp_path, {})
