"""What people prefer, as a head beside the control head: it leans on a policy, and leaves its critic alone.

The chance that episode A is preferred to B is that of Bradley & Terry (1952): a logistic function of the difference of
their scores, sums over the decisions of the episodes (Christiano et al. 2017, arXiv 1706.03741). The head that
scores a decision stands on the shared representation, in parallel to the control head:

- `bdq`: a score for each choice of each branch. What is taken is the choice with the highest Q + weight x score.
- `apg`: a score of what the decisions lead to, which is differentiable in the orders; so the score of a policy's own
  trajectory stands beside J.

`preference_heads` has the heads and their loss; here they are learned, from the pairs of a file.

The head has an optimiser of its own. Of the gradient of its loss the value and the branches get nothing and the shared
layers a share, 0 unless it is asked for; a score's own gradient reaches the orders and never the head.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlscaler.errors import UserError
from rlscaler.observation import NAMES
from rlscaler_training import hyper, preference_pairs
from rlscaler_training.branching import Branching
from rlscaler_training.hyper import choice, setting
from rlscaler_training.preference_heads import (
    ChoiceHead,
    Judged,
    OutcomeHead,
    bradley_terry,
    fair,
    judged,
    outcomes,
    outcomes_of,
    partly,
)
from rlscaler_training.preference_pairs import REFUSE, SEGMENT, SKIP, Answer, Segments
from rlscaler_training.relaxation import Stretch

LEAST = 20
"""Pairs with a winner, without which nothing is learned."""
HELD_OUT = 5
"""One pair of so many is not trained on: it tells how well the others are learned."""
STRIDE = 4
"""One decision of so many of an episode is looked at in a gradient step; which ones changes from step to step."""
EVERY = 5
"""Gradient steps between looks at how far the advantages are apart."""
MEMORY = 0.95
"""Weight of what was measured before, in the running scales of scores."""
WINS = {"a": 1.0, "b": 0.0, "equal": 0.5}
"""Share of a win that an answer is for the first episode."""
_STREAM = 0x6C696B65


@dataclass(frozen=True, slots=True)
class Settings:
    """How preferences are learned and what they weigh, each with the source of its default."""

    preference_weight: float = setting(
        0.3, 0.0, 100.0, "What a preference of one standard deviation weighs: bdq: in standard deviations of the "
        "advantages, apg: in units of the score. 0: learned and reported, without effect."
    )  # fmt: skip
    preference_margin: float = setting(
        0.0, 0.0, 100.0, "By how much the score of the better one is to lead, in logits; 0 is Bradley-Terry itself."
    )
    preference_error: float = setting(
        0.1, 0.0, 0.99, "Share of answers that are taken to be blind chance (0.1: Christiano et al. 2017)."
    )
    preference_conflicts: str = choice(
        "average", ("average", "drop", "refuse"), "Answers to one pair that contradict each other: a share of a win "
        "for each side, leave the pair out, or end with an error."
    )  # fmt: skip
    preference_faulty: str = choice(
        REFUSE, (REFUSE, SKIP), "Lines of the file that are none, or whose pair cannot be played again as it was."
    )
    preference_trunk: float = setting(
        0.0, 0.0, 1.0, "Share of the head's gradient that shapes the shared layers too; 0 leaves all else as it is."
    )
    preference_fairness: float = setting(
        0.0, 0.0, 100.0, "How much more a workload counts whose share of violations is above the mean of the workloads "
        "beside it: its weight is 1 + this x (share / mean - 1)."
    )  # fmt: skip
    preference_pairs: int = setting(16, 1, 4096, "Pairs of a gradient step.")
    preference_rate: float = setting(1e-3, 1e-7, 1.0, "Learning rate of the head, by AdamW.")
    preference_decay: float = setting(
        0.1, 0.0, 10.0, "Its weight decay: a few hundred answers are soon known by heart."
    )


@dataclass(slots=True)
class Preferences:
    """P pairs with answers, ready to be learned from. wins: (P,), see `bradley_terry`. held: (P,) not trained on.

    weight: (P,) by how much each counts. notes: about the file. meant: (P,) answers without mistakes, where a script
    knows them: nothing is learned from these, they are reported beside.
    """

    settings: Settings
    segments: Segments
    wins: np.ndarray
    weight: np.ndarray
    held: np.ndarray
    notes: tuple[str, ...]
    meant: np.ndarray | None = None

    def choices(self, network: Branching, head: Sequence[int], device: torch.device, seed: int) -> "Liking":
        """Return what leans on a branching network, which gets a head of scores of its choices (see `ChoiceHead`)."""
        with torch.random.fork_rng(devices=[]):  # what else is drawn stays what it is without preferences
            torch.manual_seed(seed)
            made = ChoiceHead(network.width, head, network.branches, network.activation).to(device)
        network.liking = made
        return Liking(self, made, device, seed)

    def outcomes(self, seen: Sequence[str], width: int, device: torch.device, seed: int) -> "Liking":
        """Return what leans on a policy whose trajectory is differentiable.

        seen: fields of the observation that the network is given. width: of the features that its heads share.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = OutcomeHead(width).to(device)
        made.scale.copy_(torch.as_tensor(outcomes_of(self.segments), device=device).flatten(0, 2).std(dim=0) + 1e-6)
        return Liking(self, made, device, seed, [NAMES.index(name) for name in seen])


