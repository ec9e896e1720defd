"""Hand scores of images over to the tools in which people look at data: FiftyOne and cleanlab."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from puregen_transforms._extras import has_extra
from puregen_transforms._files import below
from puregen_transforms.inspection.image_scores import ImageScores


def fiftyone_samples(scores: ImageScores, folder: str | Path) -> list[Any]:
    """Make a FiftyOne sample of each image of a folder that was searched: `dataset.add_samples(...)` takes them.

    Each has the fields `poison_score`, `is_poison_suspect`, `poison_found_by`, the score of each search by its name,
    and `ground_truth` where it has a class. Tags are the verdict, such as "poison", and the search that flagged it.

    Args:
        scores: of the folder.
        folder: of images, as it was searched.

    Raises:
        ImportError: FiftyOne is not installed.
        ValueError: images without a file in the folder.
    """
    _require("fiftyone")
    import fiftyone

    samples = []
    suspects, columns = scores.is_poison_suspect.tolist(), scores.table.column_names
    for line, suspect in zip(scores.table.to_pylist(), suspects, strict=True):
        path = below(Path(folder), line["name"], follow_links=True)
        if not path.is_file():
            raise ValueError(f"Expected the images that were searched in {folder}, but there is no {line['name']!r}.")
        sample = fiftyone.Sample(
            filepath=str(path.absolute()),
            tags=[word for word in (line["verdict"], line["found_by"]) if word],
            poison_score=line["score"],
            is_poison_suspect=suspect,
            poison_found_by=line["found_by"] or None,
            **{name: line[name] for name in columns if name.endswith("_score")},
        )
        if line["class"]:
            sample["ground_truth"] = fiftyone.Classification(label=line["class"])
        samples.append(sample)
    return samples


def add_to_datalab(scores: ImageScores, lab: Any) -> None:
    """Add poison to the issues of a cleanlab `Datalab`: columns `is_poison_issue` and `poison_score`.

    cleanlab's scores say how good an image is: `poison_score` is there 1 - score / 2, in 0 ... 1 and below 0.5 for what
    is held for poisoned. Issues are the images held for poisoned or doubtful.

    Args:
        scores: of the set.
        lab: on the same data, its rows in the same order.

    Raises:
        ImportError: cleanlab is not installed.
        ValueError: a Datalab of another length.
    """
    _require("cleanlab")
    import pandas
    from cleanlab.datalab.internal.issue_manager import IssueManager
    from cleanlab.datalab.internal.issue_manager_factory import register

    scores.check_length(len(lab.data))

    class PoisonIssues(IssueManager):  # type: ignore[misc] # cleanlab has no types
        description = "Images that a search for poison holds for poisoned or doubtful."
        issue_name = "poison"

        def find_issues(self, **_: Any) -> None:
            goodness = 1 - scores.poison_scores.double().numpy() / 2
            found = {"is_poison_issue": scores.is_poison_suspect.numpy(), self.issue_score_key: goodness}
            self.issues = pandas.DataFrame(found)
            self.summary = self.make_summary(score=float(goodness.mean()))

    register(PoisonIssues)
    lab.find_issues(issue_types={"poison": {}})


def _require(module: str) -> None:
    if not has_extra(module):
        raise ImportError(f"This needs {module}. Install it with: pip install {module}")
