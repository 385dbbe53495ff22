"""Exceptions used by the whole package."""

# text common to out-of-memory errors of CPU, GPU and libraries
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


# control characters, and the two separators at which Python ends a line
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_ESCAPES |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t", 0x2028: "\\u2028", 0x2029: "\\u2029"}
_LONGEST = 1500  # characters


class UserError(ValueError):
    """Bad input. The message is one line that says what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with `status`. A message may name what data contains: line
    breaks and other control characters stand there as escapes, and lone surrogates, which cannot be printed, as "?".
    A long message, such as one with a file name of a thousand characters, loses its middle.
    """

    status = 2

    def __init__(self, message: object = "") -> None:
        text = encodable(str(message).strip().translate(_ESCAPES))
        if len(text) > _LONGEST:
            half = (_LONGEST - 3) // 2
            text = f"{text[:half]}...{text[-half:]}"
        super().__init__(text)


class RankError(UserError):
    """An error that occurred on a single rank, which must therefore print the message."""


class IncompleteError(UserError):
    """A run ended with problems that have no result. What is finished is kept; rerun to continue."""

    status = 1


class InfrastructureError(Exception):
    """The warm process or a session could not be started or used; this is never due to the program that is run."""


def encodable(text: str) -> str:
    """Replace lone surrogates, which JSON escapes can contain but UTF-8 cannot encode, by "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


def first_line(error: BaseException | str) -> str:
    """Return the first line of an error's text that is not blank, for a one-line message.

    Args:
        error: an exception, or its text.

    Returns:
        the line. For an exception without text it is the name of its type; for an empty text it is empty.
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "" if isinstance(error, str) else type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a GPU or the host is out of memory."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in NO_MEMORY)
