import math

import pytest
import torch

from puregen_transforms.detection.statistics import (
    NEIGHBORS,
    Directions,
    binomial_tail,
    fit_template,
    gumbel_tail,
    mean_pair_cosine,
    mean_spectrum,
    median_pair_cosine,
    null_shifts,
    robust_scores,
    shared_direction,
    thumbnails,
    whiten,
)

SIZE = (32, 32)
SHIFTS = null_shifts(SIZE, seed=0)


def noise(count, seed=0):
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


def directions(gradients, pictures=None):
    pictures = noise(len(gradients), seed=99) if pictures is None else pictures
    flat = torch.ones(3, SIZE[0], SIZE[1] // 2 + 1)
    return Directions(whitened=whiten(gradients, flat), pictures=thumbnails(pictures), size=SIZE)


def planted(count, carriers, strength=0.8, seed=0):
    """Unrelated gradients, the first `carriers` of which hold one pattern."""
    gradients, pattern = noise(count, seed), noise(1, seed + 1000)[0]
    gradients[:carriers] += strength * pattern
    return gradients


def test_robust_scores_ignore_a_few_extremes():
    values = torch.cat([torch.linspace(-1, 1, 101), torch.tensor([50.0, 60.0])])
    scores = robust_scores(values)
    assert scores[:101].abs().max() < 1.6
    assert scores[101:].min() > 50
    assert robust_scores(torch.ones(5)).tolist() == [0] * 5


@pytest.mark.parametrize(("count", "trials", "rate"), [(0, 10, 0.3), (3, 10, 0.3), (10, 10, 0.3), (7, 1000, 0.001)])
def test_binomial_tail(count, trials, rate):
    expected = sum(math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(count, trials + 1))
    assert binomial_tail(count, trials, rate) == pytest.approx(expected, rel=1e-9)


def test_gumbel_tail_is_that_of_standardized_gumbel_values():
    generator = torch.Generator().manual_seed(0)
    values = -(-torch.rand(400_000, generator=generator, dtype=torch.float64).log()).log()
    values = (values - values.mean()) / values.std()
    for score in (0.0, 1.0, 3.0):
        assert gumbel_tail(score) == pytest.approx(float((values > score).double().mean()), rel=0.05)
    assert 0 < gumbel_tail(20) < 1e-10


def test_whitening_evens_out_the_spectrum():
    smooth = torch.nn.functional.avg_pool2d(noise(200), 3, stride=1, padding=1)
    whitened = whiten(smooth, mean_spectrum(smooth))
    assert whitened.norm(dim=1).sub(1).abs().max() < 1e-5
    amplitude = torch.fft.rfft2(whitened.view(-1, 3, *SIZE)).abs().square().mean(0).sqrt()
    assert amplitude.max() / amplitude.min() < 1.5
    before = torch.fft.rfft2(smooth).abs().square().mean(0).sqrt()
    assert before.max() / before.min() > 5


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (224, 160), (8, 8), (4, 4)])
def test_null_shifts_move_everything(size):
    shifts = null_shifts(size, seed=1)
    assert shifts
    assert (0, 0) not in shifts
    assert len(set(shifts)) == len(shifts)
    if min(size) >= 16:
        assert all(down % 8 == right % 8 == 0 for down, right in shifts)


def test_unrelated_images_share_nothing():
    shared = shared_direction(directions(noise(200)), shifts=SHIFTS)
    assert shared.similarity < 0.1
    assert shared.p_value > 0.1


def test_a_few_carriers_stand_out_and_all_are_found():
    group = directions(planted(200, carriers=8))
    shared = shared_direction(group, shifts=SHIFTS)
    assert shared.similarity > 0.3
    assert shared.p_value < 1e-3
    assert set(shared.members.tolist()) <= set(range(8))
    template = fit_template(group.whitened, shared.members, size=SIZE, shifts=SHIFTS)
    assert template.carried_by(group.whitened).nonzero().flatten().tolist() == list(range(8))


def test_it_takes_more_carriers_than_neighbors():
    few = shared_direction(directions(planted(200, carriers=NEIGHBORS - 1)), shifts=SHIFTS)
    enough = shared_direction(directions(planted(200, carriers=NEIGHBORS + 1)), shifts=SHIFTS)
    assert few.similarity < enough.similarity


def test_copies_of_one_picture_do_not_count():
    pictures = noise(200, seed=7)
    pictures[:8] = pictures[0] + 0.01 * noise(8, seed=8)
    copied = shared_direction(directions(planted(200, carriers=8), pictures), shifts=SHIFTS)
    assert copied.p_value > 0.1


def test_what_other_classes_share_too_is_expected():
    gradients = planted(200, carriers=40)
    own, others = directions(gradients)[torch.arange(0, 200, 2)], directions(gradients)[torch.arange(1, 200, 2)]
    assert shared_direction(own, shifts=SHIFTS).p_value < 1e-3
    alike = shared_direction(own, shifts=SHIFTS, others=others)
    assert alike.elsewhere == pytest.approx(alike.similarity, abs=0.1)
    assert alike.p_value > 0.1


def test_a_pattern_in_tiles_matches_its_shifted_self():
    gradients, tile = noise(200), torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(5))
    gradients[:10] += tile.repeat(1, 4, 4)
    shared = shared_direction(directions(gradients), shifts=SHIFTS)
    assert shared.chance > 0.3
    assert shared.p_value > 0.1


def test_pair_cosines():
    vectors = torch.nn.functional.normalize(noise(30).flatten(1), dim=1)
    products = vectors @ vectors.T
    pairs = [float(products[i, j]) for i in range(30) for j in range(i)]
    assert mean_pair_cosine(vectors) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert median_pair_cosine(vectors) == pytest.approx(torch.tensor(pairs).median().item(), abs=1e-6)
