"""Truncated diffusion against diffusers' own schedulers, from the same noise."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from puregen_transforms.functional.diffusion import (
    add_noise,
    alpha_bars_of,
    beta_schedule,
    ddpm_step,
    restore,
    timesteps_of,
)

BARS = alpha_bars_of(beta_schedule())


def predictor(images, timestep):
    """A stand-in for a network: smooth in the image, different at every timestep."""
    return torch.tanh(images * (1 + 0.01 * timestep)) + 0.1 * images.roll(1, 3)


def drawn(count, shape):
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def test_the_schedule_is_that_of_diffusers():
    assert torch.equal(beta_schedule(), DDPMScheduler().betas)
    assert torch.equal(BARS, DDPMScheduler().alphas_cumprod)


def test_forward_noising_is_that_of_diffusers(images):
    x = images[:3].float() / 127.5 - 1
    (noise,) = drawn(1, x.shape)
    timesteps = torch.tensor([0, 74, 999])
    expected = DDPMScheduler().add_noise(x, noise, timesteps)
    torch.testing.assert_close(add_noise(x, noise, BARS[timesteps]), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("calls", [1000, 200])
@pytest.mark.parametrize("index", [0, 1, 150, -2, -1])
def test_a_reverse_step_is_that_of_diffusers(images, monkeypatch, calls, index):
    stride = 1000 // calls
    x, noise = drawn(2, (4, 3, 32, 32))
    scheduler = DDPMScheduler(steps_offset=stride - 1)
    scheduler.set_timesteps(calls)
    timestep = int(scheduler.timesteps[index])
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *args, **kwargs: noise)
    expected = scheduler.step(predictor(x, timestep), timestep, x).prev_sample
    last = timestep < stride
    ours = ddpm_step(
        x,
        predictor(x, timestep),
        timestep=timestep,
        previous=timestep - stride,
        alpha_bars=BARS,
        noise=None if last else noise,
    )
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_the_whole_chain_is_that_of_diffusers(images, monkeypatch):
    """T steps: noised to the paper's step T (timestep T - 1), then one reverse step at each of T - 1, ..., 0."""
    x = images[:4].float() / 127.5 - 1
    steps = 75
    noises = drawn(steps, x.shape)
    ours = restore(x, predictor, steps=steps, alpha_bars=BARS, noise=lambda step, like: noises[step])

    scheduler = DDPMScheduler()
    current = scheduler.add_noise(x, noises[0], torch.full((4,), steps - 1))
    for timestep in range(steps - 1, -1, -1):
        monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, t=timestep, **k: noises[t])
        current = scheduler.step(predictor(current, timestep), timestep, current).prev_sample
    torch.testing.assert_close(ours, current, atol=1e-5, rtol=0)


def test_ddim_is_that_of_diffusers(images):
    x = images[:4].float() / 127.5 - 1
    (noise,) = drawn(1, x.shape)
    ours = restore(
        x, predictor, steps=75, alpha_bars=BARS, noise=lambda step, like: noise, solver="ddim", inference_steps=15
    )
    scheduler = DDIMScheduler(clip_sample=False, steps_offset=4)
    scheduler.set_timesteps(200)
    visited = [int(t) for t in scheduler.timesteps if t < 75]
    assert visited == timesteps_of(75, 15)
    current = add_noise(x, noise, BARS[74])
    for timestep in visited:
        current = scheduler.step(predictor(current, timestep), timestep, current).prev_sample
    torch.testing.assert_close(ours, current, atol=1e-5, rtol=0)


def test_dpmsolver_approaches_the_exact_solution_faster_than_ddim():
    """For Gaussian images the best predictor and the solution of the equation are known."""
    spread, steps = 0.5, 75

    def best(x, timestep):
        return (1 - BARS[timestep]).sqrt() * x / (BARS[timestep] * spread**2 + 1 - BARS[timestep])

    x, noise = drawn(2, (8, 3, 8, 8))
    x = spread * x
    exact = add_noise(x, noise, BARS[steps - 1]) * spread / (BARS[steps - 1] * spread**2 + 1 - BARS[steps - 1]).sqrt()

    def error(solver):
        ours = restore(
            x, best, steps=steps, alpha_bars=BARS, noise=lambda step, like: noise, solver=solver, inference_steps=10
        )
        return float((ours - exact).abs().mean())

    assert error("dpmsolver++") < 0.5 * error("ddim") < 0.05


def test_a_perfect_predictor_gives_the_image_back(images):
    x = images[:4].float() / 127.5 - 1
    (noise,) = drawn(1, x.shape)

    def perfect(noised, timestep):
        return (noised - BARS[timestep].sqrt() * x) / (1 - BARS[timestep]).sqrt()

    for solver in ("ddpm", "ddim", "dpmsolver++"):
        restored = restore(
            x,
            perfect,
            steps=50,
            alpha_bars=BARS,
            noise=lambda step, like: noise,
            solver=solver,
            inference_steps=10,
        )
        torch.testing.assert_close(restored, x, atol=2e-3, rtol=0)


def test_no_steps_change_nothing(images):
    x = images[:2].float() / 127.5 - 1
    assert torch.equal(restore(x, predictor, steps=0, alpha_bars=BARS, noise=lambda step, like: like), x)


@pytest.mark.parametrize("calls", [1, 7, 75])
def test_timesteps_fall_from_the_top_without_repeating(calls):
    visited = timesteps_of(75, calls)
    assert len(visited) == len(set(visited)) == calls
    assert visited[0] == 74
    assert visited == sorted(visited, reverse=True)
    assert visited[-1] >= 0


@pytest.mark.parametrize(
    ("steps", "calls", "message"), [(1001, None, "schedule"), (-1, None, "schedule"), (5, 6, "1 to")]
)
def test_impossible_chains(images, steps, calls, message):
    x = images[:1].float()
    with pytest.raises(ValueError, match=message):
        restore(x, predictor, steps=steps, alpha_bars=BARS, noise=lambda step, like: like, inference_steps=calls)


def test_an_image_that_is_not_finite_is_named(images):
    x = images[:3].float() / 127.5 - 1

    def broken(noised, timestep):
        predicted = torch.zeros_like(noised)
        predicted[1] = float("nan")
        return predicted

    with pytest.raises(FloatingPointError, match=r"\[1\]"):
        restore(x, broken, steps=2, alpha_bars=BARS, noise=lambda step, like: torch.zeros_like(like))
