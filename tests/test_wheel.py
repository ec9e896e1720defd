"""The wheel alone, offline, from another folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

PROJECT = Path(__file__).parents[1]

PURIFY = """
from pathlib import Path
import torch
import puregen_transforms
from puregen_transforms import PureGen
assert Path(puregen_transforms.__file__).is_relative_to(Path.cwd().parent), puregen_transforms.__file__
images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
purified = PureGen(seed=0)(images)
assert purified.shape == images.shape and not torch.equal(purified, images)
assert not torch.equal(PureGen("ddpm", ddpm_steps=2, seed=0)(images), images)
from puregen_transforms.data.demo import load_demo
assert len(load_demo().images) == 200
from puregen_transforms.hub import load_ebm, resolve_ebm
assert load_ebm(resolve_ebm()).config.nf == 64
"""


def test_the_wheel_works_alone_and_offline(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=PROJECT, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 20_000_000
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert "puregen_transforms/py.typed" in names
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)
    (tmp_path / "elsewhere").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PURIFY], cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
