"""The commands, as a person runs them."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click
import pytest
import requests
from click.testing import CliRunner, Result

from gateway.cli import main
from tests.support.machine import free_port
from tests.support.trackapi import TrackAPI

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()

MAPPING = """\
version: 1
source: shop
verify: {scheme: bearer, secret_env: SHOP_TOKEN}
event_type: =type
event_key: =format('{}-{}', customer, at)
events:
  order.paid:
    - call: track
      id: =customer
      name: Order Paid
      region: eu
      timestamp: =at
      attributes: {total: =total}
  user.deleted:
    - call: destroy
      id: =customer
tests:
  - name: paid
    body: {type: order.paid, customer: 42, total: 9, at: 1767225600}
    expect:
      - {call: track, id: "42", name: Order Paid, attributes: {total: 9}, timestamp: 1767225600}
"""
PAYLOAD = {"type": "order.paid", "customer": 42, "total": 9, "at": 1767225600}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with one mapping and one payload, and an environment without settings of the gateway."""
    for name in list(os.environ):
        if name.startswith(("CUSTOMERIO_", "GATEWAY_", "DATABASE_URL", "PORT", "WEB_CONCURRENCY")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mappings").mkdir()
    (tmp_path / "mappings" / "shop.yaml").write_text(MAPPING)
    (tmp_path / "paid.json").write_text(json.dumps(PAYLOAD))
    return tmp_path


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(main, arguments, env=environ)


@pytest.mark.parametrize("name", main.list_commands(click.Context(main)))
def test_every_command_has_help_and_is_in_the_readme(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.help
    assert f"`gateway {name}" in README
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            assert option.help


def test_the_commands_for_mappings_load_no_database(files: Path) -> None:
    program = "import sys; from gateway.cli import main; main(['check'], standalone_mode=False)"
    loaded = "print({'sqlalchemy', 'flask', 'requests'} & {*sys.modules})"
    guarded = f"import atexit, sys; atexit.register(lambda: {loaded}); {program}"
    process = subprocess.run([sys.executable, "-c", guarded], capture_output=True, text=True, timeout=30)
    assert process.stdout == "1 file, 1 test: no errors\nset()\n"


def test_translate_prints_the_calls(files: Path) -> None:
    result = run("translate", "mappings/shop.yaml", "paid.json")
    call = {"call": "track", "id": "42", "name": "Order Paid", "attributes": {"total": 9}, "timestamp": 1767225600}
    assert json.loads(result.stdout) == [call]


def test_translate_prints_the_exact_requests_without_credentials(files: Path) -> None:
    credentials = {"CUSTOMERIO_SITE_ID": "site-4711", "CUSTOMERIO_API_KEY": "key-4711"}
    result = run("translate", "mappings/shop.yaml", "paid.json", "--http", **credentials)
    (request,) = json.loads(result.stdout)
    assert "4711" not in result.output
    assert request["method"] == "POST"
    assert request["url"] == "https://track-eu.customer.io/api/v1/customers/42/events"
    assert request["headers"] == {"Content-Type": "application/json"}
    assert list(request["body"]) == ["name", "type", "id", "timestamp", "data"]


def test_translate_prints_a_raw_request_exactly(files: Path) -> None:
    call = "- call: request\n      path: /v1/import\n      files: {list: =type}\n      file_names: {list: list.csv}\n"
    mapping = MAPPING.replace("events:\n", f"events:\n  upload:\n    {call}")
    (files / "mappings" / "shop.yaml").write_text(mapping)
    (files / "upload.json").write_text('{"type": "upload", "customer": 1, "at": 1}')
    (request,) = json.loads(run("translate", "mappings/shop.yaml", "upload.json", "--http").stdout)
    assert (request["method"], request["url"]) == ("POST", "https://track.customer.io/api/v1/import")
    boundary = request["headers"]["Content-Type"].removeprefix("multipart/form-data; boundary=")
    assert request["body"] == (
        f'--{boundary}\r\nContent-Disposition: form-data; name="list"; filename="list.csv"\r\n'
        f"Content-Type: application/octet-stream\r\n\r\nupload\r\n--{boundary}--\r\n"
    )


def test_translate_reads_headers_a_query_and_standard_input(files: Path) -> None:
    mapping = MAPPING.replace("event_type: =type", "event_type: =header('X-Topic')").replace(
        "id: =customer", "id: =query('who')"
    )
    (files / "mappings" / "shop.yaml").write_text(mapping)
    (files / "headers.json").write_text(json.dumps({"headers": {"X-Topic": "order.paid"}, "query": {"who": "a"}}))
    result = CliRunner().invoke(
        main,
        ["translate", "mappings/shop.yaml", "-", "--headers", "headers.json", "--query", "who=b"],
        input=json.dumps(PAYLOAD),
    )
    assert json.loads(result.stdout)[0]["id"] == "b"


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ('{"type": "order.paid", "total": 9, "at": 1767225600}', "Error: mappings/shop.yaml:9:11: id: "),
        ('{"type": "order.paid", "customer": 1, "at": 1767225600000}', "unix("),
        ("{", "Error: bad.json: "),
    ],
)
def test_translate_prints_the_error_and_fails(files: Path, payload: str, message: str) -> None:
    (files / "bad.json").write_text(payload)
    result = run("translate", "mappings/shop.yaml", "bad.json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr


def test_translate_of_an_event_that_no_rule_handles_prints_a_note(files: Path) -> None:
    (files / "new.json").write_text('{"type": "order.new"}')
    result = run("translate", "mappings/shop.yaml", "new.json")
    assert (result.exit_code, result.stdout) == (0, "[]\n")
    assert result.stderr.startswith("ignored: ")


def test_migrate_creates_the_database(files: Path) -> None:
    result = run("migrate")
    assert (result.exit_code, result.output) == (0, "the database's schema is at version 0010\n")
    assert (files / "gateway.db").exists()


def test_migrate_fails_where_the_database_does_not_answer(files: Path) -> None:
    result = run("migrate", DATABASE_URL="postgresql://nobody:pass4711@127.0.0.1:1/none")
    assert result.exit_code == 1
    assert result.output.startswith("Error: the database cannot be used: ")
    assert "4711" not in result.output


CREDENTIALS = {"CUSTOMERIO_SITE_ID": "site", "CUSTOMERIO_API_KEY": "key-4711"}


def test_doctor_finds_no_problem_in_a_complete_set_up(files: Path) -> None:
    with TrackAPI(api_key="key-4711") as api:
        result = run("doctor", **CREDENTIALS, CUSTOMERIO_BASE_URL=api.url, SHOP_TOKEN="token-4711")
    assert "PROBLEM" not in result.output
    assert "Customer.io connection default: us" in result.output
    assert result.exit_code == 0
    assert "4711" not in result.output


def test_doctor_prints_each_problem(files: Path) -> None:
    with TrackAPI(region="eu", api_key="key-4711") as api:
        good = CREDENTIALS | {"CUSTOMERIO_BASE_URL": api.url}
        wrong_region = run("doctor", **good, SHOP_TOKEN="s3cret-4711 ")
        wrong_key = run("doctor", **{**good, "CUSTOMERIO_API_KEY": "wrong-4711"})
    assert wrong_region.exit_code == wrong_key.exit_code == 1
    assert "PROBLEM  source shop: closed: SHOP_TOKEN: the secret begins or ends" in wrong_region.output
    assert "closed, as their secrets are not set (gateway sources shows which): shop\n" in wrong_key.output
    assert "the workspace is in eu, not in us: set CUSTOMERIO_REGION=eu" in wrong_region.output
    assert "the site id or the API key is wrong" in wrong_key.output
    assert "4711" not in wrong_key.output
    assert "CUSTOMERIO_SITE_ID and CUSTOMERIO_API_KEY are not set" in run("doctor").output


def test_doctor_warns_of_a_secret_of_another_scheme(files: Path) -> None:
    (files / "mappings" / "pay.yaml").write_text(
        "{version: 1, source: pay, verify: {scheme: stripe, secret_env: PAY_SECRET}, events: {}}"
    )
    assert "PROBLEM  source pay: PAY_SECRET: the secret does not begin" in run("doctor", PAY_SECRET="sk_1").output
    assert "ok       source pay: " in run("doctor", PAY_SECRET="whsec_1").output


def test_serve_and_worker_need_credentials(files: Path) -> None:
    for command in ("serve", "worker"):
        result = run(command)
        assert result.exit_code == 1
        assert "CUSTOMERIO_SITE_ID and CUSTOMERIO_API_KEY are not set" in result.output


def test_a_worker_does_not_start_on_a_database_without_its_schema(files: Path, database_url: str) -> None:
    result = run("worker", **CREDENTIALS, DATABASE_URL=database_url)
    message = "Error: the database's schema is not this version's; run: gateway migrate\n"
    assert (result.exit_code, result.output) == (1, message)


def test_serve_fails_on_a_port_in_use(files: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        result = run("serve", "--dry-run", "--port", str(listener.getsockname()[1]))
    assert result.exit_code == 1
    assert "choose another with --port" in result.output


@contextlib.contextmanager
def serving(directory: Path, *options: str, **environ: str) -> Iterator[tuple[str, subprocess.Popen[bytes], IO[bytes]]]:
    """Run `gateway serve` until the block ends; yield its address, its process and its standard output."""
    port = free_port()
    command = [sys.executable, "-m", "gateway", "serve", "--port", str(port), "--workers", "1", *options]
    env = {"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1", **environ}
    with (directory / "output").open("wb") as output, (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=log, start_new_session=True)
    try:
        wait_for_answer(f"http://127.0.0.1:{port}/healthz", process)
        with (directory / "output").open("rb") as output_so_far:
            yield f"http://127.0.0.1:{port}", process, output_so_far
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_answer(url: str, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + 20
    while True:
        with contextlib.suppress(requests.ConnectionError, requests.Timeout):
            if requests.get(url, timeout=5).status_code == 200:
                return
        assert process.poll() is None, "serve ended by itself"
        assert time.monotonic() < ends
        time.sleep(0.05)


def read_until(output: IO[bytes], end: str) -> str:
    """Return the output of a process up to a text, or fail after 10 seconds."""
    deadline, text = time.monotonic() + 10, ""
    while end not in text:
        assert time.monotonic() < deadline, text
        text += output.read().decode()
        time.sleep(0.05)
    return text


def test_the_quickstart_of_the_readme_works(tmp_path: Path) -> None:
    """The webhooks of the README's curls, posted to the README's command, print the README's request."""
    body = re.findall(r"-d '(\{.*?\})'\n", README, re.DOTALL)[0]
    request = re.findall(r"```\n(POST https.*?)\n```", README, re.DOTALL)[0]
    star = re.findall(r"body='(.*?)'\n", README)[0].encode()
    signature = hmac.new(b"s3cret", star, hashlib.sha256).hexdigest()
    secrets = {"EXAMPLE_TOKEN": "s3cret", "GITHUB_WEBHOOK_SECRET": "s3cret"}
    with serving(tmp_path, "--dry-run", **secrets) as (url, process, output):
        # A connection that is kept would hold up the end of the web side for as long as it keeps one.
        common = {"Content-Type": "application/json", "Connection": "close"}
        headers = {"Authorization": "Bearer s3cret", **common}
        answers = [requests.post(f"{url}/hooks/example", body, headers=headers, timeout=10) for _ in range(2)]
        assert answers[0].text.strip() == '{"event":1,"calls":1}'
        assert all(f"`{answer.text.strip()}`" in README for answer in answers)
        assert request in read_until(output, '"items":2}}\n')

        headers = {"X-Hub-Signature-256": f"sha256={signature}", "X-GitHub-Event": "star", **common}
        assert requests.post(f"{url}/hooks/github", star, headers=headers, timeout=10).json()["calls"] == 2
        assert "Repository Starred" in read_until(output, "Repository Starred")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert not (ROOT / "gateway.db").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes under /proc")
def test_serve_sends_calls_and_restarts_processes_that_die(tmp_path: Path) -> None:
    with TrackAPI() as api:
        environ = {"CUSTOMERIO_SITE_ID": "site", "CUSTOMERIO_API_KEY": "key", "CUSTOMERIO_BASE_URL": api.url}
        environ |= {"DATABASE_URL": f"sqlite:///{tmp_path}/gateway.db", "EXAMPLE_TOKEN": "t"}
        with serving(tmp_path, **environ) as (url, process, _):
            post(url, 1)
            api.wait_until(lambda: api.count_applied() == 1, timeout=10)
            family = [member for child in children(process.pid) for member in (child, *children(child))]
            for child in children(process.pid):
                os.kill(child, signal.SIGKILL)
            wait_until_gone(family)  # gunicorn's own children notice within a second, and serve on until then
            wait_for_answer(f"{url}/healthz", process)
            post(url, 2)
            api.wait_until(lambda: api.count_applied() == 2, timeout=10)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_no_process_is_left_when_serve_itself_is_killed(tmp_path: Path) -> None:
    with serving(tmp_path, "--dry-run", EXAMPLE_TOKEN="t") as (_, process, _):
        family = children(process.pid)
        assert family
        process.kill()
        wait_until_gone(family)


def wait_until_gone(processes: list[int]) -> None:
    ends = time.monotonic() + 15
    while any(map(is_running, processes)):
        assert time.monotonic() < ends
        time.sleep(0.05)


def is_running(process: int) -> bool:
    """Return whether a process runs; a zombie, whose parent has not waited for it, does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def post(url: str, number: int) -> None:
    body = {"id": number, "type": "user.created", "user": {"id": number}}
    answer = requests.post(f"{url}/hooks/example", json=body, headers={"Authorization": "Bearer t"}, timeout=10)
    assert answer.status_code == 202


def children(parent: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
