"""What a whole search of a set consists of: detectors, what each can find, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from puregen_transforms.detection.class_split import ClassSplit
from puregen_transforms.detection.confusion_training import ConfusionTraining
from puregen_transforms.detection.detector import Detector
from puregen_transforms.detection.energy import SharedPatterns, UnusualEnergies
from puregen_transforms.detection.label_disagreement import LabelDisagreement
from puregen_transforms.detection.moved_labels import MovedLabels
from puregen_transforms.detection.patches import Patches
from puregen_transforms.detection.residual_patterns import ResidualPatterns
from puregen_transforms.detection.shortcuts import Shortcuts
from puregen_transforms.detection.stamps import Stamps
from puregen_transforms.detection.stripes import Stripes

BUDGETS: Mapping[str, str] = {
    "2m": "no network is trained",
    "20m": "one classifier is trained on the set, and searched",
    "full": "Confusion Training as well, which needs a clean reserved set",
}
"""How much is searched, each with what came before: named by the time that 10,000 images of 32 px take on two cores."""

ORDER = tuple(BUDGETS)

POISON, DOUBT, MISLABELED, UNLEARNABLE = "poison", "doubt", "mislabeled", "unlearnable"
"""What it means when a search flags images: they are poisoned; somebody should look at them; their labels are wrong;
the set was made unlearnable as a whole."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """One detector of a whole search.

    Args:
        name: of the detector in the registry.
        detector: with its settings.
        finds: what it can find, in words that complete "looked for …".
        means: out of POISON, DOUBT, MISLABELED and UNLEARNABLE.
        explains: what a reader should make of what it found, in sentences; empty if that goes without saying.
        budget: the smallest that it is part of, out of `BUDGETS`.
        without_reserved: what it misses without a reserved clean set, in words; empty if it needs none.
        explained_by_poison: whether what it flags in a class counts for nothing if a search for poison has found some
            there.
        explained_by_marks: whether images that it flags in a class count for nothing if they carry no mark and most of
            those that it flags there do.
    """

    name: str
    detector: Detector
    finds: str
    means: str = POISON
    explains: str = ""
    budget: str = "2m"
    without_reserved: str = ""
    explained_by_poison: bool = False
    explained_by_marks: bool = False

    def is_within(self, budget: str) -> bool:
        """Tell whether a budget allows the search."""
        return ORDER.index(self.budget) <= ORDER.index(budget)


SEARCHES = (
    Search(name="stamps", detector=Stamps(), finds="the same patch at the same place of several images"),
    Search(
        name="patches",
        detector=Patches(),
        finds="a small patch at any place of several images, also if they were compressed after it",
    ),
    Search(name="stripes", detector=Stripes(), finds="stripes that go through the images of a class"),
    Search(
        name="residual_patterns",
        detector=ResidualPatterns(),
        finds="a picture or pattern, however faint, that lies over several images",
    ),
    Search(
        name="unusual_energies",
        detector=UnusualEnergies(),
        finds="images that look unnatural, each in its own way, in a class that has too many of them",
        means=DOUBT,
    ),
    Search(
        name="shortcuts",
        detector=Shortcuts(),
        finds="traces in the pixels of all images, from which their labels can be read",
        means=UNLEARNABLE,
    ),
    Search(
        name="label_disagreement",
        detector=LabelDisagreement(),
        finds="labels that do not fit what an image shows",
        means=MISLABELED,
        explains="A wrong label alone is no attack. Correct it, or leave the image out.",
    ),
    Search(
        name="moved_labels",
        detector=MovedLabels(),
        finds="labels of one class on many images that look like other classes",
        means=DOUBT,
        explains="An attacker who wants other images to be taken for that class labels them so, and so does an "
        "annotator who confuses classes. Correct the labels, or leave the images out; some are only unusual for their "
        "class.",
        without_reserved="if they are less than about a seventh of its images",
        explained_by_poison=True,
    ),
    Search(
        name="shared_patterns",
        detector=SharedPatterns(),
        finds="a perturbation that makes many images unnatural in the same way",
        budget="20m",
    ),
    Search(
        name="class_split",
        detector=ClassSplit(),
        finds="a part of a class that a classifier recognizes by something else, such as a warp or a trigger",
        budget="20m",
        without_reserved="if it is not far from the rest: clean images of the classes (`reserved`) would tell",
        explained_by_marks=True,
    ),
    Search(
        name="confusion_training",
        detector=ConfusionTraining.preset("cpu", highest_threshold=2.0),
        finds="images that a classifier still recognizes when clean images make it forget their class",
        means=DOUBT,
        budget="full",
    ),
)
"""In the order in which they run.

Confusion Training is published with a lower limit for the class that stands out most, which flags every fifth image of
clean sets; here that class is held to the limit of all others, and what is found counts as a doubt.
"""

NEVER = (
    "a trigger of its own on each image, if the classifier of the search did not learn it",
    "changed labels of images that look like the class they are given, or that are spread over most classes",
    "fewer poisoned images than the searches need: about ten that share something",
)
"""What none of the searches can find."""
