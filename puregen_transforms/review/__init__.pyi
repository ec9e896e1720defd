from .suspects import Suspect as Suspect
from .suspects import Suspects as Suspects
