import pytest
import torch

from puregen_transforms.functional import noise
from puregen_transforms.functional.fallback import device_for
from puregen_transforms.functional.noise import KeyedNoise, Window, keyed_normal, philox

KNOWN_ANSWERS = [  # kat_vectors of Random123, philox4x32
    (10, [0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    (10, [0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        10,
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
    (7, [0, 0, 0, 0], [0, 0], [0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48]),
    (7, [0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662]),
]


@pytest.mark.parametrize(("rounds", "counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_known_answers(rounds, counter, key, expected):
    words = philox(tuple(torch.tensor([c]) for c in counter), tuple(key), rounds)
    assert [int(word) for word in words] == expected


def normal(ids, *, seed=0, stage=0, step=0, size=(3, 32, 32)):
    ids = torch.as_tensor(ids)
    return keyed_normal(torch.Size((len(ids), *size)), seed=seed, sample_ids=ids, stage=stage, step=step)


def test_moments():
    x = normal(range(200)).double().flatten()  # 614,400 values
    assert abs(x.mean()) < 5e-3
    assert abs(x.var() - 1) < 1e-2
    assert abs((x**3).mean()) < 2e-2
    assert abs((x**4).mean() - 3) < 6e-2
    assert torch.isfinite(x).all()


def test_every_level_is_equally_likely():
    x = normal(range(400)).flatten()  # 1,228,800 values
    counts = torch.histc(torch.special.ndtr(x.double()), bins=64, min=0, max=1)
    expected = len(x) / 64
    assert ((counts - expected) ** 2 / expected).sum() < 104, "chi-square of 63 degrees of freedom, 0.1 %"
    assert abs(x.max() + x.min()) < 1e-5
    assert 4.2 < x.max() < 4.4


def test_tails_are_those_of_a_normal():
    x = normal(range(400)).flatten()
    for bound, share in [(1, 0.31731), (2, 0.04550), (3, 0.0027)]:
        assert (x.abs() > bound).float().mean().item() == pytest.approx(share, rel=0.03)


@pytest.mark.parametrize("change", ["id", "seed", "stage", "step", "neighbor"])
def test_values_are_uncorrelated(change):
    a = normal(range(100))
    b = {
        "id": lambda: normal(range(100, 200)),
        "seed": lambda: normal(range(100), seed=1),
        "stage": lambda: normal(range(100), stage=1),
        "step": lambda: normal(range(100), step=1),
        "neighbor": lambda: a.roll(1, dims=-1),
    }[change]()
    correlation = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
    assert abs(correlation) < 0.01  # 5.5 standard errors of 307,200 pairs


def test_a_sample_keeps_its_noise_in_any_batch():
    ids = torch.tensor([5, -(2**62), 17, 2**40, 0])
    whole = normal(ids)
    assert torch.equal(whole[[3, 0]], normal(ids[[3, 0]]))
    assert torch.equal(whole[1:2], normal(ids[1:2]))


def test_both_halves_of_seed_and_id_count():
    base = normal([0])
    assert not torch.equal(base, normal([2**32]))
    assert not torch.equal(base, normal([0], seed=2**32))
    assert torch.equal(base, normal([0], seed=2**64)), "seeds are taken modulo 2**64"


def test_odd_sizes_are_prefixes_of_the_same_stream():
    assert torch.equal(normal([1], size=(7,))[0], normal([1], size=(9,))[0, :7])


def test_keyed_noise_fixes_all_but_the_step():
    ids = torch.tensor([3, 4])
    noise = KeyedNoise(9, ids, stage=2)
    assert torch.equal(noise(5, torch.zeros(2, 3, 4, 4)), normal(ids, seed=9, stage=2, step=5, size=(3, 4, 4)))


@pytest.mark.parametrize("size", [(64, 48), (37, 43)])
def test_a_window_shows_the_values_of_the_whole(size, monkeypatch):
    monkeypatch.setattr(noise, "_BLOCKS_AT_ONCE", 20)
    height, width = size
    keyed = KeyedNoise(9, torch.tensor([3, -4]), stage=2)
    whole = keyed(5, torch.zeros(2, 3, height, width))
    for top, left, rows, columns in ((0, 0, height, width), (5, 3, 11, 17), (height - 1, width - 1, 1, 1)):
        part = torch.zeros(2, 3, rows, columns)
        shown = keyed.inside(Window(top, left, height, width))(5, part)
        assert torch.equal(shown, whole[..., top : top + rows, left : left + columns])


@pytest.mark.parametrize("bad", [{"stage": 256}, {"step": 2**24}, {"step": -1}])
def test_counters_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="Expected stage in"):
        normal([0], **bad)


def test_wrong_number_of_ids_is_refused():
    with pytest.raises(ValueError, match="Expected 2 sample ids"):
        keyed_normal(torch.Size((2, 3)), seed=0, sample_ids=torch.zeros(3, dtype=torch.int64), stage=0, step=0)


def test_a_device_that_cannot_draw_it_leaves_it_to_the_cpu(monkeypatch):
    asked = []

    def recorded(trial, device, what):
        asked.append(device.type)
        return device_for(trial, torch.device("meta"), what)  # computes, but has no values

    device_for.cache_clear()
    expected = normal([1, 2])
    monkeypatch.setattr(noise, "device_for", recorded)
    with pytest.warns(UserWarning, match="'meta' cannot do this exactly: the noise, in 64-bit integers") as caught:
        assert all(torch.equal(normal([1, 2]), expected) for _ in range(3))
    assert (len(caught), asked) == (1, ["cpu"] * 3)
    device_for.cache_clear()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cpu_and_gpu_agree():
    ids = torch.arange(8)
    on_gpu = keyed_normal(torch.Size((8, 3, 32, 32)), seed=1, sample_ids=ids.cuda(), stage=0, step=3)
    assert torch.equal(normal(ids, seed=1, step=3), on_gpu.cpu())


def test_no_samples_have_no_noise():
    empty = torch.empty(0, dtype=torch.int64)
    assert keyed_normal(torch.Size((0, 3, 4, 4)), seed=0, sample_ids=empty, stage=0, step=0).shape == (0, 3, 4, 4)
