"""A helper for child processes of tests."""

import signal


def attended() -> None:
    """For `preexec_fn`: Ctrl-C (SIGINT) ends the child even if the test run is in the background and ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
