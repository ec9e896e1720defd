from .audit import Inspection as Inspection
from .audit import inspect_images as inspect_images
