"""The Victim and The Beneficiary: its parts by hand, its schedule, and what it does to a small backdoor."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from puregen_transforms.defenses import VictimBeneficiary, build_training_defense
from puregen_transforms.defenses.beneficiary import Beneficiary
from puregen_transforms.defenses.prediction_entropy import (
    EntropySplit,
    prediction_entropy,
    scaled_to_unit,
    smoothed,
)
from puregen_transforms.defenses.suppression import Suspects, agreed_targets, suppressed
from puregen_transforms.defenses.training_defense import Hooked
from puregen_transforms.defenses.victim import Victim
from puregen_transforms.detection import DetectionReport
from puregen_transforms.evaluate.metrics import detection
from puregen_transforms.evaluate.victim import accuracy
from puregen_transforms.train.batches import shuffled_batches
from puregen_transforms.train.recipes import FastRecipe, StepRecipe
from tests.defenses.constructed import backdoored, builder, stamped

SHORT = VictimBeneficiary(epochs=4, clean_epochs=2, weight_rise=3, resplit_every=2, batch=16)


def train(defense, images, labels, seed=0, build=None, **options):
    build = build or builder()
    return defense.train(build, images, labels, recipe=FastRecipe(batch=16), seed=seed, **options)


@pytest.fixture
def few():
    """Forty images, four of them poisoned."""
    images, labels, _, is_poisoned = backdoored(40, 4)
    return images, labels, is_poisoned


def same_weights(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_entropy_by_hand():
    """It is a mean over classes, as published, not the sum."""
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [200.0, 0.0]])
    expected = [math.log(2) / 2, -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / 2, 0.0]
    torch.testing.assert_close(prediction_entropy(logits), torch.tensor(expected))


def test_entropies_are_smoothed_before_they_are_scaled():
    assert smoothed(torch.tensor([1.0]), None, 0.75).item() == 1
    assert smoothed(torch.tensor([1.0]), torch.tensor([3.0]), 0.75).item() == 1.5
    assert scaled_to_unit(torch.tensor([1.0, 2.0, 5.0])).tolist() == [0, 0.25, 1]
    tailed = scaled_to_unit(torch.tensor([-90.0, 1.0, 2.0, 5.0, 70.0]), tail=0.25)
    assert tailed.tolist() == [0, 0, 0.25, 1, 1]
    split = EntropySplit(0.75)
    looks = [torch.tensor([[4.0, 0.0], [2.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 0.0]])]
    split.look(looks[0], 0.5)
    found = split.look(looks[1], 0.5)
    raw = 0.75 * prediction_entropy(looks[1]) + 0.25 * prediction_entropy(looks[0])
    torch.testing.assert_close(split.entropy, raw)
    assert found.tolist() == [False, True, False]
    torch.testing.assert_close(split.suspicion[[1, 2]], torch.tensor([1.0, 0.0]))


def test_where_all_entropies_are_alike_nothing_is_suspicious():
    split = EntropySplit(0.75)
    assert not split.look(torch.zeros(5, 3), 0.99).any()
    assert split.suspicion.tolist() == [0] * 5


def test_targets_by_hand():
    onehot = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    beliefs = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]])
    torch.testing.assert_close(suppressed(onehot, beliefs), torch.tensor([[0.3, 0, 0], [0, 0.8, 0]]))
    first, second = torch.tensor([[2.0, 0.0, 1.9]]), torch.tensor([[0.0, 2.0, 1.9]])
    assert agreed_targets(first, second).tolist() == [[0, 0, 1]], "no view's own favorite, but that of both"


def test_batches_of_rows():
    rows = torch.arange(10, 21)
    found = shuffled_batches(rows, 5, generator())
    assert [len(one) for one in found] == [5, 6], "none of a single image"
    assert torch.cat(found).sort().values.tolist() == rows.tolist()
    assert [len(one) for one in shuffled_batches(rows, 4, generator())] == [4, 4, 3]
    assert [len(one) for one in shuffled_batches(rows[:1], 4, generator())] == [1]
    assert shuffled_batches(rows[:0], 4, generator()) == []


def test_suspicious_images_are_dealt_out_to_the_batches():
    def dealt(count, batches):
        suspects = Suspects(rows=torch.arange(count), weight=1.0, victim=None, temperature=3.0)
        return suspects.batches(batches, generator())

    assert [len(one) for one in dealt(11, 3)] == [3, 3, 3]
    assert [len(one) for one in dealt(2, 5)] == [1] * 5
    assert {int(row) for one in dealt(2, 5) for row in one} == {0, 1}
    assert dealt(0, 5) == []


def beneficiary(recipe=None, **settings):
    options = {"classes": 4, "epochs": 2, "images": 40, "batch": 8, "mix_threshold": None, "generator": generator()}
    return Beneficiary(builder()(), recipe or StepRecipe(epochs=2, milestones=(1,)), **{**options, **settings})


def test_the_loss_of_soft_targets_by_hand():
    network, views = beneficiary(), torch.randn(4, 3, 8, 8, generator=generator())
    network.model.eval()
    targets = torch.rand(4, 4, generator=generator())
    chances = network._scores(views).log_softmax(1)
    torch.testing.assert_close(network._mean_loss(network._scores(views), targets), -(targets * chances).sum(1).mean())


def test_the_victims_beliefs_are_those_of_cooled_logits(few):
    images = few[0][:6]
    victim = Victim(builder()(), batch=16, generator=generator())
    suspects = Suspects(rows=torch.arange(6), weight=0.1, victim=victim, temperature=3.0)
    beliefs = (victim.logits(images) / 3).softmax(1)
    torch.testing.assert_close(suspects.suppressed(torch.ones(6, 4), images), 1 - beliefs)


def test_distrusted_labels_are_learned_of_no_suspicious_image(few):
    images = few[0][:2]
    views = torch.tensor([[5.0, 0, 0, 0], [0, 5, 0, 0], [4, 0, 1, 0], [0, 4, 1, 0]])  # classes 0 and 1, in both views
    plain = Suspects(rows=torch.arange(2), weight=0.1, victim=None, temperature=3.0)
    rows = torch.tensor([7, 3])
    assert plain.targets_of(views, rows, images).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]
    distrusted = torch.full((8,), 2).index_fill(0, rows[1:], 1)
    correcting = replace(plain, distrusted=distrusted)
    assert correcting.targets_of(views, rows, images).tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("mix_threshold", [None, 0.1])
def test_an_epoch_moves_all_weights_and_makes_the_rates_of_an_epoch(few, mix_threshold):
    """With fewer rows, too, the rate falls after the epoch: steps are missing, not rates."""
    images, labels, _ = few
    network = beneficiary(mix_threshold=mix_threshold)
    before = [value.clone() for value in network.model.parameters()]
    network.learn(images, labels, torch.arange(12))
    assert all((a != b).any() for a, b in zip(before, network.model.parameters(), strict=True))
    assert network.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_a_single_suspicious_image_does_not_decide_what_is_usual():
    """Batch norms see it among all others: in batches of its own it would be half of what they have seen last."""
    images, labels = torch.full((17, 3, 8, 8), 128, dtype=torch.uint8), torch.zeros(17, dtype=torch.int64)
    images[16] = 255
    network = beneficiary(images=17, batch=16)
    suspects = Suspects(rows=torch.tensor([16]), weight=0.1, victim=None, temperature=3.0)
    for _ in range(40):
        network.learn(images, labels, torch.arange(16), suspects)
    convolution, norm = network.model[0], network.model[1]
    with torch.no_grad():
        usual, odd = (convolution(torch.full((1, 3, 8, 8), value))[0, :, 4, 4] for value in (0.004, 1.0))
    assert ((norm.running_mean - usual) / (odd - usual)).abs().max() < 0.2


@pytest.fixture
def spied(monkeypatch):
    """What the parts of a training are told to do, in order; they still do it."""
    calls = []
    look, victim, learn = EntropySplit.look, Victim.learn, Beneficiary.learn

    def looked(self, logits, threshold):
        found = look(self, logits, threshold)
        calls.append(("look", threshold))
        return found

    def victim_learned(self, images, labels, rows):
        calls.append(("victim", len(rows)))
        return victim(self, images, labels, rows)

    def learned(self, images, labels, credible, suspects=None):
        calls.append(("beneficiary", None if suspects is None else (suspects.weight, suspects.victim is not None)))
        return learn(self, images, labels, credible, suspects)

    monkeypatch.setattr(EntropySplit, "look", looked)
    monkeypatch.setattr(Victim, "learn", victim_learned)
    monkeypatch.setattr(Beneficiary, "learn", learned)
    return calls


def told(calls):
    return [(who, what) if who != "victim" else who for who, what in calls]


def test_the_published_schedule(few, spied):
    images, labels, _ = few
    train(replace(SHORT, epochs=5), images, labels)
    after_epoch = ["victim", ("look", 0.2)]
    assert spied[0] == ("victim", 40)
    assert all(count < 40 for who, count in spied[1:] if who == "victim")
    assert told(spied) == [
        "victim",
        ("look", 0.6),
        "victim",
        ("look", 0.2),
        "victim",
        ("look", 0.2),
        ("beneficiary", None),
        ("beneficiary", None),
        *after_epoch,
        ("beneficiary", (0.1, True)),
        *after_epoch,
        ("beneficiary", (0.5, True)),
        *after_epoch,
        ("beneficiary", (0.5, True)),
        *after_epoch,
    ]


def test_the_warm_up_begins_with_so_many_steps(few, spied):
    """Forty images are three batches; seven steps need three passes. Then comes one for each threshold."""
    images, labels, _ = few
    defense = replace(SHORT, warmup_steps=7, epochs=1)
    assert defense.passes(40) == 6
    train(defense, images, labels)
    assert told(spied)[:8] == [*["victim"] * 3, ("look", 0.6), "victim", ("look", 0.2), "victim", ("look", 0.2)]
    assert VictimBeneficiary().passes(50_000) == 203, "as published"


def test_what_the_victim_thought_of_the_images_is_told(few):
    images, labels, is_poisoned = few
    trained = train(replace(SHORT, warmup_steps=7), images, labels)
    assert [look.epoch for look in trained.looks] == [3, 4, 5, 7, 8, 9], (
        "after three passes, twice after one, then after epochs"
    )
    assert torch.equal(trained.looks[-1].flagged, trained.flagged)
    assert torch.equal(trained.looks[-1].scores, trained.scores)
    for look, threshold in zip(trained.looks, (0.6, 0.2, 0.2, 0.2, 0.2, 0.2), strict=True):
        assert torch.equal(look.flagged, 1 - look.scores <= threshold)
    assert train(SHORT, images, labels, flags=is_poisoned).looks == []


def test_what_a_detector_flags_is_suspicious_and_stays_so(few, spied):
    images, labels, is_poisoned = few
    trained = train(SHORT, images, labels, flags=is_poisoned)
    assert torch.equal(trained.flagged, is_poisoned)
    assert trained.scores is None
    assert {who for who, _ in spied} == {"victim", "beneficiary"}, "nobody looks for poison"
    assert {count for who, count in spied if who == "victim"} == {4}
    report = DetectionReport(scores=torch.rand(40), flagged=is_poisoned)
    again = train(SHORT, images, labels, flags=report)
    assert same_weights(again.model, trained.model)
    assert torch.equal(again.scores, report.scores)


@pytest.mark.parametrize("suspicious", ["relabel", "correct", "drop"])
def test_no_victim_is_trained_where_a_detector_has_split_and_nothing_is_suppressed(few, spied, suspicious):
    images, labels, is_poisoned = few
    defense = replace(SHORT, suspicious=suspicious)
    train(defense, images, labels, flags=is_poisoned)
    assert defense.passes(40, is_poisoned) == 4
    assert {who for who, _ in spied} == {"beneficiary"}
    assert [what for _, what in spied][:2] == [None, None]
    assert [what for _, what in spied][2:] == ([None] * 2 if suspicious == "drop" else [(0.1, False), (0.5, False)])


def test_dropped_images_are_never_learned(few):
    """Whatever they are, the result is the same."""
    images, labels, is_poisoned = few
    defense = replace(SHORT, suspicious="drop")
    first = train(defense, images, labels, flags=is_poisoned)
    images, labels = images.clone(), labels.clone()
    images[is_poisoned], labels[is_poisoned] = 255 - images[is_poisoned], 1
    assert same_weights(train(defense, images, labels, flags=is_poisoned).model, first.model)


def test_a_training_killed_after_every_pass_ends_with_the_same_weights(few, tmp_path):
    images, labels, _ = few
    told_whole, told_last = [], []
    whole = train(SHORT, images, labels, progress=lambda epoch, loss: told_whole.append(loss))

    class KilledError(Exception):
        pass

    for death in range(1, SHORT.passes(40) + 1):

        def die(epoch, loss, death=death):
            if epoch == death:
                raise KilledError

        with pytest.raises(KilledError):
            train(SHORT, images, labels, state=tmp_path, progress=die)
    resumed = train(SHORT, images, labels, state=tmp_path, progress=lambda epoch, loss: told_last.append(loss))
    assert same_weights(whole.model, resumed.model)
    assert told_last == told_whole
    assert torch.equal(whole.flagged, resumed.flagged)
    for first, second in zip(whole.looks, resumed.looks, strict=True):
        assert first.epoch == second.epoch
        assert torch.equal(first.flagged, second.flagged)
        assert torch.equal(first.scores, second.scores)
    assert torch.equal(whole.scores, resumed.scores)


def test_the_state_of_another_training_is_refused(few, tmp_path):
    images, labels, is_poisoned = few
    train(SHORT, images, labels, state=tmp_path)
    others = (
        lambda: train(SHORT, images, labels.flip(0), state=tmp_path),
        lambda: train(SHORT, images, labels, seed=1, state=tmp_path),
        lambda: train(SHORT, images, labels, flags=is_poisoned, state=tmp_path),
        lambda: train(replace(SHORT, smoothing=0.5), images, labels, state=tmp_path),
    )
    for other in others:
        with pytest.raises(ValueError, match="state of this training"):
            other()


def test_the_seed_decides(few):
    images, labels, _ = few
    first, again, other = (train(SHORT, images, labels, seed=seed) for seed in (0, 0, 1))
    assert same_weights(first.model, again.model)
    assert torch.equal(first.scores, again.scores)
    assert not same_weights(first.model, other.model)


def test_the_given_recipe_is_taken_where_the_own_one_is_not_wanted(few):
    images, labels, _ = few
    own = train(SHORT, images, labels)
    given = train(replace(SHORT, own_recipe=False), images, labels)
    assert not same_weights(own.model, given.model)


@pytest.mark.parametrize("flagged", [0, 1, 37, 38])
def test_pools_may_be_nearly_empty(few, flagged):
    """No suspicious image, a single one, or no more credible ones than two; classes are missing then."""
    images, labels, _ = few
    flags = torch.arange(40) < flagged
    trained = train(SHORT, images, labels, flags=flags)
    assert torch.equal(trained.flagged, flags)
    assert all(value.isfinite().all() for value in trained.model.state_dict().values())


def test_a_set_smaller_than_a_batch_and_one_of_equal_images(few):
    images, labels, _ = few
    trained = train(SHORT, images[:3], labels[:3])
    assert len(trained.scores) == 3
    trained = train(SHORT, images[:1].expand(20, -1, -1, -1), torch.zeros(20, dtype=torch.int64))
    assert not trained.flagged.any(), "all alike"


def test_mistakes_are_explained(few):
    images, labels, is_poisoned = few
    with pytest.raises(ValueError, match="two or more images that are not flagged"):
        train(SHORT, images, labels, flags=torch.arange(40) < 39)
    with pytest.raises(ValueError, match="Choose a threshold"):
        train(SHORT, images, labels, flags=torch.rand(40))
    with pytest.raises(ValueError, match=r"each of 40 images, but got shape \(39,\)"):
        train(SHORT, images, labels, flags=is_poisoned[:39])
    model = builder()()
    with pytest.raises(ValueError, match="new network from each call of `build`"):
        train(SHORT, images, labels, build=lambda: model)
    with pytest.raises(ValueError, match="Expected a convolutional network"):
        train(SHORT, images, labels, build=lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4)))


def test_a_victim_that_diverged_is_no_finder_of_poison(few):
    images, labels, _ = few

    def broken():
        model = builder()()
        nn.init.constant_(model[-1].bias, torch.nan)
        return model

    with pytest.raises(FloatingPointError, match="Victim's scores are not finite"):
        train(SHORT, images, labels, build=broken)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "`epochs` of 1 or more, but got 0"),
        ({"batch": 1}, "`batch` of 2 or more, but got 1"),
        ({"smoothing": 0}, "`smoothing` above 0 and up to 1, but got 0"),
        ({"entropy_tail": 0.5}, "`entropy_tail` from 0 up to below 0.5"),
        ({"thresholds": ()}, "`thresholds` from 0 up to below 1, one or more"),
        ({"thresholds": (1.0,)}, "`thresholds` from 0 up to below 1"),
        ({"unlabelled_weights": (0.1,)}, "two `unlabelled_weights`"),
        ({"temperature": 0}, "`temperature` above 0, but got 0"),
        ({"suspicious": "burn"}, "out of suppress, relabel, correct, drop, but got 'burn'"),
        ({"speed": 1}, "settings of 'victim_beneficiary' out of epochs"),
        ({"preset": "gpu"}, "preset out of smoke, cpu, paper, flagged, but got 'gpu'"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        build_training_defense("victim_beneficiary", **settings)


def test_presets_keep_the_published_proportions():
    paper, cpu = (build_training_defense("victim_beneficiary", preset=name) for name in ("paper", "cpu"))
    assert paper == VictimBeneficiary()
    for name in ("clean_epochs", "weight_rise"):
        assert getattr(cpu, name) / cpu.epochs == getattr(paper, name) / paper.epochs
    looks = [one.clean_epochs // one.resplit_every / (one.epochs - one.clean_epochs) for one in (cpu, paper)]
    assert looks[0] == looks[1], "of the Victim, before and after suspicious images are learned"
    smoke = build_training_defense("victim_beneficiary", preset="smoke")
    for name in ("clean_epochs", "weight_rise"):
        assert getattr(smoke, name) / smoke.epochs == getattr(paper, name) / paper.epochs
    flagged = build_training_defense("victim_beneficiary", preset="flagged")
    for name in ("clean_epochs", "weight_rise"):
        assert getattr(flagged, name) / flagged.epochs == getattr(paper, name) / paper.epochs
    assert flagged.passes(1000, torch.zeros(1000, dtype=torch.bool)) == flagged.epochs, "no Victim is trained"
    listed = build_training_defense("victim_beneficiary", thresholds=[0.5])
    assert listed.thresholds == (0.5,), "as JSON gives it"
    with pytest.raises(ValueError, match="preset of another defense, as this has none"):
        build_training_defense("epic", preset="cpu")


def test_the_victim_is_surest_of_poison():
    """A tenth of the set is poisoned; among what is flagged it is three times as frequent or more."""
    images, labels, _, is_poisoned = backdoored(960, 96, tint=6)
    found = train(VictimBeneficiary(epochs=1, warmup_steps=60, batch=16), images, labels)
    assert detection(found.flagged, is_poisoned, found.scores)["auroc"] > 0.85
    assert is_poisoned[found.flagged].float().mean() > 0.3
    assert found.flagged.any()


def test_suppression_keeps_the_beneficiary_from_the_backdoor():
    """Where the poison is known, a network that learns it plainly obeys the trigger, the Beneficiary does not."""
    images, labels, _, is_poisoned = backdoored(tint=40)
    test, _, truth, _ = backdoored(poisoned=0, tint=40, seed=1)
    triggered = stamped(test[truth > 0])
    wanted = torch.zeros(len(triggered), dtype=torch.int64)
    plain = Hooked().train(builder(), images, labels, recipe=StepRecipe(epochs=8, milestones=(6,), batch=16), seed=0)
    defense = VictimBeneficiary(epochs=8, clean_epochs=4, weight_rise=6, warmup_steps=60, batch=16)
    clean = train(defense, images, labels, flags=is_poisoned)
    assert accuracy(plain.model, triggered, wanted) > 0.9
    assert accuracy(clean.model, triggered, wanted) < 0.3
    assert accuracy(clean.model, test, truth) > 0.6
