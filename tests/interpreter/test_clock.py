"""Time limits count processor time and sleeping, so the load of the machine changes no result."""

import dataclasses
import os
import subprocess
import sys
import time

import pytest

from reflectioncoder.interpreter.calls import call_all
from reflectioncoder.interpreter.clock import MOST_FACTOR, MOST_SECONDS, SessionClock
from reflectioncoder.interpreter.interpreter import Interpreter, Limits
from reflectioncoder.interpreter.workspace import workspace
from reflectioncoder.sandbox import caller
from reflectioncoder.sandbox.usage import SessionUsage

LIMITS = Limits(0.4, 512, 100_000)
SPINNERS = 4
# uses processor time whatever the speed of the machine
BUSY = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass\n"


@pytest.fixture(scope="module", params=["quiet", "loaded"])
def load(request):
    """Two processors, which four spinning processes share with the program if `loaded`."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:2])
    spin = [sys.executable, "-S", "-c", "while True: pass"]
    spinning = [subprocess.Popen(spin) for _ in range(SPINNERS if request.param == "loaded" else 0)]
    try:
        yield request.param
    finally:
        for process in spinning:
            process.kill()
            process.wait()
        os.sched_setaffinity(0, before)


@pytest.fixture(scope="module")
def interpreter(load):
    with Interpreter(LIMITS) as made:
        yield made


CHILD = "import subprocess, sys\nsubprocess.run([sys.executable, '-S', '-c', {!r}])\n"
THREADS = f"""import threading
for _ in "12":
    threading.Thread(target=exec, args=({BUSY.format(9)!r},)).start()
threading._shutdown()"""
# three daemons, whose processor time is only known once they are reaped
DAEMONS = f"""import os, time
for _ in range(3):
    if os.fork() == 0:
        if os.fork() == 0:
            exec({BUSY.format(0.3)!r})
        os._exit(0)
    os.wait()
    time.sleep(0.05)
time.sleep(30)"""
PROGRAMS = {
    "daemons, beyond": (DAEMONS, "timeout"),
    "busy, within": (BUSY.format(0.25), "ok"),
    "busy, beyond": (BUSY.format(0.7), "timeout"),
    "endless": ("while True: pass", "timeout"),
    "asleep, beyond": ("import time\ntime.sleep(30)", "timeout"),
    "asleep, within": ("import time\ntime.sleep(0.2)", "ok"),
    "blocked": ("import os\nos.read(os.pipe()[0], 1)", "timeout"),
    "a child, within": (CHILD.format(BUSY.format(0.25)), "ok"),
    "a child, beyond": (CHILD.format(BUSY.format(0.7)), "timeout"),
    "two threads": (THREADS, "timeout"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_cell_ends_the_same_way_on_a_busy_machine(interpreter, name):
    program, outcome = PROGRAMS[name]
    with interpreter.session(LIMITS, module=True) as session:
        assert session.run(program).outcome == outcome


def test_each_cell_has_a_limit_of_its_own(interpreter):
    with interpreter.session(LIMITS) as session:
        assert [session.run(BUSY.format(0.25)).outcome for _ in range(3)] == ["ok"] * 3
        assert session.processor_seconds() > 0.7


def test_a_command_ends_the_same_way_on_a_busy_machine(interpreter):
    with workspace(interpreter, LIMITS) as place:
        for seconds, outcome in (0.2, "ok"), (0.2, "ok"), (0.7, "timeout"):
            assert place.run([sys.executable, "-S", "-c", BUSY.format(seconds)]).outcome == outcome


CALLS = """
import time
def f(kind, seconds):
    if kind == "sleep":
        time.sleep(seconds)
    end = time.process_time() + seconds
    while kind == "busy" and time.process_time() < end: pass
    return seconds
"""


@pytest.mark.parametrize(
    ("call", "outcome"),
    [(("busy", 0.2), "ok"), (("busy", 0.7), "timeout"), (("sleep", 0.2), "ok"), (("sleep", 9), "timeout")],
)
def test_a_call_ends_the_same_way_on_a_busy_machine(interpreter, call, outcome):
    limits = dataclasses.replace(LIMITS, seconds=5.0)
    with interpreter.session(limits, module=True) as session:
        packed = caller.pack_program([("busy", 0.01), call])
        made = call_all(session, CALLS, "f", packed, [0.4, 0.4], limits, timed=True)
    assert made.outcome == outcome and made.records[0] == 0.01
    assert [round(seconds, 1) for seconds in made.timings[1:]] == [call[1]] * (outcome == "ok")


def clock(seconds, *usages):
    """A clock of a machine whose time is a number, and whose session reports one usage after the other."""
    moment = [100.0]
    asked = iter(usages)
    return moment, SessionClock(seconds, lambda: next(asked), SessionUsage(5.0, 1.0, 70), lambda: moment[0])


def test_nothing_is_measured_before_as_much_time_has_passed():
    moment, watch = clock(2.0)
    assert watch.left() == 2.0
    moment[0] += 1.5
    assert watch.left() == 0.5 and not watch.exceeded()


def test_a_program_that_waits_for_a_processor_gets_its_time():
    moment, watch = clock(2.0, *(SessionUsage(used, 9.0, 70, True) for used in (5.5, 6.95, 7.0)))
    moment[0] += 2.0  # half a second of work, the rest waiting
    assert watch.left() == pytest.approx(0.1)
    moment[0] += 10.0
    assert watch.left() == pytest.approx(0.05)
    moment[0] += 0.1
    assert watch.left() == 0.0 and watch.exceeded()


def test_a_program_that_sleeps_may_sleep_as_long_as_its_limit():
    moment, watch = clock(2.0, *[SessionUsage(5.25, 2.0, 70, False)] * 3)
    for passed, over in (2.5, False), (0.4, False), (0.2, True):  # a second of it waiting for a processor
        moment[0] += passed
        assert (watch.left() == 0.0) is over


def test_a_program_whose_children_have_waited_is_looked_at_until_it_has_slept_for_its_limit():
    moment, watch = clock(2.0, *(SessionUsage(used, 1.0, 75, False) for used in (5.5, 5.5, 5.75, 5.75)))
    for passed, over in (9.0, False), (0.75, False), (9.0, False), (0.75, True):  # 0.75 of work, 2 * 0.75 of sleep
        moment[0] += passed
        assert (watch.left() == 0.0) is over


def test_the_wall_clock_ends_a_program_that_never_gets_a_processor():
    moment, watch = clock(2.0, *[SessionUsage(5.1, 1.0, 70, True)] * 2)
    moment[0] += 2.0 * MOST_FACTOR + MOST_SECONDS - 1.0
    assert watch.left() > 0
    moment[0] += 1.0
    assert watch.left() == 0.0


def test_a_result_that_arrives_late_counts_by_its_processor_time():
    for used, late in (6.9, False), (7.1, True):
        moment, watch = clock(2.0, SessionUsage(used, 9.0, 70, False))
        moment[0] += 9.0
        assert watch.exceeded() is late


def test_the_clock_of_a_call_works_without_a_waiting_time(monkeypatch):
    watch = caller.CallClock()
    os.close(watch._waited)
    watch.start(0.5)
    time.sleep(0.2)
    assert watch.seconds() < 0.1  # a tenth of the wall-clock time
