"""`python -m ephemport`: the same as the `ephemport` command."""

import sys

from ephemport.cli import main

if __name__ == "__main__":
    sys.exit(main())
