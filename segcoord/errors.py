"""The one exception for mistakes that a user can mend; the commands print it in words."""


class UserError(Exception):
    """Something outside the code is wrong: a file, a setting, an argument.

    The message says what was found, where, what was expected and what to do.
    """
