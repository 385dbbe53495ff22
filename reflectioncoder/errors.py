"""The one exception that carries a message for the user rather than for a developer."""


class UserError(ValueError):
    """Bad input: one line that says what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with status 2.
    """


class RankError(UserError):
    """Something that went wrong on one rank only, so that this rank has to say it."""
