from .cache import ImageCache as ImageCache
from .puregen import PureGen as PureGen
from .puregen import PureGenTransform as PureGenTransform
