"""ZeRO stage 2 by DeepSpeed: each rank keeps a share of the optimiser's state and of the gradient (arXiv 1910.02054).

States go into checkpoints, and come back from them, in the form that torch's own optimiser has, so that a run goes on
with any number of ranks, or alone.
"""

import os
import shutil
from typing import Any

import torch
from torch import Tensor, nn

from rlscaler.errors import UserError
from rlscaler_training.parallel import Model, Through, reached

KERNELS = "deepspeed_shm_comm"
"""DeepSpeed's own communication between processes of one machine, which it compiles when it is first used."""


def require() -> Any:
    """Return DeepSpeed. Raises UserError with what to install where it is missing."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
    except ImportError as error:
        raise UserError(f"--distributed zero2 needs DeepSpeed ({error}): pip install 'rlscaler[deepspeed]'; "
                        "--distributed ddp does without") from error  # fmt: skip
    # gloo carries the same numbers, as it does for DeepSpeed on systems without these kernels: no compiler, no wait
    getattr(deepspeed.ops, "__compatible_ops__", {})[KERNELS] = False
    return deepspeed


class ZeroModel(Model):
    """A `Model` whose optimiser is DeepSpeed's ZeRO-2 around torch's own."""

    def __init__(self, network: nn.Module, optimiser: torch.optim.Optimizer, clip: float) -> None:
        """Split the optimiser, which keeps its settings; the process group has to be there."""
        super().__init__(network, optimiser, clip)
        deepspeed = require()
        config = {
            "train_micro_batch_size_per_gpu": 1,  # told to the log alone: rows are split by the learner
            "gradient_accumulation_steps": 1,
            "gradient_clipping": clip,
            "zero_optimization": {"stage": 2},
        }
        self.parameters = list(network.parameters())
        try:
            with reached():
                deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
                self.engine: Any = deepspeed.initialize(model=Through(network), optimizer=optimiser, config=config)[0]
        except RuntimeError as error:
            if "JIT" in str(error) and shutil.which("g++") is None:
                raise UserError(
                    "--distributed zero2: this DeepSpeed compiles parts of itself and finds no g++; install it "
                    "(Debian, Ubuntu: apt-get install g++), or use --distributed ddp"
                ) from error
            raise
        if (found := int(self.engine.dp_world_size)) != torch.distributed.get_world_size():
            raise RuntimeError(f"DeepSpeed sees {found} ranks of {torch.distributed.get_world_size()}")
        self.zero: Any = self.engine.optimizer

    def __call__(self, compute: Any, *given: Any) -> Any:
        """See `Model`."""
        return self.engine(compute, *given)

    def backward(self, loss: Tensor) -> None:
        """See `Model`; the gradient is clipped in `step`."""
        with reached():
            self.engine.backward(loss)

    def step(self) -> None:
        """See `Model`."""
        with reached():
            self.engine.step()

    def state(self) -> dict[str, Any]:
        """See `Model`."""
        from deepspeed.utils import safe_get_full_optimizer_state

        group = {name: value for name, value in self.optimiser.param_groups[0].items() if name != "params"}
        told: dict[int, Any] = {}
        for held in self.optimiser.state.values():
            names = [name for name, value in held.items() if name != "step"]
            with reached():
                told = {
                    at: {"step": held["step"].clone()}
                    | {name: safe_get_full_optimizer_state(parameter, name) for name in names}
                    for at, parameter in enumerate(self.parameters)
                }
        return {"state": told, "param_groups": [group | {"params": list(range(len(self.parameters)))}]}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Model`."""
        from deepspeed.utils import safe_set_full_optimizer_state

        [group] = state["param_groups"]
        self.optimiser.param_groups[0].update({name: value for name, value in group.items() if name != "params"})
        self.zero.refresh_fp32_params()  # the network has other weights now
        if not state["state"]:
            return
        first, device = state["state"][0], self.parameters[0].device
        flat = self.zero.single_partition_of_fp32_groups[0]
        names = [name for name in first if name != "step"]
        step = torch.as_tensor(first["step"])
        self.optimiser.state[flat] = {"step": step.to(flat.device) if self._on_device() else step.cpu().clone()}
        self.optimiser.state[flat] |= {name: torch.zeros_like(flat) for name in names}
        self.zero._lazy_init_hp_params_optimizer_state()  # which it does at its first step, else
        for at, parameter in enumerate(self.parameters):
            for name in names:
                safe_set_full_optimizer_state(parameter, state["state"][at][name].to(device), name)

    def _on_device(self) -> bool:
        """Whether the optimiser counts its steps on the device."""
        group = self.optimiser.param_groups[0]
        return bool(group.get("fused") or group.get("capturable"))
