from .ray_runs import purify_with_ray as purify_with_ray
from .run import purify_copy as purify_copy
from .torch_sets import PurifiedDataset as PurifiedDataset
from .verify import changes_since as changes_since
from .verify import problems_of as problems_of
