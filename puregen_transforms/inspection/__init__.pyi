from .audit import Inspection as Inspection
from .audit import inspect_images as inspect_images
from .exports import add_to_datalab as add_to_datalab
from .exports import fiftyone_samples as fiftyone_samples
from .image_scores import ImageScores as ImageScores
