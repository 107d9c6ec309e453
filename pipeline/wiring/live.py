"""The state of a run that is going on: what the bar shows, `status` reads and the debug log keeps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..nouns.labels import Way
from ..store.folder import RunFolder
from .endpoint import Endpoint

LAG_SECONDS = 0.02
WRITE_SECONDS = 2.0
LOG_SECONDS = 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EndpointState:
    """One endpoint at this moment.

    tokens_per_minute: the limit in force, given, reported or discovered; None while there is none.
    is_probing: it broke, and one request at a time finds out whether it works again. disabled: why nothing is
    sent there any more; None while it is in service. usage_finding: what cannot be true of its usage; None where
    nothing is wrong. refusal: the server's words while nothing but refusals come; None else. limited_by: why refusals
    slow the run, in a few words; None where they do not. limited_seconds: for how long.
    structured: the way in which labels are asked for; None outside labelling runs.
    """

    name: str
    model: str
    in_flight: int
    most_in_flight: int
    tokens_last_minute: float
    tokens_per_minute: float | None
    paused_seconds: float
    is_probing: bool
    disabled: str | None
    usage_finding: str | None = None
    refusal: str | None = None
    limited_by: str | None = None
    limited_seconds: float = 0.0
    structured: str | None = None

    @classmethod
    def of(cls, endpoint: Endpoint, now: float) -> EndpointState:
        """now: by the loop's clock."""
        flow = endpoint.flow.state(now)
        limit = flow.tokens_per_minute
        return cls(
            name=endpoint.name,
            model=endpoint.model,
            in_flight=flow.in_flight,
            most_in_flight=flow.most_in_flight,
            tokens_last_minute=round(flow.tokens_last_minute),
            tokens_per_minute=None if limit is None else round(limit),
            paused_seconds=round(flow.paused_seconds, 1),
            is_probing=flow.is_probing,
            disabled=None if endpoint.disabled is None else str(endpoint.disabled),
            usage_finding=endpoint.usage.finding,
            refusal=flow.refusal,
            limited_by=flow.limited_by,
            limited_seconds=round(flow.limited_seconds),
            structured=None if endpoint.labelling is None else endpoint.labelling.ladder.way,
        )

    def __str__(self) -> str:
        if self.disabled is not None:
            return f"{self.name}: disabled: {self.disabled}"
        text = f"{self.name}: {self.in_flight} of {self.most_in_flight} in flight"
        if self.tokens_per_minute is not None:
            text += f", {self.tokens_last_minute:,.0f} of {self.tokens_per_minute:,.0f} tokens/min"
        if self.paused_seconds:
            text += f", paused {self.paused_seconds:,.0f} s"
        if self.is_probing:
            text += ", probing with one request at a time"
        if self.structured is not None:
            text += f", labels by {self.structured}"
        if self.refusal:
            text += f"; {self.refusal}"
        if self.limited_by is not None:
            text += f", {self.limited_by} (for {self.limited_seconds:,.0f} s)"
        return text + (f"; {self.usage_finding}" if self.usage_finding else "")


def known_ways(endpoints: Sequence[Endpoint]) -> dict[str, Way]:
    """The way to ask for labels that works, by endpoint and model; without those for which it is not known."""
    known = ((e, e.labelling.known_way) for e in endpoints if e.labelling is not None)
    return {f"{e.name} {e.model}": way for e, way in known if way is not None}


class LoopLag:
    """How late the event loop comes back to a timer: what a block of its thread costs every request.

    longest_seconds: of the run. stalls: how often it was over 50 ms.
    """

    def __init__(self) -> None:
        self.longest_seconds = 0.0
        self.stalls = 0

    async def watch(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_SECONDS
            await asyncio.sleep(LAG_SECONDS)
            late = loop.time() - due
            self.longest_seconds = max(self.longest_seconds, late)
            self.stalls += late > 0.05


async def publish_state(folder: RunFolder, endpoints: Sequence[Endpoint], lag: LoopLag) -> None:
    """Write the state where `status` finds it, and into the debug log. Until cancelled."""
    loop = asyncio.get_running_loop()
    log_at = loop.time() + LOG_SECONDS
    while True:
        states = [EndpointState.of(endpoint, loop.time()) for endpoint in endpoints]
        state: dict[str, Any] = {"endpoints": [asdict(s) for s in states], "loop_lag_s": lag.longest_seconds}
        await loop.run_in_executor(None, folder.write_live, state)
        if loop.time() >= log_at:
            log_at += LOG_SECONDS
            for each in states:
                _log.debug("%s", each)
            log_lag(lag)
        await asyncio.sleep(WRITE_SECONDS)


def log_lag(lag: LoopLag) -> None:
    """The loop-lag figure of the run so far."""
    _log.debug("event loop at most %.0f ms late, %d times over 50 ms", lag.longest_seconds * 1000, lag.stalls)
