"""A real server: only what a SuperNode needs passes its gateway, and enrolment and bans work."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from federation import invitation
from federation.adapter.signing import SigningKey
from federation.processes import free_port
from server.config import ServerHome, load_config
from server.control import SuperLink, environment, program, write_connection
from server.fleet import MAX_BODY_BYTES, METHODS
from server.nodes import Nodes
from tests.server_home import NodeKeys, make_home, node_keys

START_S = 180.0
PROTOBUF = {"content-type": "application/protobuf", "accept": "application/protobuf"}


@dataclass(frozen=True)
class Server:
    """A running server and the ways to its two ports."""

    home: ServerHome
    process: subprocess.Popen[str]
    log: Path

    @property
    def gateway(self) -> str:
        return f"127.0.0.1:{load_config(self.home).gateway_port}"

    @property
    def superlink(self) -> str:
        return f"127.0.0.1:{load_config(self.home).superlink_port}"

    def client(self, address: str) -> httpx.Client:
        trust = ssl.create_default_context(cafile=str(self.home.tls / "ca.crt"))
        return httpx.Client(
            base_url=f"https://{address}", verify=trust, trust_env=False, timeout=30.0
        )

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_command(str(program("flower-server")), *arguments, "--home", str(self.home.root))


def run_command(*command: str, env: dict[str, str] | None = None) -> Any:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, env=env
    )


def wait_until(what: Callable[[], bool], *, within_s: float = START_S) -> None:
    deadline = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("gateway")
    home = make_home(folder / "server", gateway_port=free_port(), superlink_port=free_port())
    log = folder / "up.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [str(program("flower-server")), "up", "--home", str(home.root), "--json"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the server did not come up:\n{log.read_text()}"
        assert json.loads(line)["pid"] == process.pid
        yield Server(home, process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert not home.running.exists()
        assert process.returncode == 0


@pytest.fixture(scope="module")
def admitted(server: Server) -> NodeKeys:
    return enrol(server, "admitted")


def enrol(server: Server, name: str) -> NodeKeys:
    keys = node_keys()
    reply = post_enrolment(server, invite(server, name), keys)
    assert reply.status_code == 200, reply.text
    return keys


def invite(server: Server, name: str, *options: str) -> invitation.Invitation:
    done = server.command("invite", name, *options)
    assert done.returncode == 0, done.stderr
    return invitation.decode(done.stdout)


def post_enrolment(server: Server, made: invitation.Invitation, keys: NodeKeys) -> httpx.Response:
    request = invitation.enrol_request(made.token, keys.line, keys.signing)
    with server.client(server.gateway) as client:
        return client.post(invitation.ENROL_PATH, content=request.model_dump_json())


def paths_of_superlink(server: Server) -> dict[str, list[str]]:
    """Every path of the SuperLink's own OpenAPI document, with its methods."""
    with server.client(server.superlink) as client:
        document = client.get("/openapi.json").raise_for_status().json()
    return {path: list(methods) for path, methods in document["paths"].items()}


@pytest.mark.security
def test_h25_of_all_the_superlinks_routes_only_the_fleet_ones_pass(
    server: Server, admitted: NodeKeys
) -> None:
    headers = PROTOBUF | {"flwr-public-key": admitted.header}
    passed = set()
    found = paths_of_superlink(server)
    assert len(found) > 40
    with server.client(server.gateway) as client:
        for path, methods in found.items():
            for method in {*methods, "post", "get"}:
                target = path.replace("{", "").replace("}", "")
                answer = client.request(method, target, content=b"", headers=headers)
                if answer.status_code != 404:
                    passed.add((method, path))
    expected = {("post", f"/v1/fleet/{method}") for method in METHODS}
    assert passed - {("get", "/health")} == expected
    assert {f"/v1/fleet/{method}" for method in METHODS} <= set(found)


@pytest.mark.security
@pytest.mark.parametrize(
    "target",
    [
        "/v1/control/list-runs",
        "//v1/control/list-runs",
        "/v1//control/list-runs",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1%2fcontrol%2flist-runs",
        "/v1/fleet//get-run",
        "/v1/fleet/get-run/",
        "/v1/fleet/get%2drun",
        "/v1/fleet/get-run?x=1",
        "/V1/fleet/get-run",
        "/v1/runtime/acquire-task",
        "/docs",
        "/openapi.json",
        "/",
        "*",
        "https://127.0.0.1/v1/fleet/get-run",
    ],
)
def test_h25_a_path_that_is_not_exact_is_answered_404(
    server: Server, admitted: NodeKeys, target: str
) -> None:
    assert raw_status(server, target, admitted.header) in (404, 400)


