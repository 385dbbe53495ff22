"""The time limit of a session, which does not depend on the load of the machine.

A limit of one second means one second of processor time of all the session's processes. A program that sleeps uses
none, so the time that it sleeps has the same limit; the time that it waits for a processor has not. The kernel counts
processor time and waiting, but the waiting of child processes is lost with them. If there were any, sleeping is what
repeated looks find. Nothing is measured before as much wall-clock time as the limit has passed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from reflectioncoder.sandbox.usage import SessionUsage

# Bound on the wall-clock time, in multiples of the limit and in seconds, whatever the load. `layers.become_untrusted`
# has the same for the processor time of a process.
MOST_FACTOR, MOST_SECONDS = 20.0, 60.0
_STEPS, _SHORTEST, _LONGEST = 20, 0.01, 1.0  # checks in the time of one limit; seconds between two checks


class SessionClock:
    """Measures one cell or command against its limit.

    Args:
        seconds: the limit.
        usage: asks for the session's usage.
        before: the usage when the cell started.
        now: wall-clock time in seconds.
    """

    def __init__(
        self,
        seconds: float,
        usage: Callable[[], SessionUsage],
        before: SessionUsage,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds, self._usage, self._before, self._now = seconds, usage, before, now
        self._started = now()
        self._next = self._started + seconds
        self._most = self._started + MOST_FACTOR * seconds + MOST_SECONDS
        self._over = False
        self._looked, self._processor, self._slept = self._started, -1.0, 0.0

    @property
    def elapsed(self) -> float:
        """Wall-clock seconds since the start."""
        return self._now() - self._started

    def left(self) -> float:
        """Return the seconds until this has to be asked again; 0 once the limit is exceeded."""
        now = self._now()
        if now < self._next:
            return self._next - now
        if not self._over:
            processor, asleep = self._look(now)
            self._over = now >= self._most or processor >= self._seconds or asleep
            step = min(max(self._seconds / _STEPS, _SHORTEST), _LONGEST)
            self._next = now + min(step, max(self._seconds - processor, _SHORTEST))
        return 0.0 if self._over else self._next - now

    def _look(self, now: float) -> tuple[float, bool]:
        """Return the processor seconds used so far, and whether the session has slept for longer than the limit."""
        used = self._usage()
        processor = used.processor - self._before.processor
        still = not used.runnable and processor == self._processor  # at two looks, so more than a moment's pause
        self._slept += now - self._looked if still else 0.0
        self._looked, self._processor = now, processor
        slept = self._slept
        if used.ended == self._before.ended:
            slept = now - self._started - processor - (used.waited - self._before.waited)
        return processor, still and processor + slept >= self._seconds

    def exceeded(self) -> bool:
        """Whether a cell that has come to its end had exceeded its limit before."""
        if self._over or self.elapsed <= self._seconds:
            return self._over
        return self._usage().processor - self._before.processor > self._seconds
