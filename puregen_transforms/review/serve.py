"""Serve a review on this machine until it is stopped."""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from puregen_transforms._extras import require_extra
from puregen_transforms.review.desk import Desk
from puregen_transforms.review.views import Views

FIRST_PORT, _TRIED = 7860, 100


def serve(desk: Desk, views: Views, *, port: int | None, ready: Callable[[str], None]) -> None:
    """Serve a review on the loopback address until the process is interrupted.

    Args:
        desk: of the suspects.
        views: of the same.
        port: to listen on; None takes a free one.
        ready: is told the address to open, which has a token that nobody else knows.

    Raises:
        ImportError: Gradio is not installed.
        OSError: the port is taken.
    """
    require_extra("gradio", "app")
    with _private_gradio() as files:
        from puregen_transforms.review.app import build_app, run_app

        listening = _listen(port)
        number, token = listening.getsockname()[1], secrets.token_urlsafe(24)
        app = build_app(desk, views, port=number, token=token, files=files)
        run_app(app, listening, lambda: ready(f"http://127.0.0.1:{number}/?token={token}"))


@contextmanager
def _private_gradio() -> Iterator[Path]:
    """Have Gradio ask no server for anything, and keep uploads in a folder that goes away."""
    with tempfile.TemporaryDirectory(prefix="puregen-review-", ignore_cleanup_errors=True) as folder:
        os.environ |= {
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_TEMP_DIR": str(Path(folder).resolve()),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        yield Path(folder).resolve()


def _listen(port: int | None) -> socket.socket:
    wanted = range(FIRST_PORT, FIRST_PORT + _TRIED) if port is None else [port]
    for number in wanted:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", number))
        except OSError:
            listening.close()
            continue
        return listening
    raise OSError(f"Expected a free port, but {wanted[0] if port is not None else 'all tried'} is taken.")
