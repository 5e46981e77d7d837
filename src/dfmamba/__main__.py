"""`python -m dfmamba` is the `dfmamba` command."""

import sys

from dfmamba.cli.main import main

sys.exit(main())
