"""Which device, arithmetic and memory: what cannot be run here is tested as a choice."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import pytest
import torch

from puregen_transforms import PureGen
from puregen_transforms.functional.arithmetic import has_bfloat16
from puregen_transforms.functional.fallback import device_for, float64_product
from puregen_transforms.purifier import device as module
from puregen_transforms.purifier.batches import default_batch_size, in_halves
from puregen_transforms.purifier.device import (
    choose_device,
    choose_dtype,
    default_device,
    device_of_rank,
    free_memory,
)

KINDS = ("cuda", "mps", "xpu")
MISSING = [kind for kind in KINDS if not torch.get_device_module(kind).is_available()]


@pytest.fixture
def machine(monkeypatch):
    """A machine whose accelerator is of some kind, as far as torch's queries tell."""

    def pretend(kind, count=1):
        found = None if kind is None else torch.device(kind)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: found)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
        monkeypatch.setattr(module, "_try_out", lambda device: None)

    free_memory.cache_clear()
    yield pretend
    free_memory.cache_clear()


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_is_whatever_torch_reports(machine, kind):
    machine(kind)
    assert choose_device(None) == torch.device(kind)
    assert choose_device("cpu") == torch.device("cpu")


def test_without_an_accelerator_it_is_the_cpu(machine):
    machine(None, count=0)
    assert choose_device(None) == torch.device("cpu")
    assert device_of_rank(3) is None


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_ranks_take_several_accelerators_in_turn(machine, kind):
    machine(kind, count=3)
    assert [device_of_rank(rank) for rank in (0, 2, 4)] == [torch.device(kind, index) for index in (0, 2, 1)]
    machine(kind, count=1)
    assert device_of_rank(2) is None


@pytest.mark.parametrize("kind", MISSING)
def test_a_device_that_is_not_there_is_said_so(kind, images):
    purify = PureGen("jpeg", device=kind)  # where it is made need not be where it runs
    with pytest.raises(
        ValueError, match=f"device that works on this machine, but '{kind}' does not: torch finds none.*doctor"
    ):
        purify(images[:1])


def test_a_device_without_values_is_said_so(images):
    with pytest.raises(ValueError, match="'meta' does not: .{,80} Leave `device` out"):
        PureGen("jpeg", device="meta")(images[:1])


@pytest.mark.parametrize("device", ["gpu", 1.5, ["cuda"]])
def test_a_device_that_is_none_is_an_error(device):
    with pytest.raises(ValueError, match="Expected a device such as"):
        PureGen(device=device)


@pytest.mark.parametrize("kind", KINDS)
def test_a_forked_worker_that_would_need_an_accelerator_is_told_what_to_do(machine, monkeypatch, kind):
    machine(kind)
    monkeypatch.setattr(torch.get_device_module(kind), "_is_in_bad_fork", lambda: True)
    with pytest.raises(RuntimeError, match=f"{kind.upper()} cannot be used.*multiprocessing_context='spawn'"):
        choose_device(None)
    with pytest.raises(RuntimeError, match="device='cpu'"):
        choose_device(f"{kind}:0")
    assert choose_device("cpu") == torch.device("cpu")


class TestArithmetic:
    @pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)])
    def test_cuda(self, monkeypatch, capability, dtype):
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        assert choose_dtype("auto", torch.device("cuda")) == dtype

    @pytest.mark.parametrize(
        ("name", "yes"),
        [("gfx906:sramecc+", False), ("gfx90a:xnack-", True), ("gfx942", True), ("gfx1030", False), ("gfx1100", True)],
    )
    def test_rocm(self, monkeypatch, name, yes):
        monkeypatch.setattr(torch.version, "hip", "7.1")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(gcnArchName=name))
        assert has_bfloat16(torch.device("cuda")) is yes

    @pytest.mark.parametrize("units", [True, False])
    def test_xpu(self, monkeypatch, units):
        properties = types.SimpleNamespace(has_bfloat16_conversions=True, has_subgroup_matrix_multiply_accumulate=units)
        monkeypatch.setattr(torch.xpu, "get_device_properties", lambda device: properties)
        assert has_bfloat16(torch.device("xpu")) is units

    @pytest.mark.parametrize("kind", ["mps", "hpu"])
    def test_what_is_not_known_to_have_it_gets_float32(self, kind):
        assert choose_dtype("auto", torch.device(kind)) == torch.float32
        assert choose_dtype("bfloat16", torch.device(kind)) == torch.bfloat16, "but for those who ask"


