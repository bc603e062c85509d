"""Runs `python -m campaign` with tests/ in PYTHONPATH, as `make campaign` does."""

import sys

from campaign import command

sys.exit(command.main(sys.argv[1:]))
