"""Tic-Tac-Toe is played by its rules and solved, exact results are those of games, and what is learned beats chance."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler.cli import missing_extra
from rlscaler_training import tictactoe, tictactoe_dqn, tictactoe_picture, tictactoe_report, tictactoe_table
from rlscaler_training.benchmark import benchmark
from rlscaler_training.rollouts import Local
from rlscaler_training.tictactoe import CELLS, FULL, LINES, Games
from rlscaler_training.tictactoe_dqn import Config, Making

SMALL = Config(episodes=3000, envs=64, hidden=(64,), moves_per_update=96, limit=4)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    """Networks are tiny here: threads would wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- the game


def solved(board: str, mover: str) -> int:
    """Return what a board is worth to the one to move, by plain recursion over text: the oracle."""
    other = "O" if mover == "X" else "X"
    if any(all(board[cell] == other for cell in line) for line in LINES):
        return -1
    if " " not in board:
        return 0
    return max(-solved(board[:at] + mover + board[at + 1 :], other) for at, cell in enumerate(board) if cell == " ")


def test_the_game_is_the_known_one() -> None:
    """5,478 positions; 626 end with the first one's line, 316 with the second's, 16 in a draw; nobody has to lose."""
    whole = tictactoe.game()
    stones = np.array([(own | other).bit_count() for own, other in zip(whole.own.tolist(), whole.other.tolist(),
                                                                       strict=True)])  # fmt: skip
    first_won = whole.lost & (stones % 2 == 1)
    assert len(whole.own) == 5478
    assert (first_won.sum(), (whole.lost & ~first_won).sum(), (whole.over & ~whole.lost).sum()) == (626, 316, 16)
    assert tictactoe.values()[0] == 0


@pytest.mark.parametrize("board", ["XO  X    ", "X O  XO  ", "XOXO X  O", "OO XX    ", "XOX O    ", "XOXXOOOX "])
def test_positions_are_worth_what_plain_minimax_says(board: str) -> None:
    mover = "X" if board.count("X") == board.count("O") else "O"
    own, other = (np.array([sum(1 << at for at, cell in enumerate(board) if cell == who)])
                  for who in (mover, "O" if mover == "X" else "X"))  # fmt: skip
    assert tictactoe.values()[tictactoe.game().number(own, other)[0]] == solved(board, mover)


def test_results_are_the_known_ones_and_those_of_games() -> None:
    """Of two players by chance the first wins 58.5 % and loses 28.8 %; perfect ones draw and never lose."""
    chance, best = tictactoe.uniform(), tictactoe.perfect()
    found = tictactoe.duel(chance, chance)
    assert (found.wins, found.draws, found.losses) == pytest.approx((737 / 1260, 8 / 63, 121 / 420))
    assert tictactoe.duel(best, best).draws == pytest.approx(1.0)
    assert tictactoe.duel(best, chance).losses == tictactoe.duel(chance, best).wins == 0.0


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.integers(0, 2**32), st.integers(0, 7))
def test_moves_obey_the_rules_and_symmetries(seed: int, side: int) -> None:
    """Nobody plays a taken cell, a game ends with a line or a full board, and a mirrored game goes the same way."""
    rng, games, mirrored = np.random.default_rng(seed), Games(3), Games(3)
    for _ in range(12):
        mask, before = games.mask(), (games.own | games.other)
        assert ((before[:, None] >> np.arange(CELLS) & 1 == 0) == mask).all()
        cell = np.where(mask, rng.random(mask.shape), -1.0).argmax(axis=1)
        earned, over = games.step(cell)
        assert ((earned > 0) <= over).all()
        same = mirrored.step(tictactoe.PLACES[side, cell])
        assert (same[0] == earned).all()
        assert (same[1] == over).all()
        assert (mirrored.own == tictactoe.MIRRORED[side, games.own]).all()
        assert (games.own[over] == 0).all(), "a game that is over is begun anew"


