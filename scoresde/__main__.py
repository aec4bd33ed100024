"""``python -m scoresde`` runs the command line."""

import sys

from scoresde.cli import main

sys.exit(main())
