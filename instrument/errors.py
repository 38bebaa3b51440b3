"""The one exception whose text is meant for a user."""


class UserError(Exception):
    """Something that the user can mend: `str()` says what was given, what was expected and what fixes it.

    The command line prints it as one line and exits with status 1.
    """
