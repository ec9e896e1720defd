import pytest
import torch
from torch import nn

from puregen_transforms.data.demo import CLASSES, load_demo
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection import SuspectSet, activations
from puregen_transforms.detection.activations import read_activations, read_suspects
from puregen_transforms.detection.classes import matching_reserved, reserved_rows
from puregen_transforms.functional.images import normalize
from puregen_transforms.models.classifiers import build_classifier
from puregen_transforms.models.features import features

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(activations, "_KEPT", type(activations._KEPT)())


@pytest.fixture(scope="module")
def demo():
    return load_demo()


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = build_classifier("tiny", 10)
    model(normalize(load_demo().images[:64]))  # so that running statistics are not 0 and 1
    return model.eval()


class Counted(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network, self.calls = network, 0

    def forward(self, images):
        self.calls += 1
        return self.network(images)


def test_what_is_read_is_what_the_layers_are_given(demo, network):
    images = demo.images[:10]
    found = read_activations(network, images, device=CPU)
    assert torch.allclose(found.features, features(network, normalize(images)), atol=1e-6)
    assert torch.allclose(found.logits, network(normalize(images)), atol=1e-6)
    assert [len(norm.usual) for norm in found.norms] == [8, 16, 16, 32, 32, 64, 64]
    given = network[:3](normalize(images))  # the second convolution's input
    given = network[3](given)
    assert torch.allclose(found.norms[1].highest, given.amax((2, 3)), atol=1e-5)
    assert torch.allclose(found.norms[1].mean, given.mean((2, 3)), atol=1e-5)
    assert torch.allclose(found.norms[1].lowest, given.amin((2, 3)), atol=1e-5)
    assert torch.allclose(found.norms[1].usual, network[4].running_mean)
    assert torch.allclose(found.norms[1].spread, (network[4].running_var + 1e-5).sqrt())
    assert found.norms[0].gradients is None


def test_gradients_are_those_of_the_own_logit(demo, network):
    images, labels = demo.images[:4], demo.labels[:4]
    found = read_activations(network, images, labels=labels, device=CPU)
    for row in range(4):
        given = network[:3](normalize(images[row : row + 1])).detach()
        given = network[3](given).detach().requires_grad_()
        network[4:](given)[0, labels[row]].backward()
        assert torch.allclose(found.norms[1].gradients[row], given.grad.mean((0, 2, 3)), atol=1e-7)


def test_frozen_weights_give_gradients_too_and_are_left_as_they_were(demo, network):
    network.requires_grad_(False).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = read_activations(network, demo.images[:4], labels=demo.labels[:4], device=CPU)
    assert all(norm.gradients.abs().sum() > 0 for norm in found.norms)
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_numbers_do_not_depend_on_whether_gradients_are_taken(demo, network):
    plain = read_activations(network, demo.images, device=CPU)
    activations._KEPT.clear()
    with_gradients = read_activations(network, demo.images, labels=demo.labels, device=CPU)
    assert torch.equal(plain.features, with_gradients.features)
    assert torch.equal(plain.logits, with_gradients.logits)
    for one, other in zip(plain.norms, with_gradients.norms, strict=True):
        assert torch.equal(one.highest, other.highest)
        assert torch.equal(one.lowest, other.lowest)


def test_gradients_are_taken_where_they_are_off(demo, network):
    with torch.inference_mode():
        found = read_activations(network, demo.images[:4], labels=demo.labels[:4], device=CPU)
    assert found.norms[0].gradients.abs().sum() > 0


def test_the_same_network_reads_the_same_images_once(demo, network):
    counted = Counted(network)
    first = read_activations(counted, demo.images, labels=demo.labels, device=CPU)
    calls = counted.calls
    assert read_activations(counted, demo.images.clone(), labels=demo.labels, device=CPU) is first
    assert read_activations(counted, demo.images, device=CPU) is first, "gradients do no harm"
    assert counted.calls == calls
    assert read_activations(counted, demo.images, labels=demo.labels.roll(1), device=CPU) is not first
    assert read_activations(counted, demo.images[:100], device=CPU) is not first
    with torch.no_grad():
        network[0].weight.mul_(2)
    assert read_activations(counted, demo.images, device=CPU) is not first, "other weights are another network"


def test_what_is_kept_is_bounded(demo, network, monkeypatch):
    monkeypatch.setattr(activations, "KEPT_BYTES", 100_000)
    first = read_activations(network, demo.images[:20], device=CPU)
    read_activations(network, demo.images[20:40], device=CPU)
    assert len(activations._KEPT) == 1
    again = read_activations(network, demo.images[:20], device=CPU)
    assert again is not first
    read_activations(network, demo.images, device=CPU)
    assert list(activations._KEPT.values()) == [again], "what is larger than the bound is not kept"


class TestBadInput:
    def test_no_labels_network_or_linear_layer(self, demo, network):
        with pytest.raises(ValueError, match="`network`"):
            read_suspects(SuspectSet(images=demo.images))
        with pytest.raises(ValueError, match="`labels`"):
            read_suspects(SuspectSet(images=demo.images, network=network), gradients=True)
        with pytest.raises(ValueError, match="ends in a linear layer"):
            read_activations(network[:-1], demo.images, device=CPU)

    def test_labels_of_another_set(self, demo, network):
        with pytest.raises(ValueError, match="network's 10 classes, but got 12"):
            read_activations(network, demo.images[:2], labels=torch.tensor([0, 12]), device=CPU)

    def test_a_network_that_gives_no_numbers(self, demo, network):
        with torch.no_grad():
            network[-1].weight[0] = torch.nan
        with pytest.raises(FloatingPointError, match="rows \\[0, 1\\]"):
            read_activations(network, demo.images[:2], device=CPU)

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            ([], "at least one image"),
            ([torch.zeros(3, 8, 8), None], "row 1 has none"),
            ([torch.zeros(3, 8, 8), torch.zeros(3, 9, 8)], "one size, .* but got 8x9 pixels in row 1 after 8x8"),
            (["here"], "row 0, but got: Expected a PIL image"),
        ],
    )
    def test_images_that_make_no_tensor(self, images, message):
        with pytest.raises(ValueError, match=message):
            SuspectSet(images=images).tensor()

    def test_images_of_any_form_make_one(self):
        found = SuspectSet(images=[torch.zeros(1, 8, 8, dtype=torch.uint8), torch.ones(3, 8, 8)]).tensor()
        assert (found.shape, found.dtype) == ((2, 3, 8, 8), torch.uint8)
        assert found.float().mean((1, 2, 3)).tolist() == [0, 255]

    def test_a_reserved_set_of_something_else(self, demo):
        def given(reserved, names=CLASSES):
            return SuspectSet(images=demo.images, labels=demo.labels, class_names=names, reserved=reserved)

        with pytest.raises(ValueError, match="`reserved`"):
            matching_reserved(given(None))
        mirrored = ImageSet(demo.images.flip(3), demo.labels, CLASSES)
        assert len(matching_reserved(given(mirrored))) == 200
        with pytest.raises(ValueError, match="32x32 pixels, as the suspects have, but got 16x16"):
            matching_reserved(given(ImageSet(demo.images[..., :16, :16], demo.labels, CLASSES)))
        with pytest.raises(ValueError, match="in this order, but got truck, ship"):
            matching_reserved(given(ImageSet(mirrored.images, demo.labels, CLASSES[::-1])))
        with pytest.raises(ValueError, match="not among the suspects, but 200 of 200 are"):
            matching_reserved(given(ImageSet(demo.images, demo.labels, CLASSES)))
        birds = mirrored.subset(demo.labels == 2)
        with pytest.raises(ValueError, match="at least 1 reserved image\\(s\\) of each class, .* 'airplane'"):
            reserved_rows(given(birds), matching_reserved(given(birds)), least=1)
