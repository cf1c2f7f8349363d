"""``python -m bundler`` is ``bundle``."""

import sys

from bundler.cli.main import main

sys.exit(main())
