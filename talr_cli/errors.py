"""The one exception that is printed to the user as a single line."""


class UserError(Exception):
    """Something the user can put right: what is wrong, where, and what to do.

    The command line prints the message as one line and exits with code 2; no traceback.
    """
