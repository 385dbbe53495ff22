"""`python -m reflectioncoder` is the command."""

import sys

from reflectioncoder.cli import main

sys.exit(main())
