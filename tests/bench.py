"""What tests of several files run and read: a runner with everything around it in memory, and runs on disk."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from datetime import UTC, datetime
from pathlib import Path

import virtual_time
from captionmill.accounts.plan import Options, Plan, make_plan
from captionmill.nouns.config import LimitSettings, RunConfig
from captionmill.nouns.errors import RowError
from captionmill.nouns.rows import Choice, Failure, Outcome, Picture, Reply, Row, Spending, Tally, Usage
from captionmill.rules.prices import PriceBook
from captionmill.store import parts
from captionmill.store.checkpoint import Checkpoint
from captionmill.store.folder import RunFolder
from captionmill.store.journal import Entry
from captionmill.store.recovery import open_journal
from captionmill.wiring.dispatcher import Dispatcher
from captionmill.wiring.runner import Runner
from scripted_chat import PICTURE, Console, endpoint, rows

DAY = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()


class Bench:
    """A runner with everything around it in memory: picture source and recorder at once.

    chat: one stand-in, or endpoints made from several.
    """

    calls_at_once = 2

    def __init__(
        self,
        chat,
        count=1,
        limiter=None,
        row_errors=(),
        prepare_seconds=0.0,
        steps=None,
        *,
        budget=None,
        **limits,
    ):
        self.limits = LimitSettings(**{"concurrency": 8, "max_retries": 3} | limits)
        self.chat = chat
        self.outcomes = {}
        self.told = []
        self.endpoints = (
            chat
            if isinstance(chat, list)
            else [endpoint(chat, self.limits, limiter, told=self.told, **steps or {})]
        )
        self.tally = Tally(total=count)
        self.rows = rows(count)
        self.row_errors = set(row_errors)
        self.prepare_seconds = prepare_seconds
        self.held = self.most_held = 0  # rows that were prepared and are not recorded
        self.lost = []
        self.dispatcher = Dispatcher(self.endpoints, budget)
        self.runner = Runner(self, self, self.dispatcher, self.limits, self.tally, random.Random(7))

    def tell(self, text):
        self.told.append(text)

    async def unfinish(self, ids):
        for identity in ids:
            del self.outcomes[identity]

    def unanswered(self, kind, spending):
        self.lost.append((kind, spending))

    async def prepare(self, asked: list[Row]):
        await asyncio.sleep(self.prepare_seconds)
        prepared = []
        for row in asked[:3]:  # fewer than asked, as the real one
            bad = RowError(f"{row.id}: broken", kind="image_broken")
            prepared.append((row, bad if row.id in self.row_errors else (PICTURE,)))
        self.held += len(prepared)
        self.most_held = max(self.most_held, self.held)
        return prepared

    async def record(self, outcome):
        await asyncio.sleep(0.01)
        assert outcome.row.id not in self.outcomes, "recorded twice"
        self.outcomes[outcome.row.id] = outcome
        self.held -= 1

    async def source(self):
        for start in range(0, len(self.rows), 5):
            yield self.rows[start : start + 5]

    async def go(self):
        self.started_at = asyncio.get_running_loop().time()
        await self.runner.run(self.source())
        self.seconds = asyncio.get_running_loop().time() - self.started_at
        return self

    def run(self) -> Bench:
        return virtual_time.run(self.go())


def always(answer):
    return itertools.repeat(answer)


# ------------------------------------------------------------------------------- runs on disk


def answer(n: int, **more) -> Outcome:
    """Row n. more: prompt_tokens, size, usage, model, finish, prompt."""
    given_values = {
        "prompt_tokens": 778,
        "size": (1024, 768),
        "model": "gpt-4o",
        "finish": "stop",
        "prompt": "p" * 52,
    } | more
    usage = more.get(
        "usage", Usage(given_values["prompt_tokens"], 50, given_values["prompt_tokens"] + 50, 8, 4)
    )
    row = Row(
        f"{n}",
        (f"{'ab'[n % 2]}/x/{n}.png",),
        ("x",),
        given_values["prompt"],
        json.dumps({"who": ["Ada", "伯"][n % 2], "n": n % 3}),
    )
    picture = Picture(b"QUJD", "image/jpeg", *given_values["size"], 90_000, "0" * 64)
    choice = Choice(0, "text", given_values["finish"], given_values["finish"])
    at = DAY + 8000 * n  # from noon: the last four of ten rows fall on the next day
    cost = PriceBook().cost((given_values["model"],), usage)
    return Outcome(
        row, at - 2, at, 1 + n % 2, Reply((choice,), usage, model=given_values["model"]), None, (picture,), 900, 1.5, "e/v1",
        given_values["model"], cost,
    )  # fmt: skip


def failed(n: int, kind: str = "timeout") -> Outcome:
    row = Row(f"{n}", ("c.png",), ("x",), "p", None)
    return Outcome(
        row, DAY, DAY, 3, failure=Failure(kind, f"{n}: no <b>answer</b>", 504), model_requested="gpt-4o"
    )


def write(
    path: Path, outcomes: list[Outcome], unanswered: dict[str, Spending] | None = None, **run
) -> RunFolder:
    """A run with these rows: parts of four, the rest still in the journal."""
    folder = RunFolder(path)
    folder.lock()
    folder.write_run({"source": str(path), "rows": len(outcomes), "answer_settings": {}} | run)

    async def record():
        checkpoint = Checkpoint(folder, open_journal(folder), 4)
        for kind, spending in (unanswered or {}).items():
            checkpoint.unanswered(kind, spending)
        for outcome in outcomes:
            kind = outcome.failure.kind if outcome.failure else None
            await checkpoint.record(Entry(outcome.row.id, kind, parts.to_record(outcome, "gpt-4o")))
        await checkpoint.parts.idle()
        checkpoint.close()

    asyncio.run(record())
    folder.unlock()
    return folder


def plan_of(source: Path, run_path: Path, config: RunConfig, options: Options | None = None) -> Plan:
    """The plan of a start, with no one to show lines to."""
    return make_plan(source, run_path, config, options or Options(), Console())
