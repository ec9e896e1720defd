"""A pseudo-terminal for commands that ask."""

from __future__ import annotations

import os
import re
import sys
import threading

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A terminal on which somebody types, and that shows what a command says on stderr."""

    def __init__(self) -> None:
        self._near, far = os.openpty()
        self.stdin, self.stderr = os.fdopen(os.dup(far)), os.fdopen(far, "w")
        self._shown = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def type(self, text: str) -> None:
        """Type ahead: it is read when somebody asks."""
        os.write(self._near, text.encode())

    def close(self) -> str:
        """Put the terminal away; return what it has shown."""
        for file in (self.stdin, self.stderr):
            file.close()
        self._reader.join(10)
        return _ESCAPES.sub("", self._shown.decode()).replace("\r\n", "\n")

    def _read(self) -> None:
        try:
            while data := os.read(self._near, 4096):  # all of it, as a full terminal would hold up the command
                self._shown += data
        except OSError:  # nobody has it open any more
            pass
        os.close(self._near)


def run_on_terminal(app, *words, typed="", monkeypatch):
    """Run a command on a terminal; return its exit code, and what the terminal has shown."""
    terminal = Terminal()
    terminal.type(typed)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", terminal.stdin)
        patch.setattr(sys, "stderr", terminal.stderr)
        patch.delenv("WORLD_SIZE", raising=False)
        try:
            code = app([str(word) for word in words], standalone_mode=False)
        finally:
            shown = terminal.close()
    return code or 0, shown