def raw_status(server: Server, target: str, key: str) -> int:
    """Status of a request whose target is sent as it is."""
    head = (
        f"POST {target} HTTP/1.1\r\nHost: x\r\nflwr-public-key: {key}\r\n"
        "Content-Length: 0\r\nConnection: close\r\n\r\n"
    )
    return int(raw_answer(server, head.encode()).split()[1])


def raw_answer(server: Server, data: bytes) -> bytes:
    trust = ssl.create_default_context(cafile=str(server.home.tls / "ca.crt"))
    host, port = server.gateway.split(":")
    with (
        socket.create_connection((host, int(port)), timeout=30) as plain,
        trust.wrap_socket(plain, server_hostname=host) as wrapped,
    ):
        wrapped.sendall(data)
        received = b""
        while chunk := wrapped.recv(4096):
            received += chunk
        return received


@pytest.mark.security
@pytest.mark.parametrize(
    "arguments",
    [["run", "{app}", "op"], ["list", "op"], ["supernode", "register", "{key}", "op"]],
    ids=["run", "list", "register"],
)
def test_h25_flwr_commands_reach_nothing_through_the_gateway(
    server: Server, tmp_path: Path, arguments: list[str]
) -> None:
    from federation.bundle import write_app

    outside = ServerHome(tmp_path / "outside")
    (outside.root / "tls").mkdir(parents=True)
    (outside.root / "tls" / "ca.crt").write_bytes((server.home.tls / "ca.crt").read_bytes())
    write_connection(outside, int(server.gateway.split(":")[1]))
    (tmp_path / "node.pub").write_text(node_keys().line)
    places = {"app": str(write_app(tmp_path / "app")), "key": str(tmp_path / "node.pub")}
    done = run_command(
        str(program("flwr")),
        *(part.format(**places) for part in arguments),
        "--format",
        "json",
        env=environment(outside),
    )
    assert json.loads(done.stdout)["success"] is False
    assert "404" in done.stdout


@pytest.mark.security
def test_h08_a_body_over_the_cap_is_answered_503_unread(server: Server, admitted: NodeKeys) -> None:
    head = (
        f"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\nflwr-public-key: {admitted.header}\r\n"
        f"Content-Length: {MAX_BODY_BYTES + 1}\r\n\r\n"
    )
    assert raw_answer(server, head.encode()).split()[1] == b"503"


