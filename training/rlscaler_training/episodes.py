"""Whether an artifact decides as its network does in torch, decision by decision along whole episodes.

Both are asked about each situation that the artifact leads into; where they answer alike every time, both live through
the same episodes. The network is made of the artifact's own arrays, to the bit, so this can be asked of a file as well.
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from rlscaler.action import QUANTUM
from rlscaler.artifact import Artifact
from rlscaler.branching import ENCODED, BranchingPolicy
from rlscaler.mlp import LARGEST_CORRECTION, MlpPolicy
from rlscaler.observation import HIGH, LOW, NAMES, observe
from rlscaler.policies import from_artifact
from rlscaler.policy import View
from rlscaler.tenured import Tenured
from rlscaler_sim.batch import Batch
from rlscaler_sim.legacy_policy import NAMES as LEGACY_NAMES
from rlscaler_sim.legacy_policy import STEPS, LegacyPolicy
from rlscaler_training import agreement, export, loads
from rlscaler_training.agreement import Agreement
from rlscaler_training.branching import Branching
from rlscaler_training.export import SAMPLE, Mlp
from rlscaler_training.legacy import Legacy, LegacyBatch
from rlscaler_training.loads import Pools

NONE = Agreement(0, 0, 0, 0.0)


def network(policy: Any) -> nn.Module | None:
    """Return the network of a policy as torch runs it, with the same weights; None where it has none."""
    made: Mlp | Branching
    if isinstance(policy, (MlpPolicy, LegacyPolicy)) and (ours := policy.network) is not None:
        widths = [len(bias) for bias in ours.biases]
        names = NAMES if isinstance(policy, MlpPolicy) else LEGACY_NAMES
        fields = [names[int(column)] for column in policy.columns]
        made = Mlp(fields, widths[:-1], widths[-1], ours.activation, names)
        pairs = list(zip(made.linears(), zip(ours.weights, ours.biases, strict=True), strict=True))
    elif isinstance(policy, BranchingPolicy):
        parts = policy.network.layers
        widths_of = {part: [len(bias) for _, bias in layers] for part, layers in parts.items()}
        encoder = next((widths_of[group] for group in ENCODED if group in parts), [1])
        made = Branching(policy.fields, policy.scheme.branches, encoder, widths_of["trunk"], widths_of["value"][:-1],
                         policy.network.activation)  # fmt: skip
        pairs = []
        for part, layers in parts.items():
            linears = [each for each in made.stacks[part].modules() if isinstance(each, nn.Linear)]
            pairs += list(zip(linears, layers, strict=True))
    else:
        return None
    held: Any = policy.network
    with torch.no_grad():
        for linear, (weight, bias) in pairs:
            linear.weight.copy_(torch.from_numpy(weight.T.copy()))
            linear.bias.copy_(torch.from_numpy(bias.copy()))
        made.mean.copy_(torch.from_numpy(held.mean.copy()))
        made.scale.copy_(torch.from_numpy(held.scale.copy()))
    return made.eval()


def asked(net: nn.Module, observation: np.ndarray) -> np.ndarray:
    """Return what torch answers observations (N, F), all fields of the schema."""
    with torch.no_grad():
        found: np.ndarray = net(torch.from_numpy(np.ascontiguousarray(observation))).numpy()
    return found


def along(policy: Any, net: nn.Module, judge: Batch, steps: int, seed: int) -> Agreement:
    """Compare the choices, or the corrected headrooms, of so many decisions in each of the judge's environments."""
    judge.reset(seed)
    found = NONE
    for _ in range(steps):
        view = judge.view
        ours, theirs = policy.network(np, policy.inputs(view)[0]), asked(net, observe(view))
        found = found.and_(compared(policy, view, ours, theirs))
        judge.advance(judge.scaler.settle(view, policy.propose(view, {})[0]))
    return found


def compared(policy: Any, view: View, ours: np.ndarray, theirs: np.ndarray) -> Agreement:
    """Compare what two answers (N, out) to one view come to, where its load is known."""
    known = np.isfinite(view.demand) & np.isfinite(view.features["level"])
    if getattr(policy, "output", "choices") == "correction":
        mine, other = (np.clip(each[known, 0], -LARGEST_CORRECTION, LARGEST_CORRECTION) for each in (ours, theirs))
        return agreement.rounded(mine, other, view.features["trend_cheap"][known], QUANTUM)
    first = policy.scheme.branches[0]
    mask = np.ones(ours.shape, bool)
    mask[:, :first] = policy.scheme.mask(view)
    return agreement.compared(ours[known], theirs[known], policy.scheme.branches, mask[known])


def along_legacy(policy: LegacyPolicy, net: nn.Module, steps: int) -> Agreement:
    """Compare the choices of one episode in the environment of earlier work, where nothing is random."""
    batch, found = LegacyBatch(1, steps), NONE
    seen = batch.reset(0)
    for _ in range(steps):
        ours = policy.values(seen)
        found = found.and_(agreement.compared(ours, asked(net, seen), policy.scheme.branches))
        seen = batch.step(policy(seen)).observation
    return found


def agreed(world: Pools | Legacy, made: Artifact, episode: int, seed: int) -> Agreement | None:
    """Return how an artifact and its network decide along episodes in what it was validated in; None without one."""
    if isinstance(world, Legacy):
        own = LegacyPolicy(made)
        legacy_net = network(own)
        return None if legacy_net is None else along_legacy(own, legacy_net, STEPS)
    policy = from_artifact(made)
    if (net := network(policy)) is None:
        return None
    _, _, judge = loads.batches(world, made.manifest["action_scheme"], 1, episode, seed)
    return along(policy, net, judge, episode, seed + 2)


def sampled(made: Artifact, seed: int = 0) -> Agreement | None:
    """Return how they answer observations drawn evenly from the range that the artifact was trained in; None without a
    network. Of one that earns its say beside rules, the network alone is asked."""
    policy = from_artifact(made)
    policy = policy.learned if isinstance(policy, Tenured) else policy
    if (net := network(policy)) is None or not isinstance(policy, (MlpPolicy, BranchingPolicy)):
        return None
    rng = np.random.default_rng(seed)
    low, high = np.maximum(policy.low, LOW[policy.columns]), np.minimum(policy.high, HIGH[policy.columns])
    seen = np.zeros((SAMPLE, len(NAMES)), np.float32)
    seen[:, policy.columns] = rng.uniform(low, np.maximum(low, high), (SAMPLE, len(low)))
    ours, theirs = policy.network(np, seen[:, policy.columns]), asked(net, seen)
    if getattr(policy, "output", "choices") == "correction":
        return export.corrected(ours, theirs, seen)
    return agreement.compared(ours, theirs, policy.scheme.branches)
