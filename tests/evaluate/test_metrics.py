import math

import pytest
import torch

from puregen_transforms.evaluate.metrics import auroc, detection, found_at, psnr, survival


def test_psnr():
    a = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    b = a.clone()
    b[1] += 5
    values = psnr(b, a)
    assert math.isinf(values[0])
    assert values[1].item() == pytest.approx(20 * math.log10(255 / 5), abs=1e-4)


def test_survival():
    clean = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    poisoned = clean + torch.tensor([8, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    half = clean + torch.tensor([4, 9, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    assert survival(clean, poisoned, clean, poisoned).tolist() == [1]
    assert survival(clean, poisoned, clean, clean).tolist() == [0]
    assert survival(clean, poisoned, clean, half).tolist() == [0.5], "what points elsewhere does not count"
    assert survival(clean, poisoned, clean + 10, poisoned + 10).tolist() == [1]


def test_auroc_counts_pairs():
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(0, 20, (50,), generator=generator).float() + 3
    b = torch.randint(0, 20, (70,), generator=generator).float()
    pairs = [1.0 if x > y else 0.5 if x == y else 0.0 for x in a for y in b]
    assert auroc(a, b) == pytest.approx(sum(pairs) / len(pairs))
    assert auroc(b + 100, a) == 1
    assert auroc(a, a) == pytest.approx(0.5)


def test_detection_by_hand():
    suspected = torch.tensor([True, True, False, False, True])
    poisoned = torch.tensor([True, False, False, True, True])
    found = detection(suspected, poisoned, torch.tensor([5.0, 4.0, 1.0, 2.0, 9.0]))
    assert found == pytest.approx({"tpr": 2 / 3, "fpr": 1 / 2, "auroc": 5 / 6, "found_at": 2 / 3})
    covers = torch.tensor([False, True, False, False, False])
    assert detection(suspected, poisoned, covers=covers) == pytest.approx({"tpr": 2 / 3, "fpr": 0.5, "untouched": 0.0})
    assert detection(suspected, torch.zeros(5, dtype=torch.bool)) == pytest.approx({"fpr": 0.6})


def test_what_is_found_at_few_false_alarms():
    negatives = torch.arange(1000).float()
    positives = torch.tensor([994.0, 994.5, 995.5, 2000.0])
    assert found_at(positives, negatives) == 3 / 4, "five of a thousand may score higher"
    assert found_at(positives, negatives[:10]) == 1
    assert found_at(torch.zeros(3), torch.zeros(10)) == 0, "what cannot be told apart is not found"