@pytest.mark.parametrize(("own", "other", "cell"), [(1, 2, 0), (1, 2, 1), (8, 7, 8), (FULL, 0, 0)],
                         ids=["own", "other", "lost", "full"])  # fmt: skip
def test_a_move_against_the_rules_is_refused(own: int, other: int, cell: int) -> None:
    with pytest.raises(ValueError, match="against the rules"):
        tictactoe.played(np.array([own]), np.array([other]), np.array([cell]))


# --- learning


def learned(config: Config, seed: int) -> tictactoe_dqn.Learned:
    return tictactoe_dqn.learn(config, Local(Making(config.envs, config.horizon, seed)), seed)


def test_a_short_training_beats_chance() -> None:
    """3,000 games: far more wins than chance has, on either side, and an update for every so many moves."""
    one = learned(SMALL, 3)
    found = tictactoe.strength(one.player())
    assert found["random_first"]["wins"] > 0.8
    assert found["random_second"]["wins"] > 0.5
    assert one.updates == -(-one.moves // SMALL.moves_per_update)


def test_a_training_comes_out_the_same_twice() -> None:
    one, two = (learned(replace(SMALL, episodes=300), 3) for _ in range(2))
    assert all((a == b).all() for first, second in zip(one.layers, two.layers, strict=True)
               for a, b in zip(first, second, strict=True))  # fmt: skip


def test_the_table_hardly_loses_to_chance() -> None:
    found = tictactoe.strength(tictactoe_table.learn(60_000, 256, 0).player())
    assert found["random_first"]["losses"] < 0.01
    assert found["random_second"]["losses"] < 0.01
    assert found["random_second"]["wins"] > 0.7


def test_a_target_is_the_opposite_of_what_the_opponent_can_have() -> None:
    """With a target network that likes cell 8 by 2 and the mask that forbids it, and without."""
    updates = tictactoe_dqn.Updates(replace(SMALL, gamma=0.5, rate=1e-8), 0)
    with torch.no_grad():
        for each in (updates.network, updates.target):
            for parameter in each.parameters():
                parameter.zero_()
        updates.target[-1].bias[8] = 2.0  # type: ignore[operator]
    rows = [np.array([0, 0]), np.array([0, 256]), np.array([0, 0]), np.array([0, 0]), np.array([False, False])]
    loss = float(updates.step(rows, 1.0))  # targets are -0.5 * 2 and -0.5 * 0, values are 0
    assert loss == pytest.approx((0.5 * 1.0**2 + 0.0) / 2)


# --- the command


def test_chunks_are_whole_and_contiguous() -> None:
    """Where a game goes on, the next position is the one after the move, and a chunk begins where the last ended."""
    worker = Making(4, 8, 0)(0, 0)
    worker.load(tictactoe_dqn.Play(0.3, tictactoe_dqn.copied(tictactoe_dqn.network((8,)))))
    parts = [{name: part.reshape(8, 4) for name, part in worker.collect().items()} for _ in range(2)]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    after = whole["own"] | (1 << whole["cell"].astype(np.int16))
    assert (whole["own"][1:] == np.where(whole["over"], 0, whole["other"])[:-1]).all()
    assert (whole["other"][1:] == np.where(whole["over"], 0, after)[:-1]).all()


MISTAKES = [
    (["--workers", "0"], "--workers 0: expected numbers from 1 to 1,024"),
    (["--workers", "two"], "--workers two: expected numbers"),
    (["--episodes", "0"], "episodes is 0; expected a whole number from 1"),
    (["--output", "missing/found.json"], "missing"),
    (["--address", "nowhere"], "--address nowhere: expected HOST:PORT"),
    (["--address", "127.0.0.1:1"], "--address 127.0.0.1:1: nothing answers there"),
]


@pytest.mark.parametrize(("words", "told"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_mistakes_are_named(words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray comes with the extra `distributed`")
    monkeypatch.chdir(tmp_path)
    found: Result = CliRunner().invoke(benchmark, ["tictactoe", *words])
    assert found.exit_code != 0
    assert told in str(found.exception)


def test_what_to_install_is_told_where_ray_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    found = CliRunner().invoke(benchmark, ["tictactoe", "--workers", "1"])
    assert isinstance(found.exception, ModuleNotFoundError)
    told = missing_extra("benchmark", found.exception)
    assert told is not None
    assert told.message == "'benchmark' needs ray: pip install 'rlscaler[distributed]'"


def test_options_of_the_one_benchmark_are_none_of_the_other() -> None:
    found = CliRunner().invoke(benchmark, ["--seeds", "3", "tictactoe"])
    assert "--seeds stands before tictactoe" in str(found.exception)
    assert "tictactoe" in CliRunner().invoke(benchmark, ["--help"]).output


def row(workers: int, rate: float, alone: float) -> dict[str, Any]:
    counts = {"chunks": 10, "stale": 4, "dropped": 1, "mismatched": 1, "replaced": 3, "waited": 1.0, "staleness": 0.4}
    return {"workers": workers, "start": 2.0, "seconds": 1000 / rate, "episodes": 1000, "episodes_per_s": rate,
            "moves": 7600, "updates": 60, "oversubscribed": workers > 2, "counts": counts,
            "alone": {"seconds": 5.0, "episodes_per_s": alone, "moves_per_s": 7.6 * alone},
            "strength": tictactoe.strength(tictactoe.perfect())}  # fmt: skip


TOLD = {
    "command": "rlscaler benchmark tictactoe", "seed": 0,
    "machine": {"usable_processors": 2, "load": 8.0, "architecture": "x", "python": "3", "versions": {"torch": "2"}},
    "settings": {"episodes": 1000, "envs": 64, "horizon": 16, "batch": 256, "moves_per_update": 128, "limit": 4},
    "rows": [row(0, 500.0, 1000.0), row(1, 1000.0, 2000.0), row(2, 1500.0, 3600.0), row(4, 1500.0, 3600.0)],
    "table": {"seconds": 1.0, "episodes_per_s": 1000.0, "strength": tictactoe.strength(tictactoe.perfect())},
    "chance": tictactoe.strength(tictactoe.uniform()), "perfect": tictactoe.strength(tictactoe.perfect()),
}  # fmt: skip


def test_the_page_tells_what_was_measured(tmp_path: Path) -> None:
    """Efficiency against one worker, what is oversubscribed as such, published figures beside, and chance's 58.5 %."""
    page = tictactoe_report.markdown(TOLD)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    table = {line[0]: dict(zip(tictactoe_report.HEAD, line, strict=False)) for line in lines}
    assert table["2"]["efficiency"] == "75%"
    assert table["2"]["efficiency alone"] == "90%"
    assert table["4 (oversubscribed)"]["efficiency"] == "38%"
    assert table["in this process"]["speed-up"] == "-"
    assert table["2"]["dropped"] == "2"
    assert table["published, 12"]["efficiency"] == "11%"
    assert "58.5 / 12.7 / 28.8" in page
    assert "not at rest: 8 other processes wanted its 2 processors" in page
    assert "oversubscribed" in "\n".join(tictactoe_report.spoken(TOLD))
    stored = tmp_path / "found.json"
    stored.write_text(json.dumps(TOLD))
    made = CliRunner().invoke(tictactoe_report.main, [str(stored), str(tmp_path / "found.md")])
    assert made.exit_code == 0, made.output
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")


def test_the_stored_page_is_that_of_the_stored_results() -> None:
    docs = Path(__file__).parents[2] / "docs"
    told = json.loads((docs / "tictactoe.json").read_text())
    assert (docs / "tictactoe.md").read_text() == tictactoe_report.markdown(told), "run `make docs`"
    assert (docs / "tictactoe.png").exists()
    ours = [each["strength"] for each in told["rows"]]
    assert max(each["random_first"]["losses"] + each["random_second"]["losses"] for each in ours) < 0.04


def test_the_picture_needs_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Exception, match="needs matplotlib"):
        tictactoe_picture.png({})
