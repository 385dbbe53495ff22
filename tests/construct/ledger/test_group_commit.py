import asyncio

import pytest

from reflectioncoder.construct.ledger.group_commit import Commits
from reflectioncoder.construct.ledger.ledger import Entry, Ledger, RecordedStep
from reflectioncoder.errors import UserError


class CountingLedger(Ledger):
    """A real ledger that records the sizes of its transactions."""

    def __init__(self, folder):
        super().__init__(folder, {})
        self.sizes = []

    def write(self, records):
        self.sizes.append(len(records))
        return super().write(records)


def test_records_of_many_conversations_share_transactions_and_are_all_there(tmp_path):
    async def work(ledger):
        commits = Commits(ledger)

        async def conversation(name):
            for number in range(5):
                await commits.write(RecordedStep(name, number, "answer", {"text": f"{name} {number}"}, 1, 10, 2))
                # The record is committed before the conversation continues: another connection can read it.
                assert [payload["text"] for _, payload in ledger.events(name)][-1] == f"{name} {number}"
            await commits.write(Entry(name, "done", payload={"of": name}))

        await asyncio.gather(*(conversation(f"p{i}") for i in range(40)))
        await commits.close()

    with CountingLedger(tmp_path) as ledger:
        asyncio.run(work(ledger))
        assert sum(ledger.sizes) == 240 and len(ledger.sizes) < 60
    with Ledger(tmp_path, {}) as again:
        assert again.finished() == {f"p{i}" for i in range(40)}
        assert [payload["text"] for _, payload in again.events("p7")] == [f"p7 {n}" for n in range(5)]
        assert again.spent() == (200, 2000, 400)


def test_a_write_that_is_cancelled_is_written_all_the_same(tmp_path):
    async def work(ledger):
        commits = Commits(ledger)
        task = asyncio.create_task(commits.write(RecordedStep("a", 0, "answer", "paid")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await commits.close()

    with Ledger(tmp_path, {}) as ledger:
        asyncio.run(work(ledger))
        assert ledger.events("a") == [("answer", "paid")]


def test_an_error_of_the_ledger_reaches_whoever_waits_and_nothing_of_the_batch_is_kept(tmp_path):
    async def work(ledger):
        commits = Commits(ledger)
        both = await asyncio.gather(
            commits.write(RecordedStep("b", 0, "answer", "new")),
            commits.write(RecordedStep("a", 0, "answer", "again")),
            return_exceptions=True,
        )
        await commits.close()
        return both

    with Ledger(tmp_path, {}) as ledger:
        ledger.add_event("a", 0, "answer", "first")
        assert [type(error) for error in asyncio.run(work(ledger))] == [ValueError, ValueError]
        assert ledger.events("b") == [] and ledger.events("a") == [("answer", "first")]


def test_a_full_disk_is_one_line_for_whoever_waits(tmp_path):
    async def work(ledger):
        ledger._connection.execute("PRAGMA max_page_count = 12")
        commits = Commits(ledger)
        writes = [commits.write(RecordedStep("a", number, "answer", "x" * 4000)) for number in range(3)]
        await asyncio.gather(*writes)
        with pytest.raises(UserError, match=r"full; free some space"):
            await commits.write(RecordedStep("a", 3, "answer", "x" * 100_000))
        await commits.close()

    with Ledger(tmp_path, {}) as ledger:
        asyncio.run(work(ledger))
    with Ledger(tmp_path, {}) as again:
        assert len(again.events("a")) == 3
