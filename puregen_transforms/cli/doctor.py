"""`puregen doctor`: report what this machine offers, and whether PureGen runs on it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from puregen_transforms.cli.errors import FAILED
from puregen_transforms.cli.output import say

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "puregen-transforms",
    "torch",
    "torchvision",
    "datasets",
    "huggingface_hub",
    "accelerate",
    "diffusers",
    "safetensors",
    "numpy",
    "pillow",
)

VARIABLES = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "HF_DATASETS_CACHE",
    "HF_HUB_DISABLE_XET",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "PYTORCH_ENABLE_MPS_FALLBACK",
)
"""Settings that change where things are found and how fast they run; `HF_TOKEN` is never shown."""

HUB_TIMEOUT = 5.0
"""Seconds."""

GIGABYTE = 10**9


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report.

    Args:
        title: what was looked at.
        text: what was found, in words.
        fatal: whether PureGen cannot run because of it.
    """

    title: str
    text: str
    fatal: bool = False


def doctor() -> None:
    """Report versions, devices, the checkpoint and the Hub, and whether PureGen can run on this machine.

    Exits with 1 only if it cannot. Needs no network: a Hub out of reach is reported, and is no failure.
    """
    fatal = []
    for title, section in SECTIONS:
        for finding in _guarded(title, section):
            say(f"{finding.title + ':':<20} {finding.text}")
            if finding.fatal:
                fatal.append(finding)
    if fatal:
        say(f"PureGen cannot run here: see {', '.join(finding.title for finding in fatal)} above.", err=True)
        raise typer.Exit(FAILED)
    say("PureGen can run here.")


