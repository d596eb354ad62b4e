"""What becomes of a decision: what is wanted of the target then, the write, and what is told of it all.

Nothing here waits for the API server: a write is a task of its own, and what became of it is taken in when it is known.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

from rlscaler_operator import accounts, conflicts
from rlscaler_operator.clock import Clock
from rlscaler_operator.deciding import Decider
from rlscaler_operator.fleet import Fleet
from rlscaler_operator.ledger import Ledger
from rlscaler_operator.model import Account, Key, Note, Readings, TargetKey, Workload
from rlscaler_operator.reporting import Reporter
from rlscaler_operator.telemetry import Telemetry
from rlscaler_operator.writing import Actuator, Outcome


class Settler:
    """Writes what is wanted to the targets of a fleet, and reports."""

    def __init__(
        self,
        fleet: Fleet,
        ledgers: Mapping[Key, Ledger],
        decider: Decider,
        actuator: Actuator,
        reporter: Reporter,
        telemetry: Telemetry,
        clock: Clock,
        watched: frozenset[tuple[str, str]],
        start: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """Take the parts. ledgers: the leader's. watched: group and kind of all targets that are watched. start: begins
        a task."""
        self._fleet, self._ledgers, self._decider = fleet, ledgers, decider
        self._actuator, self._reporter, self._telemetry, self._clock = actuator, reporter, telemetry, clock
        self._watched, self._start = watched, start
        self.unkept = asyncio.Event()
        """Set while a checkpoint is due: a target was changed, or a workload is decided for the first time."""

    def settle(self, workload: Workload, ledger: Ledger) -> None:
        """Report a workload, and write to its target where that is wanted."""
        account = self.account(workload, ledger)
        target = account.target
        if target is not None and workload.resource is not None:
            if accounts.is_active(workload) and account.wanted not in (None, target.desired):
                ref = workload.resource.spec.scale_target_ref
                seen = self._fleet.version(target.key)
                self._start(self._written(account, ledger, seen, self._actuator.submit(account, ref)))
            else:
                self._actuator.withdraw(target.key, workload.key)
                if account.write_problem is not None:  # what could not be written is not wanted any more
                    ledger.write_problem = None
                    account = replace(account, write_problem=None)
        elif (gone := self._fleet.target_of(workload)) is not None:
            self._actuator.withdraw(gone, workload.key)
        self.tell(account)

    def account(self, workload: Workload, ledger: Ledger) -> Account:
        """Return all that is known of a workload now."""
        now = self._clock.now()
        key, target_key = workload.key, self._fleet.target_of(workload)
        target = self._fleet.targets.get(target_key) if target_key is not None else None
        verdict = conflicts.Verdict()
        if target is not None:
            rivals = self._fleet.rivals(workload)
            mode, version = accounts.mode_of(workload), self._fleet.version(target.key)
            verdict, ledger.conflict = conflicts.judge(ledger.conflict, now, target, rivals, mode, version)
        decision = ledger.decision if ledger.ready else None
        return Account(
            time=now,
            workload=workload,
            target=target,
            readings=ledger.readings if ledger.ready else None,
            decision=decision,
            policy=ledger.in_use,
            target_problem=self.target_problem(target_key) if target is None and target_key is not None else None,
            source_problem=_source_problem(ledger.readings),
            policy_problem=ledger.policy_problem,
            server_problem=ledger.server_problem if ledger.server is not None else None,
            conflict=verdict.conflict,
            write_problem=ledger.write_problem,
            wanted=accounts.wanted(workload, target, decision, verdict) if target is not None else None,
            last_scale=ledger.last_scale,
            comparison=self._decider.comparison(key) if key in self._decider else None,
        )

    def target_problem(self, target: TargetKey) -> Note:
        """Return why a target that is named is not among those that are known."""
        if (why := self._fleet.unreadable.get(target)) is not None:
            return Note("TargetUnreadable", f"spec.scaleTargetRef: {why}")
        if (target.group, target.kind) in self._watched:
            return Note("TargetNotFound", f"spec.scaleTargetRef: there is no {target}; create it, or correct the name")
        known = ", ".join(f"{kind} ({group})" for group, kind in sorted(self._watched))
        return Note("TargetNotWatched", f"spec.scaleTargetRef: {target.kind} of {target.group or 'the core group'} is "
                                        f"not watched; expected one of {known}; others are named under targets in the "
                                        f"operator's configuration")  # fmt: skip

    async def _written(self, account: Account, ledger: Ledger, seen: int, done: asyncio.Future[Outcome]) -> None:
        """Take in what became of a write. seen: version of the target that the decision saw."""
        began = self._clock.monotonic()
        outcome = await done
        key, target = account.workload.key, account.target
        self._telemetry.wrote(outcome.result, self._clock.monotonic() - began if outcome.wrote else math.nan)
        ledger.write_problem = outcome.problem
        if target is None or account.wanted is None:
            return
        now = self._clock.now()
        if outcome.wrote:
            ledger.conflict = conflicts.wrote(ledger.conflict, now, account.wanted, target, seen, outcome.version)
            ledger.last_scale = now
            self.unkept.set()
        elif outcome.result == "Failed":
            ledger.conflict = conflicts.tried(ledger.conflict, now, account.wanted, target, seen)
        workload = self._fleet.workloads.get(key)
        if workload is None or self._ledgers.get(key) is not ledger:
            return  # it went meanwhile, and nothing would ever forget what is told of it now
        if outcome.wrote:
            self.tell(_rescaled(self.account(workload, ledger), account))
        elif key in self._decider:
            self._decider.write_failed([key])
            self.tell(self.account(workload, ledger))

    def tell(self, account: Account) -> None:
        """Report a workload, with nothing written to its target."""
        status = self._reporter.report(account)
        self._telemetry.told(account, status)


def _rescaled(present: Account, decided: Account) -> Account:
    """Return an account of the moment at which a write ended as one of it. decided: the account that was written.

    Spec, annotations and target may be others by now. Where the target may still be scaled, the count before is told.
    """
    target, before = present.target, decided.target
    if target is not None and before is not None and target.uid == before.uid and accounts.is_active(present.workload):
        target = before
    return replace(present, target=target, wanted=decided.wanted, wrote=True)


def _source_problem(readings: Readings | None) -> Note | None:
    """Return what is wrong with the load's reading."""
    return None if readings is None else readings.problems.get("spec.metrics.load")
