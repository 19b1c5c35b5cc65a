"""`python -m comem` is the `comem` command."""

import sys

from comem.cli import main

sys.exit(main())