def _guarded(title: str, section: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield the findings of a section; an examination that fails is itself a finding."""
    try:
        yield from section()
    except Exception as error:  # Reporting what is broken is the purpose of this command.
        fatal = section in (_checkpoint, _trial)
        yield Finding(title=title, text=f"{'FAILED' if fatal else 'not known'}: {_in_words(error)}", fatal=fatal)


def _versions() -> Iterator[Finding]:
    yield Finding(title="python", text=f"{platform.python_version()} ({sys.executable})")
    for name in PACKAGES:
        try:
            yield Finding(title=name, text=metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(title=name, text="not installed")


def _machine() -> Iterator[Finding]:
    yield Finding(title="platform", text=platform.platform())
    affinity = getattr(os, "sched_getaffinity", None)  # Not on macOS and Windows.
    usable = len(affinity(0)) if affinity else os.cpu_count()
    text = f"{os.cpu_count()}, {usable} of them for this process"
    limit = _container_limit()
    yield Finding(
        title="processor cores", text=text + (f"; the container may use the time of {limit:g}" if limit else "")
    )


def _container_limit() -> float | None:
    """Read how many processors' worth of time the control group allows, if it sets a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _devices() -> Iterator[Finding]:
    import torch

    from puregen_transforms.purifier.device import choose_device, choose_dtype

    yield Finding(title="torch threads", text=str(torch.get_num_threads()))
    yield Finding(title="cpu", text=f"{_processor_name()}; {_dtype_in_words(torch.device('cpu'))}")
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        yield Finding(title="accelerator", text=_why_no_accelerator())
    else:
        for index in range(torch.accelerator.device_count()):
            yield _accelerator(torch.device(accelerator.type, index))
    device = choose_device(None)
    name = str(choose_dtype("auto", device)).removeprefix("torch.")
    why = "torch reports no accelerator" if device.type == "cpu" else "the accelerator that torch reports"
    yield Finding(title="PureGen's choice", text=f"{device} ({why}), {name}")


def _accelerator(device: torch.device) -> Finding:
    import torch

    from puregen_transforms.purifier.device import device_name, free_memory

    text = device_name(device)
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        text += f", compute capability {major}.{minor}"
    free = free_memory(device)
    if free is not None:
        text += f", {free / GIGABYTE:.1f} GB free"
    return Finding(title=str(device), text=f"{text}; {_dtype_in_words(device)}")


def _dtype_in_words(device: torch.device) -> str:
    """Say which arithmetic "auto" means there, and why."""
    from puregen_transforms.functional.arithmetic import has_bfloat16
    from puregen_transforms.purifier.device import choose_dtype

    name = str(choose_dtype("auto", device)).removeprefix("torch.")
    if has_bfloat16(device):
        return f"{name}, which its hardware multiplies directly"
    lacking = {
        "cpu": "neither AVX-512 BF16 nor AMX",
        "cuda": "bfloat16 from compute capability 8.0, MI100 or RDNA 3 on only",
        "xpu": "no matrix units for bfloat16",
    }
    return f"{name}, as bfloat16 would be slower ({lacking.get(device.type, 'bfloat16 is not known to be fast there')})"


def _why_no_accelerator() -> str:
    import torch

    built_for = torch.accelerator.current_accelerator()
    if built_for is None:
        text = "this build of torch has no GPU support"
        return text + "; `nvidia-smi` is there: install the CUDA build" if shutil.which("nvidia-smi") else text
    version = torch.version.cuda or torch.version.hip or ""
    return f"none found by torch, which is built for {built_for.type} {version}".rstrip()


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # Not Linux.
    return platform.processor() or platform.machine()


def _checkpoint() -> Iterator[Finding]:
    from puregen_transforms.hub.ddpm import load_unet, resolve_ddpm
    from puregen_transforms.hub.denoiser import load_denoiser, resolve_denoiser
    from puregen_transforms.hub.ebm import load_ebm, resolve_ebm

    ebm, ddpm, denoiser = resolve_ebm(None), resolve_ddpm(None), resolve_denoiser(None)
    loaded = (
        ("checkpoint", ebm, load_ebm(ebm)),
        ("ddpm checkpoint", ddpm, load_unet(ddpm)),
        ("denoiser checkpoint", denoiser, load_denoiser(denoiser)),
    )
    for title, checkpoint, network in loaded:
        parameters = sum(parameter.numel() for parameter in network.parameters())
        yield Finding(
            title=title,
            text=f"{checkpoint.reference}, {parameters:,} parameters, loads "
            f"({checkpoint.weights.parent}, sha256 {checkpoint.sha256[:12]})",
        )


def _trial() -> Iterator[Finding]:
    """Time one Langevin step on a gray image, where and how PureGen() would do it."""
    from PIL import Image

    from puregen_transforms import PureGen

    purifier = PureGen(ebm_steps=1, seed=0)
    image = Image.new("RGB", (32, 32), (128, 128, 128))
    purifier(image)
    started = time.monotonic()
    purifier(image)
    yield Finding(title="trial", text=f"one Langevin step on one image in {1e3 * (time.monotonic() - started):.0f} ms")


def _settings() -> Iterator[Finding]:
    for name in VARIABLES:
        if name in os.environ:
            yield Finding(title=name, text=_without_password(os.environ[name]) or "(empty)")
    yield Finding(title="HF_TOKEN", text="set (not shown)" if os.environ.get("HF_TOKEN") else "not set")


def _hub_cache() -> Iterator[Finding]:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free / GIGABYTE
    state = "" if os.access(existing, os.W_OK) else "; it cannot be written: set HF_HOME to download there"
    if existing != folder:
        state = "; not made yet" + state
    yield Finding(title="Hub cache", text=f"{folder}, {free:.1f} GB free{state}")


def _hub() -> Iterator[Finding]:
    from huggingface_hub import constants

    endpoint = _without_password(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE:
        text = "not tried, as HF_HUB_OFFLINE is set: only what is cached will be found"
    else:
        text = _reach(constants.ENDPOINT)
    yield Finding(title="Hub", text=f"{endpoint}: {text}")


def _reach(endpoint: str) -> str:
    """Ask the Hub for anything; gives up after `HUB_TIMEOUT`, even where looking up the name hangs."""
    answers: list[str] = []

    def ask() -> None:
        from huggingface_hub import get_session

        started = time.monotonic()
        try:
            response = get_session().head(endpoint, timeout=HUB_TIMEOUT)
        except Exception as error:  # Its class depends on the HTTP library of the installed huggingface_hub.
            answers.append(f"cannot be reached ({_in_words(error)}); the default checkpoint needs no network")
        else:
            seconds = time.monotonic() - started
            answers.append(f"answers in {seconds:.1f} s (HTTP {response.status_code})")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT + 1)
    return answers[0] if answers else f"no answer within {HUB_TIMEOUT:g} s; the default checkpoint needs no network"


def _without_password(text: str) -> str:
    """Strip an address of the user name and password it may carry."""
    return re.sub(r"(^|//)[^/@]*@", r"\1***@", text)


def _in_words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


SECTIONS: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
    ("versions", _versions),
    ("machine", _machine),
    ("devices", _devices),
    ("checkpoint", _checkpoint),
    ("trial", _trial),
    ("settings", _settings),
    ("Hub cache", _hub_cache),
    ("Hub", _hub),
)
