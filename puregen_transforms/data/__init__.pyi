from .demo import Demo as Demo
from .demo import load_demo as load_demo
from .image_set import ImageSet as ImageSet
from .sources import iterate_images as iterate_images
from .sources import load_image_tensor as load_image_tensor
from .sources import open_source as open_source
