"""Breakout of lbdl.games, step by step, against MinAtar's own."""

import numpy as np
import pytest
import torch
from minatar.environments.breakout import Env

from lbdl.games import Breakout

BUTTONS = {0: "l", 1: "n", 2: "r"}  # ours -> MinAtar's


def one_game(env, policy, generator, steps):
    """MinAtar's game and ours from the same start: what is seen, rewards and ends must be the same."""
    env.reset()
    game = Breakout(1, generator, limit=10**6)
    seen, _ = game.reset()
    game.ball = game.before = torch.tensor([[3, env.ball_x]])
    game.way = torch.tensor([[1, 1 if env.ball_dir == 2 else -1]])
    seen, total = game.seen(), 0
    for _ in range(steps):
        assert np.array_equal(seen[0].numpy(), env.state().transpose(2, 0, 1))
        action = policy(game, generator)
        reward, over = env.act(env.action_map.index(BUTTONS[action.item()]))
        seen, gained, lost, _, more = game.step(action)
        assert (gained.item(), lost.item()) == (reward, over)
        total += reward
        if over:
            assert np.array_equal(more["final_obs"][0].numpy(), env.state().transpose(2, 0, 1))
            break
    return total


def at_random(game, generator):
    return torch.randint(3, (1,), generator=generator)


def follow_with_slips(game, generator):
    """Below the ball, now and then beside it: corners are hit, balls are lost."""
    if torch.rand(1, generator=generator) < 0.03:
        return at_random(game, generator)
    return (game.ball[:, 1] - game.paddle).sign() + 1


def follow_from_either_side(game, generator):
    """Below the ball, or where it goes next: hits corners on purpose, so that whole walls are cleared."""
    ahead = game.ball[:, 1] + game.way[:, 1] * (torch.rand(1, generator=generator) < 0.5)
    return (ahead.clamp(0, 9) - game.paddle).sign() + 1


@pytest.mark.parametrize(
    ("policy", "games", "steps", "least"),
    [(at_random, 100, 300, 5), (follow_with_slips, 10, 500, 30), (follow_from_either_side, 3, 2000, 45)],
)
def test_breakout_is_minatars(policy, games, steps, least):
    env, generator = Env(), torch.Generator().manual_seed(0)
    env.random = np.random.RandomState(0)
    assert sum(one_game(env, policy, generator, steps) for _ in range(games)) >= least


def test_games_that_take_too_long_are_truncated_and_begin_anew():
    game = Breakout(200, torch.Generator().manual_seed(5), limit=10)
    game.reset()
    stay = torch.ones(200, dtype=torch.long)
    for step in range(10):
        seen, _, terminated, truncated, more = game.step(stay)
        if step == 5:  # the ball comes down where the paddle stands, or is lost
            lost = terminated
            assert torch.equal(more["final_obs"][:, 1, 9].any(dim=1), terminated)
            assert torch.equal(seen[:, 1, 3].any(dim=1), terminated)
    assert torch.equal(truncated, ~lost)
    assert not (truncated & terminated).any()


@pytest.mark.parametrize("wrong", [{"games": 0}, {"games": 1, "limit": 0}])
def test_wrong_numbers_of_games_are_told(wrong):
    with pytest.raises(ValueError, match="a game and a step"):
        Breakout(generator=torch.Generator(), **wrong)


def test_wrong_numbers_of_actions_are_told():
    game = Breakout(2, torch.Generator())
    game.reset()
    with pytest.raises(ValueError, match="expected 2 actions, got"):
        game.step(torch.ones(3, dtype=torch.long))
