"""Breakout of section 6.7, step by step, against MinAtar's own."""

import numpy as np
import pytest
import torch
from lbdl.chapters.ch06 import Breakout, advance, opening, pictured
from minatar.environments.breakout import Env

BUTTONS = {0: "l", 1: "n", 2: "r"}  # ours -> MinAtar's


def one_game(env, policy, generator, steps):
    """MinAtar's game and ours from the same start: what is seen, rewards and ends must be the same."""
    env.reset()
    right = torch.tensor([1 if env.ball_dir == 2 else -1])
    board = opening(torch.tensor([env.ball_x]), right)
    rewards = 0
    for _ in range(steps):
        assert np.array_equal(pictured(board)[0].numpy(), env.state().transpose(2, 0, 1))
        action = policy(board, generator)
        reward, over = env.act(env.action_map.index(BUTTONS[action.item()]))
        board, gained, lost = advance(board, action)
        assert gained.item() == reward
        assert lost.item() == over
        rewards += reward
        if over:
            break
    return rewards


def follow_with_slips(board, generator):
    """Below the ball, now and then beside it: walls come down, corners are hit, balls are lost."""
    if torch.rand(1, generator=generator) < 0.03:
        return torch.randint(3, (1,), generator=generator)
    return (board.ball[:, 1] - board.paddle).sign() + 1


def follow_from_either_side(board, generator):
    """Below the ball, or where it goes next: hits corners on purpose, so that whole walls are cleared."""
    ahead = board.ball[:, 1] + board.heading[:, 1] * (torch.rand(1, generator=generator) < 0.5)
    return (ahead.clamp(0, 9) - board.paddle).sign() + 1


def at_random(board, generator):
    return torch.randint(3, (1,), generator=generator)


@pytest.mark.parametrize(
    ("policy", "games", "steps", "least"),
    [
        (at_random, 200, 300, 10),
        (follow_with_slips, 30, 500, 100),
        (follow_from_either_side, 20, 2000, 300),
    ],
)
def test_breakout_is_minatars(policy, games, steps, least):
    env, generator = Env(), torch.Generator().manual_seed(0)
    env.random = np.random.RandomState(0)
    assert sum(one_game(env, policy, generator, steps) for _ in range(games)) >= least


def test_games_that_end_start_anew_within_the_step():
    game = Breakout(64, torch.Generator().manual_seed(0), torch.device("cpu"), limit=9)
    seen, _ = game.reset()
    fresh = pictured(
        opening(torch.arange(10).repeat_interleave(2), torch.tensor([-1, 1]).repeat(10))
    )
    for _ in range(40):
        seen, rewards, terminated, truncated, more = game.step(torch.ones(64, dtype=torch.long))
        over = terminated | truncated
        assert rewards.shape == terminated.shape == truncated.shape == (64,)
        assert not (terminated & truncated).any()
        assert all((fresh == view).flatten(1).all(dim=1).any() for view in seen[over])
        assert torch.equal(seen[~over], more["final_obs"][~over])


def test_breakout_names_what_is_wrong():
    with pytest.raises(ValueError, match="at least 1 game"):
        Breakout(0, torch.Generator(), torch.device("cpu"))
    game = Breakout(3, torch.Generator(), torch.device("cpu"))
    game.reset()
    with pytest.raises(ValueError, match="expected 3 actions"):
        game.step(torch.ones(2, dtype=torch.long))
