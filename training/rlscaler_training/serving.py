"""Policies that are served, by name and digest, and many callers' rows through one at once. Nothing here is Ray.

What can be served proposes by a view alone: an artifact of a network or a table. A rule decides where it is asked, in
microseconds and without an artifact; a policy with tenure remembers each workload's own past, which only the caller
has, so that its network alone can be served (`--tenure Off`) and its tenure cannot.

On a GPU the network runs through torch in blocks of one size, as it does on NumPy, so that a row is answered alike in
any batch; between the two, the last bits of float32 differ, which shows where two choices are worth the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlscaler import served
from rlscaler.artifact import MAX_BYTES, SUFFIX, Artifact, ArtifactError, dumps, load, loads
from rlscaler.branching import BranchingPolicy
from rlscaler.container import WORD
from rlscaler.errors import UserError
from rlscaler.mlp import MlpPolicy
from rlscaler.policies import DEFAULT, LEARNED, RULES, PolicyError, artifact_path, from_artifact
from rlscaler.policy import Policy
from rlscaler.served import Answers, Rows
from rlscaler.tenured import OFF, Tenured
from rlscaler.trial import require_answers, require_numbers

CPU, CUDA = "cpu", "cuda"
CUDA_BLOCK = 8192
"""Rows of a matrix product on a GPU."""
Digest = str


class UnknownPolicyError(UserError):
    """Nothing is served under that name or digest."""


class Wanted(NamedTuple):
    """What somebody asks to have served. path: of the artifact. tenure: "Off" where its network alone is meant."""

    name: str
    path: Path
    tenure: str | None


class Offer(NamedTuple):
    """A policy on its way to where it is served. data: the artifact's file. alone: without its tenure."""

    name: str
    data: bytes
    alone: bool


@dataclass(frozen=True, slots=True, eq=False)
class Shelved:
    """A policy that is served."""

    name: str
    digest: Digest
    schema: str
    policy: Policy


def wanted(text: str, tenure: str | None) -> Wanted:
    """Return what NAME=PATH, PATH or the name of a built-in policy asks for; raises UserError."""
    name, equals, path = text.partition("=")
    if text in RULES:
        raise UserError(f"{text} is a rule: it needs no server, and decides in microseconds anywhere; expected "
                        f"'{LEARNED}' or the path of an artifact")  # fmt: skip
    if text in (DEFAULT, LEARNED):
        return Wanted(text, artifact_path(text), OFF if text == LEARNED else tenure)
    if not equals:
        name, path = Path(text).name.removesuffix(SUFFIX), text
    if not WORD.fullmatch(name):
        raise UserError(f"{text!r}: {name!r} is no name; expected NAME=PATH with letters, digits, '.', '_' or '-'")
    if name in RULES or name in (DEFAULT, LEARNED):
        raise UserError(f"{text}: {name} is a built-in policy; give it another name: NAME={path}")
    return Wanted(name, Path(path), tenure)


def require_names(wanted: Sequence[Wanted]) -> None:
    """Raise UserError where two policies would be served by one name."""
    if len({each.name for each in wanted}) < len(wanted):
        raise UserError("two policies have one name; expected NAME=PATH with names of their own")


def offered(wanted: Wanted) -> Offer:
    """Return the policy after all checks, as it travels. Raises UserError naming the file."""
    try:
        artifact = load(wanted.path)
    except ArtifactError as error:
        raise UserError(str(error)) from error
    data = dumps(artifact)
    offer = Offer(wanted.name, data, wanted.tenure == OFF)
    try:
        shelved(offer)
    except (ArtifactError, PolicyError) as error:
        raise UserError(f"{wanted.path}: {error}") from error
    return offer


def shelved(offer: Offer, device: str = CPU) -> Shelved:
    """Return the policy of an offer, ready to decide on a device. Raises ArtifactError or PolicyError."""
    artifact = loads(offer.data, max_bytes=MAX_BYTES)
    require_numbers(artifact)
    policy = from_artifact(artifact)
    if isinstance(policy, Tenured):
        if not offer.alone:
            raise PolicyError(
                f"policy {offer.name} earns its say on each workload's own past, which only the caller has; serve "
                f"its network alone with --tenure {OFF}, or let the caller decide by it"
            )
        policy = policy.learned
    require_answers(policy)
    if policy.state(1):
        raise PolicyError(f"policy {offer.name} remembers something; only what decides by one view can be served")
    if device == CUDA:
        policy = on_cuda(policy)
    return Shelved(offer.name, artifact.digest, schema_of(artifact), policy)


