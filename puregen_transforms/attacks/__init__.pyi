from .attack import Attack as Attack
from .attack import Attacker as Attacker
from .poison import Poison as Poison
from .registry import ATTACKS as ATTACKS
from .registry import craft as craft
