from dataclasses import replace

import pytest
import torch

from puregen_transforms import PureGen
from puregen_transforms.detection import DetectionReport
from puregen_transforms.detection.searches import DOUBT, POISON, SEARCHES, UNLEARNABLE
from puregen_transforms.detection.verdict import Searched, conclude
from puregen_transforms.functional.images import to_signed
from puregen_transforms.hub.ebm import load_ebm, resolve_ebm
from puregen_transforms.inspection.dynamics import MARKS, Chain, Curves, Dynamics, Treatment, advise, sample_for, study
from puregen_transforms.models.ebm_inference import FrozenEBM, InvariantEBM
from puregen_transforms.purifier.device import choose_dtype
from puregen_transforms.transforms.content import content_ids


@pytest.fixture(scope="module")
def chain(tiny_checkpoint):
    model = load_ebm(resolve_ebm(tiny_checkpoint))
    fast = InvariantEBM(model, dtype=choose_dtype("auto", torch.device("cpu")))
    return Chain(fast, InvariantEBM(model), model.config.image_size, seed=3)


@pytest.mark.parametrize("size", [32, 48])
def test_a_chain_passes_through_the_images_of_puregen(chain, tiny_checkpoint, images, size):
    start = torch.nn.functional.interpolate(images[:2].float(), size).to(torch.uint8)
    marks = (0, 7, 20)
    stops = chain.stops(to_signed(start), content_ids(start), marks)
    assert torch.equal(stops[0], start)
    for steps, stop in zip(marks, stops, strict=True):
        assert torch.equal(stop, PureGen(checkpoint=tiny_checkpoint, ebm_steps=steps, seed=3)(start))


def test_study_compares_both_groups(chain, images):
    reports = []
    dynamics = study(
        chain, images[:3], images[3:8], rows=[5, 6, 7], gauge=None, at_once=4, progress=lambda *r: reports.append(r)
    )
    assert reports[-1][1:] == (8, 8)
    assert dynamics.repaired.shape == (3, 3, 32, 32)
    assert dynamics.left == ()
    assert dynamics.rows == (5, 6, 7)
    for curves in (dynamics.suspicious, dynamics.typical):
        assert curves.distance[0] == 0
        assert list(curves.distance) == sorted(curves.distance), "images move away from where they started"
        assert all(list(levels) == sorted(levels) for levels in curves.energy)
    start = chain.energies(images[:3])
    assert dynamics.suspicious.energy[0][2] == pytest.approx(float(start.median()))
    names = [treatment.words for treatment in dynamics.treatments]
    assert names == ["ebm, 150 steps", "ebm, 300 steps", "jpeg, quality 50", "jpeg, quality 25"]
    assert dynamics.treatments[3].cost > dynamics.treatments[2].cost > 0


def test_study_measures_no_more_images_at_once_than_it_may(chain, tiny_checkpoint, images):
    sizes = []

    class Measure(FrozenEBM):
        def __call__(self, batch):
            sizes.append(len(batch))
            return super().__call__(batch)

    measure = Measure(load_ebm(resolve_ebm(tiny_checkpoint)))
    study(replace(chain, measure=measure), images[:3], images[3:8], rows=[5, 6, 7], gauge=None, at_once=2)
    assert max(sizes) <= 2


def curves(medians):
    return Curves(
        distance=tuple(float(mark) for mark in MARKS),
        energy=tuple((m - 0.2, m - 0.1, m, m + 0.1, m + 0.2) for m in medians),
    )


def dynamics(medians, left=()):
    treatment = Treatment(words="", energy=0.0, usual=(0.0, 0.0), left=None, cost=0.0)
    return Dynamics(
        suspicious=curves(medians),
        typical=curves([0.0] * len(MARKS)),
        left=tuple(left),
        treatments=(treatment,),
        rows=(),
        repaired=torch.zeros(0),
    )


HIGH = [1.0] * len(MARKS)
AT_200 = [1.0 if mark < 200 else 0.05 for mark in MARKS]
GONE_AT_250 = [1.0 if mark < 250 else 0.1 for mark in MARKS]


