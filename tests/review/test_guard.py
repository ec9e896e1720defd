import asyncio

import pytest

from puregen_transforms.review.guard import Guard

HOST, COOKIE = "127.0.0.1:7860", "puregen-review-7860=secret"


async def server(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


def ask(folder, path="/review/page", *, query="", method="GET", kind="http", **headers):
    sent = []

    async def send(message):
        sent.append(message)

    given = {"host": HOST, "cookie": COOKIE} | {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items() if value is not None],
    }
    guard = Guard(server, port=7860, token="secret", files=folder)
    asyncio.run(guard(scope, None, send))
    return sent


def status(folder, *place, **headers):
    return ask(folder, *place, **headers)[0]["status"]


def test_the_own_page_is_answered(tmp_path):
    assert status(tmp_path) == 200
    assert status(tmp_path, host="localhost:7860", origin="http://localhost:7860") == 200
    assert status(tmp_path, method="POST", origin=f"http://{HOST}", sec_fetch_site="same-origin") == 200
    names = {name for name, _ in ask(tmp_path)[0]["headers"]}
    assert {b"content-security-policy", b"x-frame-options", b"cross-origin-resource-policy"} <= names


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example:7860"},
        {"host": "127.0.0.1.evil.example:7860"},
        {"host": "127.0.0.1"},
        {"host": None},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8000"},
        {"origin": f"https://{HOST}"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"cookie": None},
        {"cookie": "puregen-review-7860=guess"},
        {"cookie": "puregen-review-7860=sécret"},
        {"cookie": "\x00;;=,"},
    ],
)
def test_other_pages_and_other_people_are_refused(tmp_path, headers):
    assert status(tmp_path, **headers) == 403


def test_the_token_opens_the_page_and_leaves_the_address(tmp_path):
    start, _ = ask(tmp_path, "/", query="token=secret", cookie=None)
    assert start["status"] == 303
    headers = dict(start["headers"])
    assert headers[b"location"] == b"/"
    assert headers[b"set-cookie"] == COOKIE.encode() + b"; Path=/; HttpOnly; SameSite=Strict"
    assert status(tmp_path, "/", query="token=guess", cookie=None) == 403
    assert status(tmp_path, "/", query="token=secret", cookie=None, host="evil.example:7860") == 403
    assert status(tmp_path, "/review/page", query="token=secret", cookie=None) == 403


def test_only_uploads_are_served_as_files(tmp_path):
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    (uploads / "link").symlink_to("/etc")
    served = "/gradio_api/file="
    assert status(uploads, f"{served}{uploads}/a.png") == 200
    paths = ("/etc/passwd", f"{uploads}/../secret", f"{uploads}/link/passwd", "secret", "http://evil.example", "a\x00b")
    for path in paths:
        assert status(uploads, served + path) == 404, path
    for path in (
        "/gradio_api/proxy=http://evil.example",
        "/gradio_api/dev/reload",
        "/gradio_api/vibe-code",
        "/gradio_api/run/purify",
        "/monitoring",
        "/review/../config",
        "/docs",
    ):
        assert status(uploads, path) == 404, path


def test_sockets_are_closed(tmp_path):
    assert ask(tmp_path, kind="websocket") == [{"type": "websocket.close", "code": 1008}]
