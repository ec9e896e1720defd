"""Commands on a folder and on a table of a stranger, each with everything at once, watched by `strace`."""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Features
from datasets import Image as ImageFeature
from PIL import Image

from tests.hostile.test_sources import large_png, png

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed"),
]

ROOT = Path(__file__).parents[2]
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/proc", "/sys", "/dev", "/etc", "/run", "/opt", "/var/cache/fontconfig")
"""Where the interpreter and its libraries read."""
HARMLESS = ("/dev/null", "/dev/shm", "/dev/tty")
BY_LIBRARIES = ('"ldconfig", "-p"', '"/sbin/ldconfig", "-p"', '"fc-list", "--')
"""How torch and matplotlib look for libraries and fonts, whatever the data are."""
NAMES = ["<img src=x onerror=alert(1)>", "$x^2$ [red]", "\x1b[2Jcleared\nline", "\u202egpj.exe", "z" * 250]


@dataclass
class World:
    """A place for a run: the stranger's data, what is private beside them, and where a command may write.

    Attributes:
        top: of all of it.
        set: the stranger's folder.
        table: the stranger's Parquet file.
        private: what no command may read.
    """

    top: Path
    set: Path
    table: Path
    private: Path


@pytest.fixture
def world(tmp_path) -> World:
    for name in ("home", "cache", "tmp", "work", "private", "set"):
        (tmp_path / name).mkdir()
    private = tmp_path / "private"
    (private / "own.png").write_bytes(png("blue"))
    (private / "token.txt").write_text("secret")
    world = World(tmp_path, tmp_path / "set", tmp_path / "rows.parquet", private)
    write_folder(world)
    write_table(world)
    return world


def noisy(seed: int) -> bytes:
    Image.frombytes("RGB", (32, 32), Random(seed).randbytes(3072)).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


class Harm:
    """A pickle that starts a program when it is opened."""

    def __reduce__(self):
        return os.system, ("touch started",)


def write_folder(world: World) -> None:
    """Write classes with names of all kinds, files that are no images, links out, and files that claim to be ours."""
    top, private = world.set, world.private
    for number, name in enumerate(NAMES):
        (top / name).mkdir()
        for image in range(12):
            (top / name / f"{image}{name[:100]}.png").write_bytes(noisy(100 * number + image))
    first = top / NAMES[0]
    (first / "program.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n")
    (first / "large.png").write_bytes(large_png(60_000))
    (first / "cut.png").write_bytes(png()[:40])
    (first / "link.png").symlink_to(private / "own.png")
    (first / "zero.png").symlink_to("/dev/zero")
    (first / "nowhere.png").symlink_to(world.top / "nowhere")
    (top / "linked").symlink_to(private, target_is_directory=True)
    (top / "round").symlink_to(top, target_is_directory=True)
    (top / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: '{private}/*.png'\n---\n"
    )
    (top / "set.py").write_text(f"open({str(world.top / 'started')!r}, 'w')\n")
    (top / "weights.pt").write_bytes(pickle.dumps(Harm()))
    (top / "dataset_infos.json").write_text("[" * 50_000)


def write_table(world: World) -> None:
    """Write rows whose images are files elsewhere, addresses, programs and damaged ones, beside good ones."""
    features = Features(image=ImageFeature(), label=ClassLabel(names=NAMES))
    good = [{"bytes": noisy(row), "path": f"../../{row}.png"} for row in range(60)]
    places = [
        world.private / "own.png",
        "private/own.png",
        "/dev/zero",
        "http://127.0.0.1:9/x.png",
        "hf://datasets/x/y",
    ]
    bad = [{"bytes": None, "path": str(place)} for place in places]
    bad += [{"bytes": data, "path": None} for data in (b"%!PS-Adobe-3.0\nshowpage\n", large_png(60_000), b"")]
    cells = [*good, *bad]
    labels = [row % len(NAMES) for row in range(len(cells))]
    pq.write_table(pa.table({"image": cells, "label": labels}, schema=features.arrow_schema), world.table)


@dataclass
class Seen:
    """What a command did.

    Attributes:
        code: exit code.
        output: all that it printed.
        read: files opened for reading.
        written: files opened for writing, made, renamed or removed.
        connected: addresses of the network.
        started: programs.
    """

    code: int
    output: str
    read: set[str]
    written: set[str]
    connected: list[str]
    started: list[str]


