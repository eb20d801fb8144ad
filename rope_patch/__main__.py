"""``python -m rope_patch``: the command ``rope-patch``."""

import sys

from rope_patch.cli import main

if __name__ == "__main__":
    sys.exit(main())
