"""Defines the error of a training that lost one of its workers."""

import os

from utils.base.errors import UserError


class WorkerLost(UserError):
    """Says that a worker is gone or cannot start, so that all of them must start again.

    Its exit status tells whoever started the workers that starting them again is worth while,
    which no other error's does: a wrong flag stays wrong.
    """

    exit_status = os.EX_TEMPFAIL
