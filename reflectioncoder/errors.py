"""The exceptions that all parts of the package share."""


class UserError(ValueError):
    """Bad input: one line that says what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with status 2.
    """


class RankError(UserError):
    """An error on one rank only, which that rank must report itself."""


class InfrastructureError(Exception):
    """The warm process or a session failed or could not be started; never the program's fault."""
