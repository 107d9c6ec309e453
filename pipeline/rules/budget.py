"""What a run may spend, and what is left of it: held back before a request is sent, settled when it is over. Pure.

A request goes only where spent + held back + the most that it may cost stays within the budget. So as long
as no answer costs more than was held back for it, the sum never passes the budget. Where a server reports
more, the sum passes it by no more than those excesses of the requests that were out together; what comes
later is held back at what the server has shown (`tokens.TokenEstimator`).
"""

from __future__ import annotations

from decimal import Decimal

from ..nouns.errors import RunError
from ..nouns.money import DOLLARS, money
from ..nouns.rows import Spending

Figure = Decimal | int


class Budget:
    """The account of one run.

    usd, tokens, requests: bounds over all its starts; None for none. spent: by earlier starts. currency: of usd.
    """

    def __init__(
        self,
        usd: Decimal | None,
        tokens: int | None,
        requests: int | None,
        spent: Spending,
        currency: str = DOLLARS,
    ) -> None:
        self.usd, self.tokens, self.requests = usd, tokens, requests
        self.spent = spent
        self.currency = currency
        self.held_back = Spending(usd=Decimal(0))
        self._out = 0

    def __repr__(self) -> str:
        return f"<Budget {self.spent} spent, {self.held_back} held back for {self._out}>"

    @property
    def usd_left(self) -> Decimal | None:
        """Money that is neither spent nor held back; None without a bound."""
        if self.usd is None:
            return None
        return self.usd - (self.spent.usd or 0) - (self.held_back.usd or 0)

    @property
    def has_requests_in_flight(self) -> bool:
        """Whether a request in flight may still free some of the budget."""
        return self._out > 0

    def fits(self, most: Spending) -> bool:
        """Whether a request that may cost `most` can go now."""
        after = self.spent + self.held_back + most
        return (
            (self.usd is None or (after.usd or 0) <= self.usd)
            and (self.tokens is None or after.tokens <= self.tokens)
            and (self.requests is None or after.requests <= self.requests)
        )

    def hold_back(self, most: Spending) -> None:
        """A request that may cost `most` goes now."""
        self.held_back += most
        self._out += 1

    def settle(self, most: Spending, real: Spending) -> None:
        """The request for which `most` was held back is over and cost `real`."""
        self.held_back -= most
        self.spent += real
        self._out -= 1

    def reached(self, most: Spending) -> RunError:
        """Why the run stops: a request that may cost `most` does not fit, and nothing is out that could free some."""
        after = self.spent + most
        figures: tuple[tuple[str, Figure | None, Figure, Figure, Figure], ...] = (
            ("--budget-usd", self.usd, _usd(self.spent), _usd(after), _usd(most)),
            ("--budget-tokens", self.tokens, self.spent.tokens, after.tokens, most.tokens),
            ("--budget-requests", self.requests, self.spent.requests, after.requests, most.requests),
        )
        name, bound, spent, _, one = next(f for f in figures if f[1] is not None and f[3] > f[1])
        assert bound is not None  # noqa: S101  the line above
        left = (
            f"{self._show(bound - spent)} are left, and the next request may take up to {self._show(one)}"
            if spent <= bound
            else f"which is {self._show(spent - bound)} more"
        )
        return RunError(
            f"the budget is reached: {self._show(spent)} of {name} {self._show(bound)} are spent, {left}",
            kind="budget",
        )

    def _show(self, figure: Figure) -> str:
        return money(figure, self.currency) if isinstance(figure, Decimal) else f"{figure:,}"


def _usd(spending: Spending) -> Decimal:
    return spending.usd or Decimal(0)