def test_back_in_range_is_the_first_step_that_lasts():
    assert dynamics(HIGH).back_in_range() is None
    assert dynamics(AT_200).back_in_range() == 200
    relapse = list(AT_200)
    relapse[MARKS.index(20)] = 0.0
    assert dynamics(relapse).back_in_range() == 200
    assert dynamics([0.0] * len(MARKS)).back_in_range() == 0


def test_pattern_gone():
    assert dynamics(HIGH, GONE_AT_250).pattern_gone() == 250
    assert dynamics(HIGH, [1.0] * len(MARKS)).pattern_gone() is None
    assert dynamics(HIGH).pattern_gone() is None


def verdict(flagged=0, doubtful=0, images=100):
    """Conclude from one search that flags the first images, and one that doubts those after them."""
    report = DetectionReport(scores=torch.zeros(images), flagged=torch.arange(images) < flagged)
    unsure = (torch.arange(images) >= flagged) & (torch.arange(images) < flagged + doubtful)
    doubts = DetectionReport(scores=torch.zeros(images), flagged=unsure)
    stamps = next(one for one in SEARCHES if one.means == POISON)
    confusion = next(one for one in SEARCHES if one.means == DOUBT)
    made = [Searched(search=stamps, report=report), Searched(search=confusion, report=doubts)]
    return conclude(made, [], images)


def test_advice_where_nothing_was_found_leaves_nothing_out_and_says_what_could_be_missed():
    advice = advise(verdict())
    assert (advice.action, advice.call) == ("nothing", "PureGen()")
    assert "missed" in advice.sentences[0]
    doubtful = advise(verdict(doubtful=3), dynamics(HIGH))
    assert doubtful.action == "look"
    assert "3 doubtful images" in doubtful.sentences[0]


def test_purification_is_offered_in_place_of_leaving_out_only_if_energy_and_pattern_go():
    advice = advise(verdict(10), dynamics(AT_200, GONE_AT_250))
    assert (advice.action, advice.steps, advice.call) == ("remove", 250, "PureGen(ebm_steps=250)")
    assert "purify with 250 Langevin steps" in advice.sentences[1]
    options = {"checkpoint": "owner/it's", "seed": 3}
    advice = advise(verdict(10), dynamics(AT_200, GONE_AT_250), options=options)
    assert advice.call == """PureGen(ebm_steps=250, checkpoint="owner/it's", seed=3)"""
    for medians, left in ((AT_200, [1.0] * len(MARKS)), (HIGH, GONE_AT_250), (AT_200, ())):
        advice = advise(verdict(10), dynamics(medians, left))
        assert (advice.action, advice.steps) == ("remove", 150)
        assert "10 images" in advice.sentences[0]
        assert "10.00% of the set" in advice.sentences[0]
        assert "Do not rely on purification alone" in advice.sentences[1]


def test_advice_on_a_set_made_unlearnable_names_both_halves_of_what_helps():
    traces = next(one for one in SEARCHES if one.means == UNLEARNABLE)
    report = DetectionReport(scores=torch.full((100,), 2.0), flagged=torch.ones(100, dtype=torch.bool))
    made = conclude([Searched(search=traces, report=report)], [], 100)
    advice = advise(made, options={"checkpoint": "owner/energies", "seed": 3})
    assert (advice.action, advice.call) == ("weaken", "PureGen(method='eclipse', seed=3)")
    assert "eclipse_compensation" in advice.sentences[1]


def test_advice_without_a_sample_says_nothing_of_what_is_left():
    advice = advise(verdict(10))
    assert (advice.action, len(advice.sentences)) == ("remove", 2)


def test_advice_never_goes_below_the_default_steps():
    fast = replace(dynamics([0.0] * len(MARKS)), left=tuple([1.0] + [0.0] * (len(MARKS) - 1)))
    assert advise(verdict(10), fast).steps == 150


def test_fewer_large_images_are_purified():
    assert [sample_for((side, side)) for side in (0, 32, 90, 128, 224, 256, 257, 4000)] == [32, 32, 32, 16, 5, 4, 0, 0]
