"""`python -m marn`: the command line of `marn.cli`."""

import sys

from marn.cli import main

if __name__ == "__main__":
    sys.exit(main())
