"""`python -m reflectioncoder` is the command."""

import sys

from reflectioncoder.cli.main import main

sys.exit(main())
