"""The one kind of error that is a user's to mend."""


class UserError(Exception):
    """Bad input. The message is one sentence naming the file, flag or value, and the remedy.

    Programs print it without a stack trace and exit with status 1 (`utils.cli`).
    """
