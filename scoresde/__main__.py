"""``python -m scoresde`` is the command line."""

import sys

from scoresde.cli import main

sys.exit(main())
