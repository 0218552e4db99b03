"""`python -m pspf.admin`: the process, started by a worker, which says the rest through its stdin."""

import sys

from pspf.admin.process import main

sys.exit(main())
