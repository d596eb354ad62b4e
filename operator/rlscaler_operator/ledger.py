"""What the leader keeps of one workload beside the decision's own memory, and which policy decides for it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rlscaler.policies import DEFAULT, SPARE_RULE, load_policy
from rlscaler.policy import Policy
from rlscaler.resource_objects import PolicyRef
from rlscaler_operator import conflicts
from rlscaler_operator.inference import Servers
from rlscaler_operator.model import Decision, Note, PolicyInUse, Readings, TargetKey
from rlscaler_operator.policy_store import PolicyRefused, PolicyStore
from rlscaler_operator.queries import Ask, fingerprint
from rlscaler_operator.timestamps import seconds_of


@dataclass(slots=True)
class Ledger:
    """The newest of everything.

    ready: it is decided, since its past has been read. load: whose past that is (`queries.load_of`). learned_by: the
    load, learned_of: the target that what is learned of a replica was learned by and of. in_use: the policy
    that decided last. usable: the last local one that was asked for and could be had. server: that is asked first, None
    where the policy is a local one; server_problem: why its answer was not used at the last decision.
    """

    version: tuple[str, int] = ("", 0)
    target: TargetKey | None = None
    conflict: conflicts.Memory = field(default_factory=conflicts.Memory)
    ready: bool = False
    load: tuple[Ask, Mapping[str, str]] | None = None
    learned_by: tuple[Ask, Mapping[str, str]] | None = None
    learned_of: TargetKey | None = None
    last_scale: float = math.nan
    readings: Readings | None = None
    decision: Decision | None = None
    in_use: PolicyInUse | None = None
    usable: tuple[Policy, PolicyInUse] | None = None
    policy_problem: Note | None = None
    server: str | None = None
    server_problem: Note | None = None
    write_problem: Note | None = None

    def notes(self) -> dict[str, Any]:
        """Return what must outlive this process, as plain JSON."""
        found: dict[str, Any] = {"conflict": conflicts.saved(self.conflict)}
        if math.isfinite(self.last_scale):
            found["lastScale"] = self.last_scale
        if self.learned_by is not None:
            found["load"] = fingerprint(self.learned_by)
        if self.learned_of is not None:
            found["target"] = str(self.learned_of)
        if self.usable is not None:
            found["policy"] = asdict(self.usable[1])
        return found

    def recall(self, notes: Mapping[str, Any], status: Mapping[str, Any], ahead: float = 0.0) -> None:
        """Put back what `notes` returned. status: of the resource, which may tell of a write that came after them.

        ahead: seconds by which the clock of both was ahead of today's. A forced count waits for no past, so this
        process may have written already: then that was the last time.
        """
        self.conflict = conflicts.moved(conflicts.restored(notes.get("conflict")), ahead)
        if math.isfinite(self.last_scale):
            return
        last = notes.get("lastScale")
        last_scale = float(last) if isinstance(last, (int, float)) else math.nan
        told = seconds_of(status.get("lastScaleTime"))
        self.last_scale = (told if not last_scale >= told and math.isfinite(told) else last_scale) - ahead


def chosen(
    store: PolicyStore, wanted: PolicyRef, ledger: Ledger, servers: Servers | None = None
) -> tuple[Policy, PolicyInUse]:
    """Return the policy that decides: the one asked for, else the one that decided before, else the rule.

    Where a server is asked for, it is the one that decides while the server does not. Notes in the ledger why it is not
    the one asked for, and which server is.
    """
    ledger.server = None
    try:
        if wanted.server is not None:
            server = servers.config(wanted.server) if servers is not None else None
            if server is None:
                raise PolicyRefused(Note("PolicyNotFound", _no_server(wanted.server, servers)))
            ledger.server = wanted.server
            ledger.usable = store.get(server.fallback)
            ledger.policy_problem = store.problem(server.fallback)
            return ledger.usable
        ledger.server_problem = None
        name = wanted.name or DEFAULT
        ledger.usable = store.get(name, wanted.digest, wanted.tenure)
        ledger.policy_problem = store.problem(name, wanted.digest)
        return ledger.usable
    except PolicyRefused as refused:
        ledger.policy_problem = refused.note
    return ledger.usable or (load_policy(SPARE_RULE), PolicyInUse(SPARE_RULE))


def decided_before(store: PolicyStore, notes: Mapping[str, Any]) -> tuple[Policy, PolicyInUse] | None:
    """Return the usable policy of which `Ledger.notes` told, None where it told of none or that cannot be had now."""
    told = notes.get("policy")
    if not isinstance(told, Mapping):
        return None
    name, digest, tenure = (told.get(each) for each in ("name", "digest", "tenure"))
    if not (isinstance(name, str) and isinstance(digest, str) and isinstance(tenure, str)):
        return None
    try:
        return store.get(name, digest or None, tenure or None)
    except PolicyRefused:
        return None


def _no_server(name: str, servers: Servers | None) -> str:
    known = ", ".join(servers.names()) if servers is not None else ""
    expected = f"expected one of {known}" if known else "it names none: add it under servers"
    return f"spec.policy.server: {name!r} is no inference server of the operator's configuration; {expected}"
