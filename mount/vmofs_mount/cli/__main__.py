"""``python -m vmofs_mount.cli``: the program ``vmofs``."""

import sys

from vmofs_mount.cli.program import main

sys.exit(main())
