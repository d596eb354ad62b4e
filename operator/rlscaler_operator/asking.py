"""Which inference servers are asked about which workloads, and what a decision makes of their answers.

One request for all workloads of a server and a digest, and one at a time for each workload. Whatever goes wrong is an
answer too: why the local policy decides.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from rlscaler.policy import Proposal
from rlscaler.resource_objects import Spec
from rlscaler.served import answers_of
from rlscaler_operator.deciding import Decider
from rlscaler_operator.inference import Reply, Servers
from rlscaler_operator.model import Key, Note, Readings, Target
from rlscaler_operator.proposals import Served
from rlscaler_operator.telemetry import Telemetry

ASKED_SHARE = 0.5
"""Part of the interval for which a decision waits for an inference server, however long its time-out is."""

log = logging.getLogger("rlscaler.loop")


@dataclass(frozen=True, slots=True)
class Question:
    """What one server is asked at once.

    digest: of the policy that must answer, None for any. patience: seconds that each of the workloads may wait.
    collected: when each was due, and its readings.
    """

    server: str
    digest: str | None
    patience: Mapping[Key, float]
    collected: Mapping[Key, tuple[float, Readings]]


class Asking:
    """Asks inference servers; knows about which workloads one is being asked now."""

    def __init__(self, servers: Servers, decider: Decider, telemetry: Telemetry) -> None:
        """Begin with nobody asked. decider: makes what has to be known to propose."""
        self._servers, self._decider, self._telemetry = servers, decider, telemetry
        self._now: set[Key] = set()

    def begun(
        self,
        collected: Mapping[Key, tuple[float, Readings]],
        served_by: Callable[[Key], tuple[str, Spec] | None],
    ) -> list[Question]:
        """Return what is to be asked, each of which is over only when `over` is told.

        Readings of a workload that is being asked about are left out, as late ones. served_by: its server, and what
        its resource states.
        """
        self._telemetry.late(len(collected.keys() & self._now))
        parties: dict[tuple[str, str | None], dict[Key, float]] = {}
        for key in sorted(collected.keys() - self._now):
            if (found := served_by(key)) is not None:
                server, spec = found
                parties.setdefault((server, spec.policy.digest), {})[key] = ASKED_SHARE * float(spec.interval)
        self._now.update(*parties.values())
        return [
            Question(server, digest, patience, {key: collected[key] for key in patience})
            for (server, digest), patience in sorted(parties.items(), key=lambda party: str(party[0]))
        ]

    def over(self, question: Question) -> None:
        """Take note that a question is answered, or given up: its workloads may be asked about again."""
        self._now -= question.collected.keys()

    async def answer(
        self, question: Question, target_of: Callable[[Key], Target | None]
    ) -> tuple[dict[Key, Served], Reply | Note]:
        """Return what the server proposes for each workload, and its answer, or why there is none that can be used."""
        try:
            keys, reply = await self._replied(question, target_of)
            if isinstance(reply, Reply):
                each = reply.answers
                values = zip(each.replicas.tolist(), each.patience.tolist(), each.trained.tolist(), strict=True)
                return {key: Served(*value, reply.policy) for key, value in zip(keys, values, strict=True)}, reply
        except Exception:
            log.exception("server %s: a defect of rlscaler; the local policy decides", question.server)
            reply = Note("ServerError", f"spec.policy.server: what is asked of {question.server} cannot be made; "
                                        f"the operator's log says more")  # fmt: skip
        return {}, reply

    async def _replied(
        self, question: Question, target_of: Callable[[Key], Target | None]
    ) -> tuple[list[Key], Reply | Note]:
        line = self._servers.get(question.server)
        if line is None:
            text = f"server {question.server} is no longer in the operator's configuration"
            return [], Note("ServerUnreachable", text)
        due = {key: at for key, (at, _) in question.collected.items()}
        readings = {key: found for key, (_, found) in question.collected.items()}
        targets = {key: target for key in due if (target := target_of(key)) is not None}
        keys, rows = self._decider.questions({key: due[key] for key in targets}, readings, targets)
        if not keys:
            return [], Reply(answers_of(Proposal(replicas=np.zeros(0))), question.server, "", "")
        return keys, await line.ask(rows, question.digest, min(question.patience[key] for key in keys))
