"""Every setting of every learner says where its default comes from."""

import re
from dataclasses import fields
from importlib import import_module

import pytest
from click.testing import CliRunner

from rlscaler_training.commands import LEARNERS, train

SOURCE = re.compile(
    r"\b(19|20)\d\d\b|arXiv|papers?\b|stable-baselines3|SB3|CleanRL|RL Zoo|Isaac Gym|detail|own choice|not tuned"
    r"|q-learning|: an order|: patience shows|: one hour|: half an hour|: three reaction|one low order|to be read"
)
"""A publication, a program, our own choice, or the reason why."""
OF_THE_RUN = {
    "steps", "generations", "episode", "evaluation", "evaluate_every", "checkpoint_every", "patience", "actions",
    "policy", "compile", "least", "buffer", "replay",
}  # fmt: skip
"""How long it takes, what it may be told, how much is kept: nothing that a source could know."""


@pytest.mark.parametrize("learner", LEARNERS)
def test_every_default_has_a_source_and_every_setting_a_flag(learner: str) -> None:
    config = import_module(f"rlscaler_training.{LEARNERS[learner][0]}").Config
    shown = " ".join(CliRunner().invoke(train, [learner, "--help"], terminal_width=10_000).output.split())
    for each in fields(config):
        about = each.metadata["rlscaler"].about
        assert each.name in OF_THE_RUN or SOURCE.search(about), f"{each.name}: {about}"
        if each.metadata["rlscaler"].check is None:
            assert f"--{each.name.replace('_', '-')}" in shown
