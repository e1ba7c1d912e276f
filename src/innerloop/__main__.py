"""`python -m innerloop`: the command line, also where torchrun starts it (`torchrun -m`)."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
