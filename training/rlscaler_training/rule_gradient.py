"""The constants of the own-history rule by the gradient of the score.

The rule is a network of one layer and six weights to the relaxed world, so what trains networks tunes it too (`apg`),
better than a search over candidates does with a hundred times the work.
"""

import numpy as np
import torch
from torch import Tensor

from rlscaler.action import DRAIN, HOLD
from rlscaler.rules.growth import Growth
from rlscaler_training import relaxation
from rlscaler_training.apg import FIELDS, Material, alike, orders, part

TUNED = ("peak", "latest", "cheap", "quarter", "yesterday", "root")
"""Constants that have a gradient; `drain` and `hold` are those of the action scheme."""
WIDTH, WIDTH_END = 1.0, 0.1
"""Seconds of waiting by which the edge of being late is softened, at first and at last."""
CLIP = 5.0


def correction(weights: Tensor, material: Material, load: Tensor, at: Tensor) -> Tensor:
    """Return what the rule adds to the cheapest log headroom, (N, T), backlog left out; see `Growth.propose`.

    weights: (6,) in the order of TUNED. load, at: (N, T) which load and which decision.
    """
    seen, level, cheap = material.seen[load, at], material.level[load, at], material.cheap[load, at]
    peak, latest, quarter, yesterday = (
        seen[..., FIELDS.index(name)].float() for name in ("max_5m", "rel_latest", "quarter_mean", "yesterday")
    )
    parts = torch.stack([peak, latest, cheap, quarter.clamp(min=0.0), yesterday.clamp(min=0.0)])
    replicas = (level + 0.5) * torch.exp(torch.einsum("k,knt->nt", weights[:5], parts))
    replicas = replicas + weights[5] * torch.sqrt(level)
    return torch.log(replicas.clamp(min=1e-3) / (level + 0.5)) - cheap


def fitted(
    material: Material, *, steps: int = 250, batch: int = 48, decisions: int = 100, rate: float = 0.03, seed: int = 0
) -> dict[str, float]:
    """Return constants for `Growth` that Adam found in so many steps, from the rule's own defaults.

    batch: stretches of load a step; decisions: of a stretch that count; rate: first learning rate, falling to 0 as a
    cosine. Deterministic with a seed on a CPU.
    """
    rng, device = np.random.default_rng(seed), material.seen.device
    weights = torch.tensor([Growth.PARAMETERS[name].default for name in TUNED], device=device, requires_grad=True)
    optimiser = torch.optim.Adam([weights], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        load = torch.as_tensor(alike(material, material.seen.shape[0], batch, rng)[:, None], device=device)
        length = decisions + part(material, load, torch.zeros_like(load)).lead
        begin = torch.as_tensor(rng.integers(0, max(1, material.steps - length), size=(batch, 1)), device=device)
        load, at = load.expand(-1, length), begin + torch.arange(length, device=device)
        wanted = orders(material, correction(weights, material, load, at), load, at)
        width = WIDTH * (WIDTH_END / WIDTH) ** (step / steps)
        cost, late = relaxation.score(part(material, load, at), wanted, width, material.known[load, at])
        loss = (material.weight[load[:, 0]] * (cost + late)).mean()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_([weights], CLIP)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            weights.clamp_(min=0.0)
    found = {name: round(value, 4) for name, value in zip(TUNED, weights.detach().tolist(), strict=True)}
    return found | {"drain": DRAIN, "hold": HOLD}