def schema_of(artifact: Artifact) -> str:
    """Return the version of the observation that a policy reads."""
    return str(artifact.manifest["observation_schema"])


class Shelf:
    """The policies that are served; the one before stays for callers that ask for its digest."""

    def __init__(self, offers: Iterable[Offer], device: str = CPU) -> None:
        """Take the first policies, of which the first is served where a caller names none.

        Raises ArtifactError or PolicyError.
        """
        self.device = device
        self._current: dict[str, Shelved] = {}
        self._former: dict[str, Shelved] = {}
        for offer in offers:
            self._current[offer.name] = shelved(offer, device)
        if not self._current:
            raise PolicyError("there is nothing to serve; expected a policy")

    def take(self, offer: Offer) -> bool:
        """Serve another policy by a name from now on, and tell whether it is another one.

        Raises ArtifactError or PolicyError, and then the one before stays. What is under way ends with what it began.
        """
        new = shelved(offer, self.device)
        old = self._current.get(offer.name)
        if old is not None and old.digest == new.digest:
            return False
        if old is not None:
            self._former[offer.name] = old
        self._current[offer.name] = new
        return True

    def get(self, name: str | None = None, digest: Digest | None = None) -> Shelved:
        """Return a policy, of that digest where one is given. Raises UnknownPolicyError."""
        if name is not None and name not in self._current:
            raise UnknownPolicyError(f"policy {name!r} is not served; expected {', '.join(self._current)}")
        if digest is None:
            return self._current[name or next(iter(self._current))]
        for each in self.all():
            if each.digest == digest and name in (None, each.name):
                return each
        known = ", ".join(f"{each.name} {each.digest}" for each in self.all())
        raise UnknownPolicyError(f"digest {digest!r} is not served; expected {known}")

    def all(self) -> list[Shelved]:
        """Return the policies in use, and then those before them."""
        return self.current() + self.former()

    def former(self) -> list[Shelved]:
        """Return the policies before those in use."""
        return list(self._former.values())

    def current(self) -> list[Shelved]:
        """Return the policies in use, the one for callers that name none first."""
        return list(self._current.values())


class Question(NamedTuple):
    """What one caller asks, and the policy that is to answer."""

    shelved: Shelved
    rows: Rows


def answer_all(questions: Sequence[Question], device: str = CPU) -> list[Answers]:
    """Return the answers to several callers' questions: one pass for each policy. A row's does not hang on others."""
    found: dict[int, Answers] = {}
    for shelf in dict.fromkeys(question.shelved for question in questions):
        at = [i for i, question in enumerate(questions) if question.shelved is shelf]
        answers = answer(shelf.policy, served.joined([questions[i].rows for i in at]), device)
        begin = 0
        for i in at:
            end = begin + len(questions[i].rows)
            found[i] = answers.part(begin, end)
            begin = end
    return [found[i] for i in range(len(questions))]


def answer(policy: Policy, rows: Rows, device: str = CPU) -> Answers:
    """Return what a policy proposes for rows."""
    if device == CPU:
        with np.errstate(invalid="ignore"):  # what is unknown is NaN, and stays it
            proposal, _ = policy.propose(served.view_of(rows), {})
        return served.answers_of(proposal)
    import torch
    from array_api_compat import torch as xp

    with torch.no_grad():
        proposal, _ = policy.propose(served.view_of(rows, xp, device), {})
        host = {
            name: value.cpu().numpy()
            for name in ("replicas", "patience", "trained")
            if (value := getattr(proposal, name)) is not None
        }
    return served.answers_of(replace(proposal, **host))


def on_cuda(policy: Policy) -> Policy:
    """Return a policy whose network stays on the GPU, instead of being copied there for each batch."""
    import torch

    def there(array: Any) -> Any:
        return torch.as_tensor(np.array(array), device=CUDA)  # a copy, since an artifact's cannot be written

    if isinstance(policy, MlpPolicy):
        mlp = policy.network
        policy.network = replace(
            mlp,
            weights=[there(each) for each in mlp.weights],
            biases=[there(each) for each in mlp.biases],
            mean=there(mlp.mean),
            scale=there(mlp.scale),
            block=CUDA_BLOCK,
        )
    elif isinstance(policy, BranchingPolicy):
        net = policy.network
        policy.network = replace(
            net,
            layers={part: [(there(w), there(b)) for w, b in found] for part, found in net.layers.items()},
            mean=there(net.mean),
            scale=there(net.scale),
            block=CUDA_BLOCK,
        )
    return policy
