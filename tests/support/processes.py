"""Child processes of tests."""

import signal


def attended() -> None:
    """For `preexec_fn`: Ctrl-C ends the child, also where the test run is in the background and ignores it itself."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
