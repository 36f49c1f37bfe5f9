"""``python -m lightning_graceful``."""

import sys

from lightning_graceful.cli import main

sys.exit(main())