class Liking:
    """A head while it is learned: its pairs, its optimiser, and what it says of a policy."""

    def __init__(
        self, told: Preferences, head: "ChoiceHead | OutcomeHead", device: torch.device, seed: int,
        columns: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        """Take the pairs to the device. columns: of the observation that the network is given (None: all)."""
        self.told, self.head, self.seed, self.device = told, head, seed, device
        self.settings = told.settings
        found = told.segments
        seen = found.observation if columns is None else found.observation[..., columns]
        self.observation = torch.as_tensor(seen, device=device)
        self.action = torch.as_tensor(found.action, device=device)
        self.outcome = torch.as_tensor(outcomes_of(found), device=device)
        self.wins = torch.as_tensor(told.wins, dtype=torch.float32, device=device)
        self.weight = torch.as_tensor(told.weight, dtype=torch.float32, device=device)
        self.optimiser = torch.optim.AdamW(
            head.parameters(), lr=self.settings.preference_rate, weight_decay=self.settings.preference_decay
        )

    @property
    def strength(self) -> float:
        """The weight of preferences."""
        return self.settings.preference_weight

    def scores(self, network: Any, pairs: np.ndarray, first: int, stride: int) -> Tensor:
        """Return the scores (P, 2) of pairs, by every so-many-th decision from the first on."""
        index = torch.as_tensor(pairs, device=self.device)
        seen = self.observation[index, :, first::stride]
        share = self.settings.preference_trunk
        with torch.set_grad_enabled(torch.is_grad_enabled() and share > 0.0):
            features = network.features(seen.flatten(0, 2)).reshape(*seen.shape[:3], -1)
        found = self.head.scored(
            partly(features, share),
            self.action[index, :, first::stride], self.outcome[index, :, first::stride],
        )  # fmt: skip
        # as many decisions as the episode has, whichever were looked at
        total: Tensor = SEGMENT * found.mean(dim=2)
        return total

    def pull(self, network: Any, step: int) -> None:
        """Make a gradient step of the head, and leave the network the share of the gradient that is its own.

        To be called between the network's own backward pass and its step. Which pairs are drawn follows from seed and
        step alone.
        """
        settings = self.settings
        rng = np.random.default_rng((_STREAM, self.seed, step))
        pairs = rng.choice(np.flatnonzero(~self.told.held), settings.preference_pairs)
        scores = self.scores(network, pairs, int(rng.integers(STRIDE)), STRIDE)
        index = torch.as_tensor(pairs, device=self.device)
        loss = bradley_terry(
            scores, self.wins[index], self.weight[index], settings.preference_margin, settings.preference_error
        )
        torch.autograd.backward(loss)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            lead = (scores[:, 0] - scores[:, 1]).square().mean().sqrt() / math.sqrt(2.0)
            self.head.spread.lerp_(lead, 1.0 - MEMORY)
            if isinstance(self.head, ChoiceHead) and step % EVERY == 0:
                seen = self.observation[index, :, SEGMENT // 2].flatten(0, 1)
                self.head.unit.lerp_(network.advantage_spread(seen), 1.0 - MEMORY)

    def against(
        self, network: Any, seen: Tensor, stretch: Stretch, orders: Tensor, width: float, counts: Tensor
    ) -> Tensor:  # fmt: skip
        """Return what speaks against orders (N, T) of stretches, (N,): to be added to their score, weight included.

        seen: (N, T, in) what the network sees. counts: (N, T) bool, decisions that count. The gradient is that of the
        orders alone.
        """
        assert isinstance(self.head, OutcomeHead)
        led = outcomes(stretch, orders, width)
        with torch.no_grad():
            say = self.head.say(network.features(seen.flatten(0, 1))).reshape(*seen.shape[:2], -1)
        counted = counts[:, stretch.lead :].float()
        number = counted.sum(dim=1).clamp(min=1.0)
        per = (say * led / self.head.scale).sum(dim=-1)[:, stretch.lead :]
        score = SEGMENT * (per * counted).sum(dim=1) / number / self.head.spread.clamp(min=1.0)
        share = (led[..., 0].detach()[:, stretch.lead :] * counted).sum(dim=1) / number
        found: Tensor = -self.strength * fair(share, self.settings.preference_fairness) * score
        return found

    def judged(self, network: Any, wins: np.ndarray | None = None) -> Judged:
        """Return how well the held-out pairs are told; wins: (P,) other answers to hold them against."""
        pairs = np.flatnonzero(self.told.held)
        with torch.no_grad():
            scores = torch.cat(
                [self.scores(network, part, 0, 1) for part in np.array_split(pairs, 1 + len(pairs) // 64)]
            )
        lead = (scores[:, 0] - scores[:, 1]).double().cpu().numpy()
        return judged(lead, (self.told.wins if wins is None else wins)[pairs], self.settings.preference_error)

    def numbers(self, network: Any) -> dict[str, float]:
        """Return what a run logs."""
        found = self.judged(network)
        return {"preference_accuracy": found.accuracy, "preference_loss": found.loss}

    def report(self, network: Any) -> dict[str, Any]:
        """Return what an artifact's manifest says."""
        told = {"weight": self.strength, "answered": len(self.told.wins)} | asdict(self.judged(network))
        if self.told.meant is not None:
            told["accuracy_as_meant"] = self.judged(network, self.told.meant).accuracy
        return {"preferences": told}

    def state(self) -> dict[str, Any]:
        """Return what is needed to go on."""
        head = {name: value.clone() for name, value in self.head.state_dict().items()}
        return {"head": head, "optimiser": self.optimiser.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` returned."""
        self.head.load_state_dict(state["head"])
        self.optimiser.load_state_dict(state["optimiser"])


# --- from the file


def asked(path: str | Path, settings: Settings) -> dict[str, Any]:
    """Return what a run keeps of preferences: the file, its digest, the settings. Raises UserError."""
    return {"file": str(path), "digest": _digest(path), **asdict(settings)}


def _digest(path: str | Path) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise UserError(f"--preferences {path}: cannot be read: {error.strerror or error}") from error


def of(told: Mapping[str, Any] | None, trained_on: Sequence[str] = ()) -> Preferences | None:
    """Return the preferences of `asked`, None for None. Raises UserError, also where the file has changed since."""
    if told is None:
        return None
    own = {name: value for name, value in told.items() if name not in ("file", "digest")}
    if (now := _digest(told["file"])) != told["digest"]:
        raise UserError(f"--preferences {told['file']}: has changed since the run was begun (digest {now}, expected "
                        f"{told['digest']}); put the old file back or begin a new run")  # fmt: skip
    return load(told["file"], hyper.read(Settings, None, own), trained_on)


def load(path: str | Path, settings: Settings, trained_on: Sequence[str] = ()) -> Preferences:
    """Return what a file of answers tells, its pairs played again. trained_on: loads of the training, for a note.

    Raises UserError where lines are faulty, answers contradict each other and that is not wanted, or there are too few.
    """
    answers, notes = preference_pairs.read(path, settings.preference_faulty)
    answers = [each for each in answers if each.answer != "skip"]
    told, contradicting = pooled(answers, settings.preference_conflicts, path)
    if contradicting:
        what = "left out" if settings.preference_conflicts == "drop" else "averaged"
        notes.append(f"{path}: {contradicting} pairs have answers that contradict each other; they are {what}")
    _require_enough(told, path, contradicting)
    kept, segments, more = preference_pairs.played([each for each, _ in told], settings.preference_faulty, path)
    wins_of = {(each.source, each.pair): share for each, share in told}
    wins = np.array([wins_of[each.source, each.pair] for each in kept])
    _require_enough([(each, float(share)) for each, share in zip(kept, wins, strict=True)], path, contradicting)
    if trained_on and (foreign := sorted(set(segments.names) - set(trained_on))):
        notes.append(f"{path}: pairs are of {', '.join(foreign)} too, which is not trained on")
    # which pairs are held out must not follow from the order of the lines
    order = np.argsort(np.array([f"{each.pair:012d} {each.source}" for each in kept]), kind="stable")
    held = np.zeros(len(kept), bool)
    held[order[HELD_OUT - 1 :: HELD_OUT]] = True
    return Preferences(settings, segments, wins, _fair_pairs(segments, settings), held, (*notes, *more))


def pooled(answers: Sequence[Answer], conflicts: str, where: str | Path) -> tuple[list[tuple[Answer, float]], int]:
    """Return the first answer to each pair with the share of a win of A, and how many pairs have contradicting ones.

    conflicts: see Settings. Raises UserError.
    """
    of_pair: dict[Any, list[Answer]] = {}
    for each in answers:
        of_pair.setdefault((each.source, each.pair), []).append(each)
    told, contradicting = [], 0
    for group in of_pair.values():
        said = {each.answer for each in group}
        if {"a", "b"} <= said:
            contradicting += 1
            if conflicts == "refuse":
                lines = ", ".join(str(each.line) for each in group)
                raise UserError(f"{where}: lines {lines} contradict each other on pair {group[0].pair}; take some out, "
                                "or '--preference-conflicts average' or 'drop'")  # fmt: skip
            if conflicts == "drop":
                continue
        told.append((group[0], float(np.mean([WINS[each.answer] for each in group]))))
    return told, contradicting


def _require_enough(told: Sequence[tuple[Answer, float]], where: str | Path, contradicting: int) -> None:
    clear = sum(share != 0.5 for _, share in told)
    if clear < LEAST:
        also = f", and {contradicting} with contradicting answers" if contradicting else ""
        raise UserError(f"{where}: holds {clear} pairs with a winner{also}; expected at least {LEAST}: go on with "
                        f"'rlscaler prefer {where}'")  # fmt: skip


def _fair_pairs(found: Segments, settings: Settings) -> np.ndarray:
    """Return the weight (P,) of pairs by the share of violations of their workload beside that of all."""
    share = np.zeros(len(found.load))
    for name in set(found.names):
        mine = np.array([each == name for each in found.names])
        share[mine] = found.late_share[mine].mean()
    weight: np.ndarray = fair(torch.as_tensor(share), settings.preference_fairness).numpy()
    return weight
