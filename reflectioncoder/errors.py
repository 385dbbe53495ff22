"""Every exception of this package that crosses a module."""


class UserError(ValueError):
    """Bad input: one line that says what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with status 2.
    """


class RankError(UserError):
    """Something that went wrong on one rank only, so that this rank has to say it."""


class InfrastructureError(Exception):
    """The warm process or a session could not be had; never the program's fault."""
