"""What happened to the rows: the counts that bar and summary show, and the account of unanswered attempts."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from ..nouns.errors import AnswerError, RateLimited
from ..nouns.rows import Failure, Outcome, Reply, Row, Spending, Tally
from ..rules.error_table import may_be_billed
from .endpoint import Answer, Ticket
from .ports import Recorder

FAILED_EXAMPLES = 5


class Accounting:
    """tally: the counts of this start; changed here and nowhere else while the run goes on."""

    def __init__(self, tally: Tally, recorder: Recorder) -> None:
        self.tally = tally
        self._recorder = recorder

    def retried(self) -> None:
        """A row is asked again."""
        self.tally.retries += 1

    def sent(self) -> None:
        """An attempt begins."""
        self.tally.attempts += 1

    def answered(self, answer: Answer) -> Spending:
        """An answer came. Returns what it cost."""
        if answer.reply.usage.spent_tokens is None:
            self._recorder.unanswered("without_usage", replace(answer.ticket.most, requests=0))
        return answer.spending

    def replaced(self, reason: str) -> None:
        """An answer was followed by a further one of its row; what it cost is in the row."""
        self._recorder.unanswered(reason, Spending(requests=1))

    def no_label(self, answers: list[Answer]) -> None:
        """Answers came and the row has no valid label: what they cost is in the account, since no row has it."""
        for number, answer in enumerate(answers):
            known = answer.spending if answer.reply.usage.spent_tokens is not None else Spending()
            self._recorder.unanswered("invalid_label", replace(known, requests=int(number == 0)))

    def failed(self, error: AnswerError, ticket: Ticket) -> Spending:
        """An attempt brought no answer. Returns what it may have cost."""
        self.tally.rate_limited += isinstance(error, RateLimited)
        cost = ticket.most if may_be_billed(error) else Spending(requests=1)
        self._recorder.unanswered(error.kind, cost)
        return cost

    def given_up(self, ticket: Ticket) -> Spending:
        """An attempt was cancelled in flight; it may be billed."""
        self._recorder.unanswered("given_up", ticket.most)
        return ticket.most

    def recorded(self, outcome: Outcome) -> None:
        """A row's end is durable."""
        if outcome.failure is not None:
            self._count_failure(outcome.row, outcome.failure)
        elif outcome.reply is not None:
            self._count_answer(outcome, outcome.reply)

    def unfinished(self, outcomes: list[Outcome]) -> None:
        """These failed rows were not at fault; they are left for the next start."""
        tally = self.tally
        for outcome in outcomes:
            kind = outcome.failure.kind if outcome.failure else ""
            tally.failed -= 1
            tally.failures_by_kind[kind] -= 1
            if not tally.failures_by_kind[kind]:
                del tally.failures_by_kind[kind]
        if not tally.failed:
            tally.failed_examples.clear()

    def _count_failure(self, row: Row, failure: Failure) -> None:
        tally = self.tally
        tally.failed += 1
        tally.failures_by_kind[failure.kind] = tally.failures_by_kind.get(failure.kind, 0) + 1
        if len(tally.failed_examples) < FAILED_EXAMPLES:
            names_it = any(name in failure.message for name in row.images)
            tally.failed_examples.append(("" if names_it else f"{row.id}: ") + failure.message)

    def _count_answer(self, outcome: Outcome, reply: Reply) -> None:
        tally = self.tally
        tally.answered += 1
        tally.empty += reply.is_empty and outcome.label is None
        tally.prompt_tokens += reply.usage.prompt_tokens or 0
        tally.completion_tokens += reply.usage.completion_tokens or 0
        tally.reserved_tokens += outcome.estimated_tokens or 0
        if outcome.cost_usd is None:
            tally.unpriced += 1
        else:
            tally.cost_usd = (tally.cost_usd or Decimal(0)) + outcome.cost_usd
