from .attention_mix import AttentionMix as AttentionMix
from .attention_mix import FeatureAttention as FeatureAttention
from .cache import ImageCache as ImageCache
from .eclipse import eclipse_compensation as eclipse_compensation
from .puregen import PureGen as PureGen
from .puregen import PureGenTransform as PureGenTransform
