"""`./larder serve`: the laptop server and the key commands; not part of the deployed bundle."""

import os
import sys

from serve.dev.commands import main

sys.exit(main(sys.argv[1:], os.environ))
