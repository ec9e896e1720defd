"""How far the images of both paths of `purify_speed.py` are apart: the plain float32 loop, and ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from references import reference_chain, reference_energy, reference_restore
from torch import Tensor

from puregen_transforms.data.demo import add_trigger, load_demo
from puregen_transforms.evaluate.metrics import auroc, psnr_of_set, survival
from puregen_transforms.functional.diffusion import alpha_bars_of, beta_schedule, restore
from puregen_transforms.functional.images import to_signed, to_uint8
from puregen_transforms.functional.langevin import langevin
from puregen_transforms.functional.noise import KeyedNoise
from puregen_transforms.hub.ddpm import load_unet, resolve_ddpm
from puregen_transforms.hub.ebm import load_ebm, resolve_ebm
from puregen_transforms.models.ebm_inference import FrozenEBM
from puregen_transforms.models.unet_inference import FrozenUNet
from puregen_transforms.purifier.config import LangevinConfig
from puregen_transforms.purifier.device import choose_dtype

PAPER_STEPS = {"ebm": 150, "ddpm": 75}
PAPER = LangevinConfig()


def weights_of(model: torch.nn.Module, device: torch.device) -> dict[str, Tensor]:
    """Bring a state dict to a device."""
    return {name: value.detach().to(device) for name, value in model.state_dict().items()}


def name_of(dtype: torch.dtype) -> str:
    """Without "torch."."""
    return str(dtype).removeprefix("torch.")


def dtypes_on(device: torch.device) -> list[torch.dtype]:
    """float32, and what the device is fastest in."""
    return list(dict.fromkeys((torch.float32, choose_dtype("auto", device))))


def agreement(device: torch.device, count: int) -> dict[str, Any]:
    """Whole chains by both paths, packaged weights, same noise: of the 8-bit images, and what is measured on them."""
    demo = load_demo()
    triggered = add_trigger(demo.images[:count], demo.trigger)
    clean, poisoned = (to_signed(images).to(device) for images in (demo.images[:count], triggered))
    model, unet, betas = (
        load_ebm(resolve_ebm(None)),
        load_unet(resolve_ddpm()).to(device).eval(),
        beta_schedule(),
    )
    weights, measure = weights_of(model, device), FrozenEBM(model, device=device)
    drawn = KeyedNoise(0, torch.arange(count, device=device))

    def energies(images: Tensor) -> Tensor:
        return torch.cat([measure(to_signed(part)) for part in images.split(32)])

    def langevin_reference(x: Tensor) -> Tensor:
        noise = [drawn(step, x) for step in range(PAPER.steps)]
        options = {"epsilon": PAPER.step_size, "temperature": PAPER.temperature}
        return reference_chain(lambda x: reference_energy(weights, x), x, noise, **options)

    def langevin_ours(x: Tensor, dtype: torch.dtype) -> Tensor:
        energy = FrozenEBM(model, dtype=dtype, device=device)
        options = {"step_size": PAPER.step_size, "temperature": PAPER.temperature}
        return langevin(x, energy, steps=PAPER.steps, noise=drawn, **options)

    @torch.no_grad()
    def restored_reference(x: Tensor) -> Tensor:
        noise = [drawn(t, x) for t in range(PAPER_STEPS["ddpm"])]
        return reference_restore(lambda x, t: unet(x, t).sample, x, noise, betas=betas)

    def restored_ours(x: Tensor, dtype: torch.dtype) -> Tensor:
        predict = FrozenUNet(unet, dtype=dtype)
        return restore(x, predict, steps=PAPER_STEPS["ddpm"], alpha_bars=alpha_bars_of(betas), noise=drawn)

    paths: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, torch.dtype], Tensor]]] = {
        "ebm": (langevin_reference, langevin_ours),
        "ddpm": (restored_reference, restored_ours),
    }

    def merits(pair: tuple[Tensor, Tensor]) -> dict[str, float]:
        return {
            "psnr_clean": psnr_of_set(pair[0], demo.images[:count]),
            "survival": survival(demo.images[:count], triggered, *pair).mean().item(),
            "auroc_after": auroc(energies(pair[1]), energies(pair[0])),
        }

    result: dict[str, Any] = {"images": count}
    for kind, (slow, fast) in paths.items():
        expected = tuple(to_uint8(slow(x)).cpu() for x in (clean, poisoned))
        result[kind] = {"steps": PAPER_STEPS[kind], "reference": merits(expected)}
        for dtype in dtypes_on(device):
            found = tuple(to_uint8(fast(x, dtype)).cpu() for x in (clean, poisoned))
            apart = (found[0].int() - expected[0].int()).abs().float()
            result[kind][name_of(dtype)] = {
                "mean_difference_of_255": apart.mean().item(),
                "largest_difference_of_255": apart.max().item(),
                **merits(found),
            }
        print(json.dumps({kind: result[kind]}), flush=True)
    return result
