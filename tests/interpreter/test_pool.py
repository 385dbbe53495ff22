"""The pool lends interpreters to threads and coroutines in turn. `cli/test_run.py` runs real programs in a pool."""

import asyncio
import threading
import time
from typing import cast

import pytest

from reflectioncoder.errors import UserError
from reflectioncoder.interpreter.interpreter import Interpreter
from reflectioncoder.interpreter.pool import Pool, close_all, open_all


class Fake:
    """A stand-in for an interpreter that fails if two threads use it at the same time."""

    def __init__(self) -> None:
        self.lock, self.closed = threading.Lock(), False

    def work(self, seconds: float = 0.01) -> None:
        assert self.lock.acquire(blocking=False)
        time.sleep(seconds)
        self.lock.release()

    def close(self) -> None:
        self.closed = True


def fakes(count: int) -> list[Interpreter]:
    return cast(list[Interpreter], [Fake() for _ in range(count)])


def test_each_interpreter_has_one_user_and_results_keep_their_order() -> None:
    def work(number: int) -> int:
        pool.use(lambda fake: cast(Fake, fake).work(0.02 if number % 3 == 0 else 0.001))
        return number * number

    with Pool(fakes(3)) as pool:
        assert list(pool.each(work, range(30))) == [n * n for n in range(30)]


def test_coroutines_take_turns_in_the_order_in_which_they_ask() -> None:
    begun: list[int] = []

    async def ask(pool: Pool, number: int) -> int:
        def work(fake: Interpreter) -> int:
            begun.append(number)
            cast(Fake, fake).work()
            return number

        return await pool.use_async(work)

    async def many() -> list[int]:
        with Pool(fakes(1)) as pool:
            return await asyncio.gather(*(ask(pool, n) for n in range(8)))

    assert asyncio.run(many()) == begun == list(range(8))


def test_who_waits_and_is_cancelled_never_begins_and_who_works_is_waited_for() -> None:
    ended: list[str] = []

    def work(name: str, seconds: float) -> None:
        time.sleep(seconds)
        ended.append(name)

    async def cancel() -> None:
        with Pool(fakes(1)) as pool:
            first = asyncio.create_task(pool.use_async(lambda _: work("first", 0.3)))
            second = asyncio.create_task(pool.use_async(lambda _: work("second", 0)))
            await asyncio.sleep(0.1)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            assert ended == []
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert ended == ["first"]
            await pool.use_async(lambda _: work("third", 0))

    asyncio.run(cancel())
    assert ended == ["first", "third"]


def test_an_exception_gives_the_interpreter_back() -> None:
    with Pool(fakes(1)) as pool:
        with pytest.raises(ZeroDivisionError):
            pool.use(lambda _: 1 // 0)
        assert pool.use(lambda _: "free") == "free"


def test_one_that_does_not_start_closes_the_others() -> None:
    made = fakes(3)
    left = iter(made)

    def make() -> Interpreter:
        try:
            return next(left)
        except StopIteration:
            raise UserError("isolation 'landlock' cannot be had") from None

    with pytest.raises(UserError, match="cannot be had"):
        open_all(4, make)
    assert all(cast(Fake, fake).closed for fake in made)
    assert open_all(2, lambda: cast(Interpreter, Fake()))
    close_all([])
