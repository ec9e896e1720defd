from .part_by_part import purify_copy as purify_copy
from .ray_engine import purify_with_ray as purify_with_ray
from .torch_sets import PurifiedDataset as PurifiedDataset
from .verify import changes_since as changes_since
from .verify import problems_of as problems_of
