"""Plans limit the connections and the messages per period of an app; meters count them.

Without a plan there is no limit. Connections and messages of all nodes are counted by the engine; a meter without one
counts by itself, and starts at 0 after a restart.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from .engine.contract import Usage
from .lease import MessageLease

Period = Literal["hour", "day", "month"]
PERIODS = get_args(Period)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The limits of one app. None means no limit.

    `max_messages_per_period` counts publishes and sends, by REST too, but not their deliveries. Periods are calendar
    periods in UTC. With `overages` nothing is refused: use beyond the limits is only counted.

    Raises:
        ValueError: a limit is not a positive integer, or the period is unknown.
    """

    name: str | None = None
    max_concurrent_connections: int | None = None
    max_messages_per_period: int | None = None
    period: Period = "month"
    overages: bool = False

    def __post_init__(self) -> None:
        for name in ("max_concurrent_connections", "max_messages_per_period"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number above 0, not {value!r}")
        if self.period not in PERIODS:
            raise ValueError(f"period must be one of {', '.join(PERIODS)}, not {self.period!r}")
        if not isinstance(self.overages, bool):
            raise ValueError(f"overages must be true or false, not {self.overages!r}")


UNBOUNDED = Plan()


class Meter:
    """Counts the use of one app in the current period. `clock` returns unix seconds.

    With a `lease` the messages of all nodes count. Overages of connections are those of this node.
    """

    def __init__(
        self, plan: Plan = UNBOUNDED, clock: Callable[[], float] = time.time, lease: MessageLease | None = None
    ) -> None:
        self.plan = plan
        self._clock = clock
        self._lease = lease
        self._connected = self._peak = self._messages = 0
        self._overage_messages = self._overage_connections = 0
        self._begin(clock())

    def admits(self) -> bool:
        """Return whether the plan allows one more connection."""
        limit = self.plan.max_concurrent_connections
        return limit is None or self.plan.overages or self._connected < limit

    def connect(self) -> None:
        """Count a new connection."""
        now = self._turn()
        if self._lease is not None:
            self._lease.begin(self._start, self._lease_limit, now)
        self._connected += 1
        self._peak = max(self._peak, self._connected)
        self._overage_connections += _is_over(self._connected, self.plan.max_concurrent_connections)

    def disconnect(self) -> None:
        """Count the end of a connection."""
        self._connected -= 1

    def count_message(self) -> bool:
        """Count a message. Return False if it exceeds the plan and must not be routed."""
        now = self._turn()
        self._messages += 1
        if self._lease is not None:
            return self._lease.take(self._start, self._lease_limit, now)
        if not _is_over(self._messages, self.plan.max_messages_per_period):
            return True
        self._overage_messages += self.plan.overages
        return self.plan.overages

    @property
    def period(self) -> int:
        """The start of the current period, in unix seconds."""
        self._turn()
        return self._start

    def period_left(self) -> float:
        """Return the seconds until the next period."""
        return max(0.0, self._end - self._clock())

    def usage(self, shared: Usage | None = None) -> dict[str, Any]:
        """Return the fields of `GET /usage`, without the app. `shared` is the use over all nodes, by the engine."""
        self._turn()
        plan, connected, peak = self.plan, self._connected, self._peak
        messages, overage = self._messages, self._overage_messages
        if shared is not None:
            uncounted = self._lease.refused - self._lease.left if self._lease is not None else 0
            connected, peak = shared.connections, shared.peak_connections
            messages = shared.messages + uncounted
            limit = plan.max_messages_per_period
            overage = max(0, messages - limit) if plan.overages and limit is not None else 0
        return {
            "periodStartUnix": self._start,
            "periodEndUnix": self._end,
            "concurrentNow": connected,
            "peakConcurrent": peak,
            "messagesUsed": messages,
            "overageMessages": overage,
            "overageConnections": self._overage_connections,
            "plan": {
                "name": plan.name,
                "maxConcurrentConnections": plan.max_concurrent_connections,
                "maxMessagesPerPeriod": plan.max_messages_per_period,
                "overagesAllowed": plan.overages,
                "overagesEnabled": plan.overages,
            },
        }

    def replace_plan(self, plan: Plan) -> None:
        """Replace the plan, keeping the counts. A different kind of period starts a new one."""
        renewed = plan.period != self.plan.period
        self.plan = plan
        if self._lease is not None:
            self._lease.allow()
        if renewed:
            self._begin(self._clock())

    def close(self) -> None:
        """Give back the messages that were leased and not used."""
        if self._lease is not None:
            self._lease.close()

    @property
    def _lease_limit(self) -> int | None:
        return None if self.plan.overages else self.plan.max_messages_per_period

    def _turn(self) -> float:
        now = self._clock()
        # A clock that was set back starts no new period.
        if now >= self._end:
            self._begin(now)
        return now

    def _begin(self, now: float) -> None:
        self._start, self._end = _period(self.plan.period, now)
        self._peak = self._connected
        self._messages = self._overage_messages = self._overage_connections = 0


def _is_over(count: int, limit: int | None) -> bool:
    return limit is not None and count > limit


def _period(period: Period, now: float) -> tuple[int, int]:
    start = datetime.fromtimestamp(now, UTC).replace(minute=0, second=0, microsecond=0)
    if period == "hour":
        end = start + timedelta(hours=1)
    elif period == "day":
        start = start.replace(hour=0)
        end = start + timedelta(days=1)
    else:
        start = start.replace(hour=0, day=1)
        end = (start + timedelta(days=32)).replace(day=1)
    return int(start.timestamp()), int(end.timestamp())
