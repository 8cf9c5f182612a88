"""`python -m aprnb`: the same as the `aprnb` command."""

import sys

from aprnb.cli import main

if __name__ == "__main__":
    sys.exit(main())
