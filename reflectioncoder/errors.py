"""Every exception of this package that crosses a module."""


class UserError(ValueError):
    """Bad input: one line that says what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with status 2.
    """


class RankError(UserError):
    """Something that went wrong on one rank only, so that this rank has to say it."""


class InfrastructureError(Exception):
    """The warm process or a session could not be had; never the program's fault."""


def first_line(error: BaseException | str) -> str:
    """The first line of an error's text that is not blank, for a message of one line.

    Args:
        error: an exception, or the text of one.

    Returns:
        the line; for an exception without text its type's name, for an empty text nothing.
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "" if isinstance(error, str) else type(error).__name__