class TestMemory:
    IMAGE = 64 * 32 * 32 * 2

    @pytest.mark.parametrize("kind", ["cuda", "xpu"])
    def test_a_batch_fits_what_is_free(self, machine, monkeypatch, kind):
        torch_module = torch.get_device_module(kind)
        for name, value in (("memory_reserved", 2**20), ("memory_allocated", 0)):
            monkeypatch.setattr(torch_module, name, lambda device, value=value: value)
        monkeypatch.setattr(torch_module, "mem_get_info", lambda device: (95 * 2**20, 2**35))
        assert free_memory(torch.device(kind)) == 96 * 2**20
        assert default_batch_size(self.IMAGE, torch.device(kind)) == 32

    def test_an_apple_gpu_shares_the_machines(self, machine, monkeypatch):
        monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 100 * 2**20)
        monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 4 * 2**20)
        assert default_batch_size(self.IMAGE, torch.device("mps")) == 32

    def test_a_device_that_does_not_tell_gets_full_batches(self, machine, monkeypatch):
        monkeypatch.setattr(torch, "get_device_module", lambda device: types.SimpleNamespace())
        assert default_batch_size(self.IMAGE, torch.device("hpu")) == 2048

    def test_any_devices_lack_of_memory_halves_a_batch(self):
        tried = []

        def function(images, ids):
            tried.append(len(images))
            if len(images) > 2:
                raise RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)")
            return ids

        found = list(in_halves(function, torch.zeros(4, 1, 1, 1), torch.arange(4)))
        assert (torch.cat(found).tolist(), tried) == ([0, 1, 2, 3], [4, 2, 2])

    def test_one_image_too_many_is_an_error_of_one_kind(self):
        def function(images, ids):
            raise RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)")

        with pytest.raises(torch.OutOfMemoryError, match="MPS backend"):
            list(in_halves(function, torch.zeros(2, 1, 1, 1), torch.arange(2)))

    def test_other_errors_are_no_lack_of_memory(self):
        tried = []

        def function(images, ids):
            tried.append(len(images))
            raise RuntimeError("shapes do not fit")

        with pytest.raises(RuntimeError, match="shapes do not fit"):
            list(in_halves(function, torch.zeros(4, 1, 1, 1), torch.arange(4)))
        assert tried == [4]


class TestFallback:
    @pytest.fixture(autouse=True)
    def fresh(self):
        device_for.cache_clear()
        yield
        device_for.cache_clear()

    def test_the_cpu_can(self, recwarn):
        assert device_for(float64_product, torch.device("cpu"), "products") == torch.device("cpu")
        assert not recwarn

    def test_one_warning_names_what_runs_on_the_cpu(self):
        device = torch.device("meta")
        with pytest.warns(UserWarning, match="Device 'meta' cannot do this exactly: sums .* runs on the CPU") as caught:
            assert [device_for(float64_product, device, "sums") for _ in range(3)] == [torch.device("cpu")] * 3
        assert len(caught) == 1

    def test_a_device_that_has_no_float64(self):
        def trial(device):
            if device.type != "cpu":
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support it")
            return float64_product(device)

        with pytest.warns(UserWarning, match="Cannot convert a MPS Tensor to float64"):
            assert device_for(trial, torch.device("mps"), "products") == torch.device("cpu")

    def test_a_device_that_gives_other_values(self):
        def trial(device):
            return torch.tensor([1 if device.type == "cpu" else 2])

        with pytest.warns(UserWarning, match="its results differ from the CPU's"):
            assert device_for(trial, torch.device("xpu"), "products") == torch.device("cpu")

    def test_a_device_that_can(self, recwarn):
        assert device_for(lambda device: torch.ones(1), torch.device("xpu"), "ones") == torch.device("xpu")
        assert not recwarn


def test_constructing_initializes_no_accelerator():
    PureGen(device="cuda")
    assert default_device().type != "cuda" or not torch.cuda.is_initialized()


def test_auto_is_float32_where_onednn_may_not_use_the_bfloat16_unit():
    """As on a processor without one: emulated, it would be many times slower."""
    code = (
        "import torch; from puregen_transforms.purifier.device import choose_dtype\n"
        "print(choose_dtype('auto', torch.device('cpu')))"
    )
    env = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == "torch.float32"
