"""The protocol between the parent process and a session: requests, limits, and the signature of an answer."""

import codecs
import json
import os
import secrets
import select
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

SENT_NONCE_BYTES = 16  # as many as `sandbox/session.py` reads
_FAILURE = struct.Struct("<?III")
_LONGEST_RESULT = 1 << 15
_LONGEST_WAIT = 1e9  # milliseconds; `poll` takes at most 2^31
_OWN = (b"c", b"o")  # a cell of the program, code of ours


class Failure(NamedTuple):
    """A cell's failure as reported by the program's process.

    The report is not trusted, which does no harm: it never makes a run successful.

    Args:
        memory: whether the exception was a MemoryError.
        line: line of the cell from 1; None if unknown.
        exception: name of the exception's type; None if unknown.
        message: text of the exception.
    """

    memory: bool
    line: int | None
    exception: str | None
    message: str


class Exchange(ABC):
    """Sends one request, collects output and answer, and enforces the time and output limits.

    Args:
        request: the bytes to send.
        output_chars: limit on the characters of all outputs together.
    """

    def __init__(self, request: bytes, output_chars: int) -> None:
        self._to_send = memoryview(request)
        self._left = output_chars
        self._texts: dict[int, list[str]] = {}
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}
        self.answer = b""

    @abstractmethod
    def judge(self) -> str | None:
        """Check the answer so far: `result` if complete, `forged` if it cannot become valid, None if incomplete."""

    def text(self, place: int = 0) -> str:
        """Return the text of output number `place`; bytes that are not UTF-8 are replaced."""
        return "".join(self._texts[place]) + self._decoders[place].decode(b"", final=True)

    def drive(self, command: int, outputs: Sequence[int], result: int, left: Callable[[], float]) -> str:
        """Exchange data until there is an answer, a limit is exceeded, or the process ends.

        Args:
            command: descriptor to write the request to; like all of them non-blocking.
            outputs: descriptors of the outputs.
            result: descriptor to read the answer from.
            left: returns the seconds until it has to be asked again; 0 once the time limit is exceeded.

        Returns:
            `result`, `timeout`, `output_limit`, `forged` or `ended`.
        """
        places = {fd: place for place, fd in enumerate(outputs)}
        for place in places.values():
            self._texts[place] = []
            self._decoders[place] = codecs.getincrementaldecoder("utf-8")("replace")
        poller = select.poll()
        poller.register(command, select.POLLOUT)
        for fd in (*outputs, result):
            poller.register(fd, select.POLLIN)
        while (wait := left()) > 0:
            events = dict(poller.poll(min(wait * 1000 + 1, _LONGEST_WAIT)))
            if command in events:
                try:
                    self._to_send = self._to_send[os.write(command, self._to_send) :]
                except BlockingIOError:
                    pass
                except BrokenPipeError:
                    self._to_send = self._to_send[:0]
                if not self._to_send:
                    poller.unregister(command)
            for fd, place in places.items():
                if fd in events:
                    more = self._drain(fd, place)
                    if more is None:  # all writers have closed it; further polling would spin
                        poller.unregister(fd)
                    elif not more:
                        return "output_limit"
            if result in events:
                data = os.read(result, 1 << 16)
                self.answer += data
                state = self.judge() if data else "ended"
                if state:
                    # everything written before the result is in the pipes by now
                    for fd, place in places.items():
                        while left() > 0 and (more := self._drain(fd, place)) is not None:
                            if not more:
                                return "output_limit"
                    return state
        return "timeout"

    def _drain(self, fd: int, place: int) -> bool | None:
        """Read once. Returns None if there is nothing to read, False if the output limit is exceeded."""
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return None
        if not data:
            return None
        piece = self._decoders[place].decode(data)
        self._texts[place].append(piece[: self._left])
        self._left -= len(piece)
        return self._left >= 0


class OwnCode(str):
    """Code of ours that runs beside a program's cells, in a namespace that no name of the program can shadow.

    Builtins are those of the warm process, whatever the program assigns. `program` is the program's namespace, and each
    module of this package that the interpreter preloads is there by its last name. The code is plain Python, without
    the commands of a notebook, and shares its namespace with the other own code of its session.
    """


class CellExchange(Exchange):
    """Sends cells to run as one, and receives the signature or the failure.

    Args:
        cells: source code of each cell.
        output_chars: limit on the characters of output.
    """

    def __init__(self, cells: Sequence[str], output_chars: int) -> None:
        self._nonce = b"=" + secrets.token_bytes(SENT_NONCE_BYTES - 1)
        sized = [_OWN[isinstance(cell, OwnCode)] + _sized(cell.encode("utf-8", "surrogatepass")) for cell in cells]
        super().__init__(len(cells).to_bytes(4, "little") + b"".join(sized) + self._nonce, output_chars)
        self.failure: Failure | None = None

    def judge(self) -> str | None:
        """Check the answer (see `Exchange.judge`). A complete answer is either the signature or a failure."""
        answer = self.answer
        if not answer.startswith(b"E"):
            if answer == self._nonce:
                return "result"
            return None if self._nonce.startswith(answer) else "forged"
        start = 1 + _FAILURE.size
        if len(answer) < start:
            return None
        memory, line, name_size, message_size = _FAILURE.unpack(answer[1:start])
        if start + name_size + message_size > _LONGEST_RESULT:
            return "forged"
        if len(answer) < start + name_size + message_size:
            return None
        texts = answer[start : start + name_size], answer[start + name_size : start + name_size + message_size]
        name, message = (text.decode("utf-8", "replace") for text in texts)
        self.failure = Failure(memory, line or None, name or None, message)
        return "result"


class CommandExchange(Exchange):
    """Sends a command, and receives how it ended: a JSON object from a process that the command cannot reach.

    Args:
        request: the command, see `sandbox/commands.py`.
        output_chars: limit on the characters of both outputs together.
    """

    def __init__(self, request: dict[str, Any], output_chars: int) -> None:
        body = json.dumps(request).encode()
        super().__init__(_sized(body), output_chars)
        self.ending: dict[str, Any] = {}

    def judge(self) -> str | None:
        """Check the answer (see `Exchange.judge`); it is complete once it ends with a line break."""
        if not self.answer.endswith(b"\n"):
            return None if len(self.answer) < _LONGEST_RESULT else "forged"
        try:
            self.ending = json.loads(self.answer)
        except ValueError:
            return "forged"
        return "result"


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data
