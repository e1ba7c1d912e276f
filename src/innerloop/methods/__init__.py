"""The named methods, filed by what they change against MAML.

Each file says in `__all__` which of its functions are methods, and `named` says at the function
what tables need to know of it: nothing else has to be edited for a new one.
"""

from .baselines import *  # noqa: F403
from .estimators import *  # noqa: F403
from .features import *  # noqa: F403
from .hyper import bilevel as bilevel
from .objectives import *  # noqa: F403
from .registry import METHODS as METHODS
from .registry import Named as Named
from .registry import named as named
from .scopes import *  # noqa: F403
from .solvers import *  # noqa: F403
