import pytest
import torch
from references import reference_chain

from puregen_transforms.functional.langevin import langevin, temperature_for


def quadratic(x):
    return x.square().flatten(1).sum(1) / 2


def gaussian_noise(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda step, x: torch.randn(x.shape, generator=generator)


def test_matches_the_reference_loop():
    x = torch.rand(3, 3, 8, 8) * 2 - 1
    noise = [torch.randn_like(x) for _ in range(10)]
    ours = langevin(x, quadratic, steps=10, step_size=0.1, temperature=0.5, noise=lambda step, _: noise[step])
    torch.testing.assert_close(ours, reference_chain(quadratic, x, noise, epsilon=0.1, temperature=0.5))


def test_samples_a_gaussian_energy():
    # x <- (1 - a) x + e n with a = e^2 / 2T has variance e^2 / (1 - (1 - a)^2), close to T.
    step_size, temperature = 0.2, 0.5
    x = langevin(
        torch.zeros(64, 1, 16, 16), quadratic, steps=400, step_size=step_size, temperature=temperature,
        noise=gaussian_noise(),
    )  # fmt: skip
    a = step_size**2 / 2 / temperature
    assert x.mean().abs() < 0.02
    assert x.var().item() == pytest.approx(step_size**2 / (1 - (1 - a) ** 2), rel=0.03)


def test_no_steps_and_input_untouched():
    x = torch.rand(2, 3, 4, 4)
    before = x.clone()
    same = langevin(x, quadratic, steps=0, step_size=0.1, temperature=1, noise=gaussian_noise())
    assert torch.equal(same, before)
    langevin(x, quadratic, steps=3, step_size=0.1, temperature=1, noise=gaussian_noise())
    assert torch.equal(x, before)


def test_noise_scales():
    x = torch.rand(2, 3, 4, 4)
    drawn = []

    def noise(step, like):
        drawn.append(step)
        return torch.ones_like(like)

    settings = {"steps": 4, "step_size": 0.1, "temperature": 1.0, "noise": noise}
    y = langevin(x, quadratic, noise_scales=[1, 0.5, 0, 0], **settings)
    assert drawn == [0, 1], "noise that would be multiplied by 0 is not drawn"
    shrink = 1 - 0.1**2 / 2
    torch.testing.assert_close(y, x * shrink**4 + 0.1 * shrink**3 + 0.05 * shrink**2)
    with pytest.raises(ValueError, match="one noise scale per step"):
        langevin(x, quadratic, noise_scales=[1, 1], **settings)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_runs_where_gradients_are_off(mode):
    x = torch.rand(2, 3, 4, 4)
    expected = langevin(x, quadratic, steps=3, step_size=0.1, temperature=1, noise=gaussian_noise())
    with mode():
        inside = torch.rand(0) if mode is torch.no_grad else x.clone()
        y = langevin(x, quadratic, steps=3, step_size=0.1, temperature=1, noise=gaussian_noise())
        if mode is torch.inference_mode:
            assert inside.is_inference()
            y2 = langevin(inside, quadratic, steps=3, step_size=0.1, temperature=1, noise=gaussian_noise())
            assert torch.equal(y2, expected)
    assert torch.equal(y, expected)
    assert not y.requires_grad


def test_a_non_finite_energy_stops_with_step_and_sample():
    calls = []

    def bursts(x):
        calls.append(1)
        energies = quadratic(x)
        return energies + torch.tensor([0.0, float("nan"), 0.0]) if len(calls) == 3 else energies

    with pytest.raises(FloatingPointError, match=r"sample\(s\) \[1\].*step 2"):
        langevin(torch.zeros(3, 1, 2, 2), bursts, steps=5, step_size=0.1, temperature=1, noise=gaussian_noise())


def test_a_non_finite_image_stops_after_the_last_step():
    def steep(x):
        return (x.square() * 1e38).flatten(1).sum(1)

    with pytest.raises(FloatingPointError, match=r"sample\(s\) \[0\].*step 1"):
        langevin(torch.full((1, 1, 1, 1), 1.0), steep, steps=1, step_size=100, temperature=1e-3, noise=gaussian_noise())


def test_negative_steps_are_refused():
    with pytest.raises(ValueError, match="0 or more"):
        langevin(torch.zeros(1, 1, 1, 1), quadratic, steps=-1, step_size=1, temperature=1, noise=gaussian_noise())


def test_the_temperature_falls_with_the_area_of_the_images():
    assert temperature_for(torch.empty(1, 3, 32, 32), 1e-4, trained_size=32) == 1e-4
    assert temperature_for(torch.empty(1, 3, 64, 48), 1e-4, trained_size=32) == 1e-4 / 3
