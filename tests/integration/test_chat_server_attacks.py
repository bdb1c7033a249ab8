"""The attack table of the chat's server (docs/security.md), against a real uvicorn on loopback."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from rag.chat.web import login
from rag.chat.web.guard import CSP, MAX_JSON
from tests.chat_bench import Bench, chat_of

pytestmark = pytest.mark.security

READS = [
    "/api/sessions", "/api/sessions/" + "0" * 32, "/api/memory", "/api/settings", "/api/feeds",
    "/api/documents", "/api/documents/" + "0" * 32, "/api/passage?document_id=a&start=0&end=1",
    "/metrics", "/v1/models", "/docs", "/openapi.json", "/anything",
]  # fmt: skip
CHANGES = [
    ("POST", "/api/chat"), ("DELETE", "/api/chat/" + "0" * 32), ("PUT", "/api/settings"),
    ("POST", "/api/settings/rollback"), ("POST", "/api/feeds"), ("POST", "/api/feeds/ingest"),
    ("DELETE", "/api/memory"), ("POST", "/api/feedback"), ("DELETE", "/api/sessions/" + "0" * 32),
    ("POST", "/v1/chat/completions"), ("POST", "/v1/embeddings"), ("POST", "/api/logout"),
]  # fmt: skip
ITEM = "Un volcán entró en erupción en la isla de La Palma el 19 de septiembre de 2021."
CUT_OFF = (httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadError)
NAMES = [
    "../../../outside/victim.txt", "/etc/cron.d/job.txt", "..\\..\\outside\\victim.txt",
    "a\x00b.txt", "C:\\boot.txt", "x" * 3000 + ".txt", "....//....//victim.txt", ".txt", "",
]  # fmt: skip


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with chat_of(tmp_path_factory.mktemp("attacked") / "node") as running:
        yield running


def raw(bench: Bench, request: bytes) -> bytes:
    """What comes back for bytes sent as they are."""
    with socket.create_connection(("127.0.0.1", bench.door.port), timeout=30) as client:
        client.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data and (more := client.recv(65536)):
            data += more
    return data


@pytest.mark.parametrize("path", READS)
def test_h17_without_the_cookie_nothing_is_read(bench: Bench, path: str) -> None:
    answer = bench.stranger.get(path)
    assert answer.status_code == 401
    if not path.startswith("/v1"):
        assert answer.headers["content-type"] == "application/problem+json"
        assert set(answer.json()) == {"type", "title", "status", "detail"}


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_h17_without_the_cookie_nothing_is_changed(bench: Bench, method: str, path: str) -> None:
    assert bench.stranger.request(method, path, json={}).status_code == 401


def test_h17_what_is_open_holds_nothing_of_anybodys(bench: Bench) -> None:
    assert bench.stranger.get("/api/health").json() == {"live": True}
    assert bench.stranger.get("/").status_code == 200
    assert bench.token not in bench.stranger.get("/").text


def test_h17_a_cookie_of_another_start_is_no_cookie(bench: Bench) -> None:
    other = login.Login().new_cookie()
    for value in (other, "", "x" * 4000, bench.token):
        cookies = {"Cookie": f"{bench.chat.cookie}={value}"}
        assert bench.stranger.get("/api/sessions", headers=cookies).status_code == 401


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1", "127.0.0.1:80", "localhost", "127.0.0.1:{port}.evil.example", ""],
)
def test_h17_another_host_is_refused(bench: Bench, host: str) -> None:
    named = host.format(port=bench.door.port)
    for path in ("/", "/api/health", "/api/sessions", "/static/style.css"):
        assert bench.client.get(path, headers={"Host": named}).status_code == 403


def test_h17_an_onion_is_a_name_of_this_server_only_where_it_is_published(
    bench: Bench, tmp_path: Path
) -> None:
    name = f"{'a' * 56}.onion"
    headers = {"Host": name, "Origin": f"http://{name}"}
    assert bench.client.get("/api/sessions", headers=headers).status_code == 403
    with chat_of(tmp_path / "node", onion=name) as published:
        content = {"token": published.token}
        login = published.stranger.post("/api/login", json=content, headers=headers)
        assert login.status_code == 204
        crossed = {"Host": name, "Origin": published.url}
        assert published.client.get("/api/sessions", headers=crossed).status_code == 403
        assert published.stranger.get("/api/sessions", headers={"Host": name}).status_code == 200


def test_h17_two_hosts_are_refused(bench: Bench) -> None:
    own = f"Host: 127.0.0.1:{bench.door.port}\r\n".encode()
    answer = raw(bench, b"GET / HTTP/1.1\r\n" + own + own + b"\r\n")
    assert answer.split()[1] in (b"400", b"403")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_h17_a_request_from_another_page_has_no_effect(
    bench: Bench, headers: dict[str, str]
) -> None:
    before = bench.client.get("/api/memory").json()
    for method in ("POST", "GET"):
        answer = bench.client.request(
            method, "/api/chat", json={"message": "hola"}, headers=headers
        )
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert bench.client.get("/api/memory").json() == before


def test_h17_a_cookie_alone_changes_nothing(bench: Bench) -> None:
    with httpx.Client(base_url=bench.url, cookies=bench.client.cookies) as bare:
        assert bare.get("/api/sessions").status_code == 200
        assert bare.post("/api/chat", json={"message": "hola"}).status_code == 403
        same = {"Sec-Fetch-Site": "same-origin"}  # no page can set it
        for headers in (same, {**same, "Origin": "null"}):
            assert bare.delete("/api/chat/" + "0" * 32, headers=headers).status_code == 404


def test_h17_a_preflight_is_granted_nothing(bench: Bench) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = bench.client.options("/api/chat", headers=asked)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain", ""]
)
def test_h17_a_form_is_refused(bench: Bench, kind: str) -> None:
    body = b'{"message": "hola"}'
    answer = bench.client.post("/api/chat", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 415


def test_h17_the_cookie_is_for_this_page_alone(bench: Bench) -> None:
    headers = {"Origin": bench.url}
    answer = bench.stranger.post("/api/login", json={"token": bench.token}, headers=headers)
    given = answer.headers["set-cookie"].lower()
    assert answer.status_code == 204
    for part in ("httponly", "samesite=strict", "path=/"):
        assert part in given
    assert bench.token.lower() not in given
    bench.stranger.cookies.clear()


def test_h17_every_answer_carries_the_pages_rules(bench: Bench) -> None:
    for path in ("/", "/static/style.css", "/api/sessions", "/nothing", "/api/health"):
        headers = bench.client.get(path).headers
        assert headers["content-security-policy"] == CSP
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert "server" not in headers
    assert "unsafe" not in CSP


def test_h21_wrong_tokens_are_slowed_down(tmp_path: Path) -> None:
    with chat_of(tmp_path / "node") as bench:
        headers = {"Origin": bench.url}
        tried = [
            bench.stranger.post("/api/login", json={"token": f"guess {n}"}, headers=headers)
            for n in range(login.WRONG_PER_MINUTE + 2)
        ]
        codes = [answer.status_code for answer in tried]
        assert codes == [401] * login.WRONG_PER_MINUTE + [429] * 2
        assert tried[-1].headers["retry-after"]
        bearer = {"Authorization": "Bearer guess"}
        assert bench.stranger.get("/v1/models", headers=bearer).status_code == 429
        assert bench.client.get("/api/sessions").status_code == 200  # who is in stays in


def test_h21_cookies_are_bounded_and_end() -> None:
    now = [0.0]
    door = login.Login(clock=lambda: now[0])
    first, *others = [door.new_cookie() for _ in range(login.MOST_COOKIES + 1)]
    assert not door.is_cookie(first)
    assert all(door.is_cookie(value) for value in others)
    now[0] = login.COOKIE_S + 1
    assert not door.is_cookie(others[-1])


@pytest.mark.parametrize("path", ["/api/chat", "/api/settings", "/api/feeds", "/api/login"])
def test_h08_a_body_that_says_it_is_too_large_is_not_read(bench: Bench, path: str) -> None:
    method = "PUT" if path == "/api/settings" else "POST"
    lines = [
        f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{bench.door.port}", f"Origin: {bench.url}",
        f"Authorization: Bearer {bench.token}", "Content-Type: application/json",
        "Content-Length: 100000000", "", "",
    ]  # fmt: skip
    answer = raw(bench, "\r\n".join(lines).encode())
    assert answer.split()[1] == b"413"


def test_h08_a_body_that_does_not_say_how_long_it_is_is_cut_off(bench: Bench) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while True:
            sent += 1024
            yield b" " * 1024

    headers = {"Content-Type": "application/json"}
    with contextlib.suppress(*CUT_OFF):  # while it still sent
        answer = bench.client.post("/api/chat", content=endless(), headers=headers)
        assert answer.status_code == 413
    assert sent < MAX_JSON + 20_000_000
    assert bench.client.get("/api/health").json()["live"] is True


def test_h08_an_upload_of_more_than_10_mb_is_refused_and_nothing_is_kept(bench: Bench) -> None:
    with contextlib.suppress(*CUT_OFF):  # while it still sent
        assert bench.upload("large.txt", b"palabra " * 1_300_000).status_code == 413
    assert bench.client.get("/api/documents").json() == []


@pytest.mark.parametrize("name", NAMES)
def test_h01_a_path_in_an_uploads_name_leads_nowhere(bench: Bench, name: str) -> None:
    outside = bench.home.root.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "victim.txt").write_text("untouched")
    form = (
        f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        f"Content-Type: text/plain\r\n\r\n{ITEM} {len(name)}\r\n--b--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = bench.client.post("/api/documents", content=form.encode(), headers=headers)
    assert (outside / "victim.txt").read_text() == "untouched"
    files = [path for path in bench.home.documents.rglob("*") if path.is_file()]
    assert all(re.fullmatch(r"[0-9a-f]{32}", path.parent.name) for path in files)
    assert all(re.fullmatch(r"[\w \-]{1,60}\.txt", path.name) for path in files)
    if answer.status_code == 201:
        assert bench.client.delete(f"/api/documents/{answer.json()['id']}").status_code == 204
    else:
        assert answer.status_code in (400, 422)
    assert bench.client.get("/api/documents").json() == []


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("page.pdf", b"MZ\x90\x00" + b"\x00" * 500),
        ("picture.png", b"\x89PNG\r\n\x1a\n" + b"\x00" * 500),
        ("empty.txt", b""),
        ("damaged.pdf", b"%PDF-1.7\n" + b"garbage" * 50),
        ("damaged.docx", b"PK\x03\x04" + b"garbage" * 50),
        ("program.txt", b"\x7fELF\x02\x01\x01\x00" + b"\x00" * 500),
    ],
)
def test_h23_an_upload_of_another_kind_is_refused_and_gone(
    bench: Bench, name: str, body: bytes
) -> None:
    answer = bench.upload(name, body)
    assert answer.status_code == 422
    assert str(bench.home.root) not in answer.text
    assert not [path for path in bench.home.documents.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "path",
    [
        "/api/sessions/..%2f..%2foutside%2fold", "/api/sessions/%2e%2e",
        "/api/sessions/node_config",
        "/api/documents/..%2f..%2fnode_config.json", "/api/sessions/" + "0" * 32,
        "/static/..%2fapp.py", "/static/%2e%2e%2fapp.py", "/static/app.py", "/static/",
        "/static/%00", "//etc/passwd",
    ],
)  # fmt: skip
def test_h04_ids_and_names_are_no_paths(bench: Bench, path: str) -> None:
    for method in ("GET", "DELETE"):
        answer = bench.client.request(method, path)
        assert answer.status_code in (404, 405)
        assert "import" not in answer.text
    asked = {"message": "hola", "session_id": "../../outside/old"}
    assert bench.client.post("/api/chat", json=asked).status_code == 422
    unknown = {"message": "hola", "session_id": "f" * 32}
    assert bench.client.post("/api/chat", json=unknown).status_code == 404


def test_h20_a_fault_of_ours_shows_nothing_of_the_inside(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError(f"secret {bench.home.root}")

    monkeypatch.setattr(bench.chat.services.feeds, "rows", broken)
    answer = bench.client.get("/api/feeds")
    assert answer.status_code == 500
    assert set(answer.json()) == {"type", "title", "status", "detail"}
    assert "secret" not in answer.text
    assert str(bench.home.root) not in answer.text


def test_h29_neither_token_nor_cookie_nor_question_is_logged(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    question = "¿Dónde estalló el volcán marmota?"
    bench.ask(question)
    bench.stranger.get("/v1/models", headers={"Authorization": f"Bearer {bench.token}"})
    ours = [r.getMessage() for r in caplog.records if not r.name.startswith(("httpx", "httpcore"))]
    text = "\n".join(ours)
    assert bench.token not in text
    assert "marmota" not in text
    assert all(cookie.value not in text for cookie in bench.client.cookies.jar if cookie.value)


def test_h05_only_the_listed_models_are_loaded(bench: Bench) -> None:
    content = {"model": "evil/backdoor", "messages": [{"role": "user", "content": "hola"}]}
    answer = bench.client.post("/v1/chat/completions", json=content)
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_the_page_builds_text_nodes_alone() -> None:
    page = Path(__file__).parents[2] / "rag" / "chat" / "web" / "page"
    scripts = {path.name: path.read_text() for path in page.glob("*.js")}
    assert scripts
    for name, text in scripts.items():
        found = re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function"
            r"|DOMParser|createContextualFragment|srcdoc",
            text,
        )
        assert not found, name
    html = (page / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:", html)
    for text in (html, *scripts.values(), (page / "style.css").read_text()):
        assert not re.search(r"(src|href)=[\"']?(https?:)?//|@import|url\(\s*[\"']?https?:", text)
