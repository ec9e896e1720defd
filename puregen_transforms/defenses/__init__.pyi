from .corruption import CorruptionCompensation as CorruptionCompensation
from .epic import Epic as Epic
from .friends import Friends as Friends
from .registry import TRAINING_DEFENSES as TRAINING_DEFENSES
from .registry import build_training_defense as build_training_defense
from .training_defense import Trained as Trained
from .training_defense import TrainingDefense as TrainingDefense
from .victim_beneficiary import VictimBeneficiary as VictimBeneficiary
