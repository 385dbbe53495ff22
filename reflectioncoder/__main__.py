"""Runs the command line for `python -m reflectioncoder`."""

import sys

from reflectioncoder.cli.main import main

sys.exit(main())