def watch(world: World, *words: str) -> Seen:
    """Run `puregen` with these words; what it asks of the system is recorded by `strace`."""
    log = world.top / "work" / "calls"
    environment = {
        **os.environ,
        "HOME": str(world.top / "home"),
        "HF_HOME": str(world.top / "cache"),
        "XDG_CACHE_HOME": str(world.top / "cache"),
        "MPLCONFIGDIR": str(world.top / "cache"),
        "TMPDIR": str(world.top / "tmp"),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    calls = "%file,%network,execve"
    command = ["strace", "-f", "--seccomp-bpf", "-qq", "-y", "-s", "4096", "-e", f"trace={calls}", "-o", str(log)]
    command += [sys.executable, "-m", "puregen_transforms.cli.main", *words]
    done = subprocess.run(command, cwd=world.top / "work", env=environment, capture_output=True, timeout=600)
    seen = Seen(done.returncode, (done.stdout + done.stderr).decode(errors="replace"), set(), set(), [], [])
    for line in log.read_text(errors="replace").splitlines():
        note(seen, line.split(maxsplit=1)[-1], world.top / "work")
    log.unlink()
    return seen


OPENED = re.compile(r"^open(?:at2?)?\(.*?(O_[A-Z_|]+).*= \d+<(.*)>$")
PATH = re.compile(r'(?:(?:\d+|AT_FDCWD)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')
CHANGES = ("rename", "unlink", "mkdir", "rmdir", "symlink", "link(", "linkat", "chmod", "truncate", "utime")


def note(seen: Seen, call: str, folder: Path) -> None:
    """Sort a call of the system into what was seen; calls that failed changed and read nothing."""
    if opened := OPENED.match(call):
        writes = any(flag in opened[1] for flag in ("O_WRONLY", "O_RDWR", "O_CREAT"))
        (seen.written if writes else seen.read).add(opened[2])
    elif call.startswith(CHANGES) and "= -1" not in call:
        seen.written.update(str(folder / start / path) for start, path in PATH.findall(call))
    elif call.startswith("execve("):
        seen.started.append(call)
    elif call.startswith(("connect(", "sendto(", "bind(")) and "AF_INET" in call and "_port=htons(0)" not in call:
        seen.connected.append(call)


def check(seen: Seen, world: World, source: Path, *destinations: Path) -> None:
    """Hold what a command did against what it may do."""
    assert seen.code in (0, 1, 3), seen.output
    assert "Traceback" not in seen.output, seen.output
    assert "\x1b[2J" not in seen.output
    assert "\u202e" not in seen.output
    ours = [world.top / "cache", world.top / "tmp", *destinations]
    environment = [Path(sys.prefix), Path(sys.base_prefix), Path(sysconfig.get_path("purelib")), ROOT]
    ours += [path.parent / f".{path.name}." for path in destinations]  # what is not finished yet
    may_read = [str(path) for path in (*ours, source, *environment, world.top / "work", *SYSTEM)]
    may_write = [str(path) for path in (*ours, *HARMLESS)]
    assert not [path for path in seen.read if not path.startswith(tuple(may_read))]
    assert not [path for path in seen.written if not path.startswith(tuple(may_write))]
    assert "/dev/zero" not in seen.read
    assert [call for call in seen.started[1:] if not any(words in call for words in BY_LIBRARIES)] == []
    assert seen.connected == []
    assert sorted(path.name for path in world.private.iterdir()) == ["own.png", "token.txt"]
    assert not (world.top / "started").exists()
    assert not (world.top / "work/started").exists()


def is_told(seen: Seen) -> bool:
    """Whether a refusal says what was expected."""
    return "Error: Expected" in seen.output


@pytest.mark.parametrize("source", [pytest.param("set", marks=pytest.mark.slow), "table"])
def test_purify_and_verify(world, source):
    path, copy = getattr(world, source), world.top / "copy"
    stopped = watch(world, "purify", str(path), str(copy), "--method", "jpeg")
    check(stopped, world, path, copy)
    assert stopped.code == 1
    assert is_told(stopped)
    assert not list(copy.rglob("*.png"))
    done = watch(world, "purify", str(path), str(copy), "--method", "jpeg", "--on-error", "skip")
    check(done, world, path, copy)
    assert done.code == 3, done.output  # something was skipped
    assert len(list(copy.rglob("*.png"))) == 60 or source == "table"
    verified = watch(world, "verify", str(copy), "--source", str(path))
    check(verified, world, path, copy)
    assert verified.code == 0, verified.output


TO_STOP = [
    ["detect", "SRC", "--budget", "2m", "--output", "OUT"],
    ["clean", "SRC", "OUT", "--budget", "2m"],
    ["attack", "badnets", "SRC", "OUT", "--poisoned-set", "OUT/set.parquet"],
    ["inspect", "SRC", "--budget", "2m", "--output", "OUT"],
    ["evaluate", "narcissus", "SRC", "--output", "OUT", "--preset", "smoke"],
    ["train", "ebm", "SRC", "OUT", "--updates", "1", "--batch-size", "2", "--cpu"],
    ["train", "vab", "SRC", "OUT", "--preset", "smoke"],
    ["verify", "SRC"],
    ["report", "SRC"],
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "words"),
    # Tables are opened by the same code for all: three of them stand for the others.
    [*(("set", words) for words in TO_STOP), *(("table", words) for words in TO_STOP[:3])],
    ids=lambda given: given if isinstance(given, str) else " ".join(w for w in given[:2] if w not in ("SRC", "OUT")),
)
def test_what_cannot_leave_anything_out_says_so(world, source, words):
    path, output = getattr(world, source), world.top / "out"
    places = {"SRC": str(path), "OUT": str(output), "OUT/set.parquet": str(world.top / "out.parquet")}
    seen = watch(world, *(places.get(word, word) for word in words))
    check(seen, world, path, output, world.top / "out.parquet", world.top / "out.report")
    assert seen.code == 1
    assert is_told(seen)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["detect", "SRC", "--budget", "2m", "--output", "OUT"],
        ["inspect", "SRC", "--budget", "2m", "--output", "OUT"],
        ["clean", "SRC", "OUT", "--budget", "2m"],
        ["attack", "badnets", "SRC", "OUT", "--target-class", NAMES[0]],
    ],
    ids=lambda words: words[0],
)
def test_names_alone_stop_nothing(world, words):
    for path in (world.set / NAMES[0]).iterdir():
        if path.is_symlink() or path.name in ("program.png", "large.png", "cut.png"):
            path.unlink()
    (world.set / "linked").unlink()
    (world.set / "weights.pt").unlink()
    output = world.top / "out"
    seen = watch(world, *({"SRC": str(world.set), "OUT": str(output)}.get(word, word) for word in words))
    check(seen, world, world.set, output, world.top / "out.report")
    assert seen.code == 0, seen.output
    for page in world.top.glob("out*/**/*.html"):
        assert "<img src=x" not in page.read_text()
