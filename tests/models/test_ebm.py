import pytest
import torch
from huggingface_hub import PyTorchModelHubMixin
from references import reference_chain, reference_energy
from safetensors.torch import load_file
from torch import nn

from puregen_transforms.functional.langevin import langevin
from puregen_transforms.hub.ebm import load_ebm, resolve_ebm
from puregen_transforms.models.config import EBMConfig
from puregen_transforms.models.ebm import EBM
from puregen_transforms.models.ebm_inference import FrozenEBM


class Published(nn.Module, PyTorchModelHubMixin):
    """A stranger's module with the official keys and config keys, saved by the plain Hub mixin."""

    def __init__(self, nf: int = 128, patch_size: int = 1):
        super().__init__()
        channels = 3 * patch_size**2

        def conv(a: int, b: int, k: int) -> nn.Conv2d:
            layer = nn.Conv2d(a, b, k)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=0.1)
            return layer

        def block(a: int, shortcut: bool) -> nn.ModuleDict:
            layers = {"c1": conv(a, nf, 3), "c2": conv(nf, nf, 3)}
            return nn.ModuleDict({**layers, "c_sc": conv(a, nf, 1)} if shortcut else layers)

        self.block1, self.block2 = block(channels, True), block(nf, True)
        self.block3, self.block4 = block(nf, False), block(nf, False)
        self.l5 = nn.Linear(nf, 1, bias=False)


@pytest.mark.parametrize(("nf", "patch_size"), [(128, 1), (16, 2)])
def test_official_layout_gives_the_reference_energies_and_chain(tmp_path, nf, patch_size):
    torch.manual_seed(0)
    Published(nf=nf, patch_size=patch_size).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    model = load_ebm(resolve_ebm(tmp_path))
    assert (model.config.nf, model.config.patch_size, model.config.image_size) == (nf, patch_size, 32)
    x = torch.rand(4, 3, 32, 32) * 2 - 1

    def reference(images):
        return reference_energy(weights, images, patch_size=patch_size)

    frozen = FrozenEBM(model)
    torch.testing.assert_close(model(x), reference(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(frozen(x), reference(x), rtol=1e-4, atol=1e-5)

    noise = [torch.randn_like(x) for _ in range(10)]
    expected = reference_chain(reference, x, noise, epsilon=1.25e-2, temperature=1e-3)
    assert (expected - x).abs().mean() > 0.02, "the chain must go somewhere for the comparison to mean anything"
    for energy in (model, frozen):
        ours = langevin(x, energy, steps=10, step_size=1.25e-2, temperature=1e-3, noise=lambda step, _: noise[step])
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_published_size():
    assert sum(p.numel() for p in EBM().parameters()) == 1_053_824


def with_autograd(model, images):
    x = images.clone().requires_grad_()
    energies = model(x)
    return energies.detach(), torch.autograd.grad(energies.sum(), x)[0]


def made(**config):
    torch.manual_seed(0)
    model = EBM(EBMConfig(**config))
    for p in model.parameters():
        nn.init.normal_(p, std=0.2)
    return model


@pytest.mark.parametrize("size", [(32, 32), (33, 35), (5, 7), (64, 48)])
def test_frozen_form_is_exact_at_any_size(size):
    model, x = made(nf=8), torch.rand(3, 3, *size) * 2 - 1
    energies, gradient = FrozenEBM(model).with_gradient(x)
    expected_energies, expected_gradient = with_autograd(model, x)
    torch.testing.assert_close(energies, expected_energies, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)
    assert torch.equal(FrozenEBM(model)(x), energies)


def test_frozen_form_unshuffles_patches():
    model, x = made(nf=8, patch_size=2), torch.rand(3, 3, 32, 24) * 2 - 1
    for found, expected in zip(FrozenEBM(model).with_gradient(x), with_autograd(model, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_frozen_form_shares_nothing():
    model = EBM(EBMConfig(nf=4))
    frozen = FrozenEBM(model)
    assert all(p.requires_grad for p in model.parameters())
    x = torch.zeros(1, 3, 8, 8)
    before = frozen(x)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    assert torch.equal(frozen(x), before)
    assert not torch.equal(FrozenEBM(model)(x), before)


@pytest.mark.parametrize("size", [(32, 32), (33, 35), (5, 7)])
@pytest.mark.parametrize("nf", [4, 16, 64])
def test_reduced_precision_stays_close(nf, size):
    torch.manual_seed(0)
    model, x = EBM(EBMConfig(nf=nf)), torch.rand(8, 3, *size) * 2 - 1
    energies, gradient = FrozenEBM(model, dtype=torch.bfloat16).with_gradient(x)
    assert energies.dtype == gradient.dtype == torch.float32
    assert gradient.shape == x.shape
    expected_energies, expected_gradient = with_autograd(model, x)
    torch.testing.assert_close(energies, expected_energies, rtol=0.05, atol=0.01)
    assert (gradient - expected_gradient).norm() < 0.12 * expected_gradient.norm()


@pytest.mark.parametrize("values", [{"nf": 0}, {"nf": True}, {"patch_size": -1}, {"image_size": 3.5}])
def test_config_checks(values):
    with pytest.raises(ValueError, match="positive integer"):
        EBMConfig(**values)


def test_config_round_trip():
    config = EBMConfig(nf=7, patch_size=2, image_size=64)
    assert EBMConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="nff"):
        EBMConfig.from_dict({"nff": 3})
