"""Put the review together: Gradio's page, and what it asks the server for."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import fastapi
import gradio
import uvicorn
from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool

from puregen_transforms.data.images import decode_input
from puregen_transforms.review.desk import Desk, Filter, read_decision
from puregen_transforms.review.guard import App, Guard
from puregen_transforms.review.views import Views, mark_picture

_HERE = Path(__file__).parent
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_CODE_FONTS = ["ui-monospace", "Consolas", "monospace"]

_REVIEW = """<div id="review" class="both"><main></main><div><aside></aside>
<p class="keys"><kbd>K</kbd> keep <kbd>D</kbd> drop <kbd>U</kbd> unsure <kbd>&#9003;</kbd> take back <kbd>&#8592;</kbd>
<kbd>&#8593;</kbd> <kbd>&#8595;</kbd> <kbd>&#8594;</kbd> move <kbd>PgUp</kbd> <kbd>PgDn</kbd> turn the page</p>
</div></div>"""


def build_app(desk: Desk, views: Views, *, port: int, token: str, files: Path) -> App:
    """Make the server of a review.

    Args:
        desk: of the suspects.
        views: of the same.
        port: that the server will listen on.
        token: that opens it.
        files: the folder in which Gradio keeps what is uploaded.
    """
    server = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _add_routes(server, desk, views)
    # Fonts by name: Gradio's own would be fetched from a server of others.
    theme = gradio.themes.Default(font=_FONTS, font_mono=_CODE_FONTS)
    gradio.mount_gradio_app(
        server,
        _page(views),
        path="/",
        server_name="127.0.0.1",
        server_port=port,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=theme,
        css_paths=_HERE / "review.css",
        head='<script src="review/review.js" defer></script>',
    )
    return Guard(server, port=port, token=token, files=files)


def run_app(app: App, listening: socket.socket, started: Callable[[], None]) -> None:
    """Serve until the process is interrupted.

    Args:
        app: to serve.
        listening: a bound socket.
        started: is called when requests are answered.
    """

    class Server(uvicorn.Server):  # type: ignore[misc] # types of the extra are not read
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started()

    # Open pages listen for news as long as they are open.
    config = uvicorn.Config(app, log_level="error", access_log=False, server_header=False, timeout_graceful_shutdown=1)
    with suppress(KeyboardInterrupt):
        Server(config).run(sockets=[listening])


def _page(views: Views) -> gradio.Blocks:
    """Lay out the page.

    Names of others never go through Gradio, which takes text for templates: the server's own routes fill the first tab.
    """
    with gradio.Blocks(title="PureGen review", analytics_enabled=False, fill_width=True) as page:
        with gradio.Tab("Suspects"):
            gradio.HTML(_REVIEW, js_on_load=None, apply_default_css=False)
        with gradio.Tab("Purify an image"):
            gradio.Markdown("Any image: see what the purifier makes of it. It stays on this machine.")
            with gradio.Row():
                look: dict[str, Any] = {"height": 440, "elem_classes": "plain", "buttons": ["download", "fullscreen"]}
                given = gradio.Image(label="Before", type="filepath", sources=["upload", "clipboard"], **look)
                made = gradio.Image(label="After", format="png", interactive=False, **look)
            button = gradio.Button("Purify", variant="primary", elem_id="purify")
        button.click(_purify_upload(views), given, made, api_visibility="private")
    return page


def _purify_upload(views: Views) -> Callable[[str | None], Any]:
    def purify(path: str | None) -> Any:
        if path is None:
            raise gradio.Error("Give an image first.", print_exception=False)
        try:
            return views.purify(decode_input(Path(path).read_bytes()))
        except ValueError as error:
            raise gradio.Error(str(error), print_exception=False) from error

    return purify


def _add_routes(server: fastapi.FastAPI, desk: Desk, views: Views) -> None:
    """Add what the page asks for; suspects are named by their sha256, others by their row, and nothing else can be."""

    def page(class_name: str = "", kind: str = "", decision: str = "", page: int = 1) -> Response:
        wanted = Filter(class_name=class_name, kind=kind, decision=decision)
        return _found(lambda: _html(desk.page(wanted, page)))

    def suspect(digest: str) -> Response:
        return _found(lambda: _html(desk.suspect(digest)))

    def near(digest: str) -> Response:
        return _found(lambda: _html(desk.near(digest)))

    async def decide(request: Request) -> Response:
        if request.headers.get("content-type") != "application/json":  # which a form of another page cannot send
            return Response("Expected JSON.", 415)
        try:
            digest, answer = read_decision(await request.body())
            return fastapi.responses.JSONResponse(await run_in_threadpool(desk.decide, digest, answer))
        except KeyError:
            return Response("There is no such suspect.", 404)
        except ValueError as error:
            return Response(str(error), 400)
        except OSError as error:
            return Response(f"{error.strerror or error}", 500)

    def thumbnail(digest: str) -> Response:
        return _found(lambda: Response(views.thumbnail(desk.suspects.by_digest[digest]), media_type="image/webp"))

    def row(number: int) -> Response:
        return _found(lambda: Response(views.thumbnail_of(number), media_type="image/webp"))

    def picture(kind: str, digest: str) -> Response:
        return _found(lambda: Response(views.view(desk.suspects.by_digest[digest], kind), media_type="image/png"))

    def mark(search: str, number: int) -> Response:
        return _found(
            lambda: Response(mark_picture(desk.suspects.reports[search].marks[number].picture), media_type="image/png")
        )

    def lines() -> Response:
        return Response(desk.lines(), media_type="text/csv")

    def script() -> Response:
        return Response((_HERE / "review.js").read_bytes(), media_type="text/javascript")

    for path, answer in {
        "/review/page": page,
        "/review/suspect/{digest}": suspect,
        "/review/thumbnail/{digest}": thumbnail,
        "/review/near/{digest}": near,
        "/review/row/{number}": row,
        "/review/picture/{kind}/{digest}": picture,
        "/review/mark/{search}/{number}": mark,
        "/review/decisions.csv": lines,
        "/review/review.js": script,
    }.items():
        server.add_api_route(path, answer, methods=["GET"], response_class=Response)
    server.add_api_route("/review/decide", decide, methods=["POST"], response_class=Response)


def _html(text: str) -> Response:
    return Response(text, media_type="text/html", headers={"cache-control": "no-store"})


def _found(make: Callable[[], Response]) -> Response:
    try:
        return make()
    except (KeyError, IndexError):
        return Response("There is no such suspect.", 404)
    except (ValueError, FloatingPointError, OSError) as error:
        return Response(str(error), 422)
