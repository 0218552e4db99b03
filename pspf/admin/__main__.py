"""Entry point of the admin process: a worker starts it and sends its configuration to its stdin."""

import sys

from pspf.admin.process import main

sys.exit(main())