@pytest.mark.security
def test_h08_a_body_without_a_length_is_answered_404(server: Server, admitted: NodeKeys) -> None:
    head = (
        f"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\nflwr-public-key: {admitted.header}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    )
    assert raw_answer(server, head.encode()).split()[1] == b"404"


def test_enrolment_admits_a_node_once(server: Server) -> None:
    made, keys = invite(server, "once"), node_keys()
    first = post_enrolment(server, made, keys)
    reply = invitation.EnrolReply.model_validate_json(first.content)
    assert (reply.name, reply.current_version) == ("once", 0)
    assert reply.flower_node_id in SuperLink(server.home).nodes()
    again = post_enrolment(server, made, keys)
    assert again.json() == first.json()
    stranger = post_enrolment(server, made, node_keys())
    assert (stranger.status_code, stranger.json()["code"]) == (403, "used")


def test_an_expired_invitation_is_refused(server: Server) -> None:
    made = invite(server, "late", "--expires", "1s")
    time.sleep(1.1)
    answer = post_enrolment(server, made, node_keys())
    assert (answer.status_code, answer.json()["code"]) == (403, "expired")


def test_a_token_made_up_is_refused(server: Server) -> None:
    made = invite(server, "forged").model_copy(update={"token": "0" * 64})
    answer = post_enrolment(server, made, node_keys())
    assert (answer.status_code, answer.json()["code"]) == (403, "unknown")


def test_a_key_that_flower_knows_is_refused(server: Server, admitted: NodeKeys) -> None:
    keys = NodeKeys(admitted.line, admitted.private, SigningKey.generate())
    answer = post_enrolment(server, invite(server, "copycat"), keys)
    assert (answer.status_code, answer.json()["code"]) == (409, "key-in-use")


@pytest.mark.security
def test_h06_nodes_see_no_list_of_nodes_and_health_says_one_word(server: Server) -> None:
    with server.client(server.gateway) as client:
        answer = client.get("/health", headers={"host": "evil.example", "origin": "https://evil"})
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert set(answer.headers) == {"date", "content-length", "content-type"}


@pytest.mark.security
def test_h05_no_secret_stands_on_a_command_line_and_files_are_private(server: Server) -> None:
    secrets = [
        server.home.superexec_secret.read_text(),
        server.home.signing_key.read_text().splitlines()[1],
    ]
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            shown = cmdline.read_text()
        except OSError:
            continue
        assert not any(secret in shown for secret in secrets)
    for path in server.home.root.rglob("*"):
        if path.is_file() and path.suffix != ".lock" and path.name not in (".lock", ".up.lock"):
            assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.security
def test_h29_logs_hold_no_key_and_no_token(server: Server, admitted: NodeKeys) -> None:
    made, keys = invite(server, "quiet"), node_keys()
    assert post_enrolment(server, made, keys).status_code == 200
    with server.client(server.gateway) as client:
        client.post("/v1/fleet/get-run", content=b"x", headers={"flwr-public-key": keys.header})
    logs = b"".join(path.read_bytes() for path in server.home.logs.glob("gateway.log*"))
    assert b"has enrolled" in logs
    assert made.token.encode() not in logs
    assert keys.header.encode() not in logs


def test_a_node_is_admitted_by_its_keys(server: Server, tmp_path: Path) -> None:
    keys = node_keys()
    (tmp_path / "node.pub").write_text(keys.line)
    given = ("--supernode-key", str(tmp_path / "node.pub"))
    done = server.command("admit", "known", *given, "--signing-key", keys.signing.public_hex)
    assert done.returncode == 0, done.stderr
    node = Nodes(server.home.nodes_db).by_name("known")
    assert (node.status, node.supernode_key) == ("active", keys.header)
    assert node.flower_node_id in SuperLink(server.home).nodes()


def test_a_second_up_says_that_one_is_running(server: Server) -> None:
    done = server.command("up")
    assert done.returncode == 1
    assert "is up already" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_supernode_works_until_it_is_banned(server: Server, tmp_path: Path) -> None:
    keys = enrol(server, "worker")
    (tmp_path / "key").write_bytes(keys.private)
    (tmp_path / "key").chmod(0o600)
    command = [
        str(program("flower-supernode")),
        *("--superlink", server.gateway),
        *("--root-certificates", str(server.home.tls / "ca.crt")),
        *("--auth-supernode-private-key", str(tmp_path / "key")),
        *("--host", "127.0.0.1", "--port", str(free_port())),
        *("--isolation", "process"),
    ]
    env = environment(server.home) | {"FLWR_HOME": str(tmp_path / "flwr")}
    nodes = Nodes(server.home.nodes_db)
    node_id = nodes.by_name("worker").flower_node_id
    with (tmp_path / "node.log").open("w") as log:
        node = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: SuperLink(server.home).nodes().get(node_id) == "online")
        wait_until(lambda: nodes.by_name("worker").bytes_up > 0)
        done = server.command("ban", "worker", "--json")
        assert json.loads(done.stdout) == {"name": "worker", "status": "banned", "warning": ""}
        node.wait(timeout=60)
    finally:
        node.kill()
        node.wait()
    again = run_command(*command, env=env)
    assert "[code: 2004] Failed to activate SuperNode" in again.stdout + again.stderr


def test_503_while_the_superlink_is_down_and_it_comes_back(
    server: Server, admitted: NodeKeys
) -> None:
    headers = PROTOBUF | {"flwr-public-key": admitted.header}

    def status() -> int:
        with server.client(server.gateway) as client:
            return client.post("/v1/fleet/get-run", content=b"", headers=headers).status_code

    assert status() == 401
    os.kill(superlink_pid(server), signal.SIGKILL)
    wait_until(lambda: status() == 503)
    with server.client(server.gateway) as client:
        assert client.get("/health").json() == {"status": "superlink down"}
    wait_until(lambda: status() == 401)
    assert "restart" in server.log.read_text()


def superlink_pid(server: Server) -> int:
    import psutil

    for child in psutil.Process(server.process.pid).children(recursive=True):
        if "flower-superlink" in " ".join(child.cmdline()):
            return child.pid
    raise AssertionError("no SuperLink is running")
