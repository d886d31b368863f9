"""A small Breakout for section 6.7, by the rules of MinAtar's (Young and Tian, 2019), of which a test makes sure."""

import torch
from torch import Tensor


class Breakout:
    """G games on 10 × 10 cells; one that ends begins anew in the same step, and after `limit` steps it is truncated."""

    def __init__(self, games: int, generator: torch.Generator, device="cpu", limit: int = 300):
        if games < 1 or limit < 1:
            raise ValueError(f"Breakout: expected a game and a step or more, got {games}, {limit}")
        self.games, self.generator, self.limit = games, generator, limit
        self.index = torch.arange(games, device=device)  # (G,)
        self.ball = self.before = self.way = torch.zeros(games, 2, dtype=torch.long, device=device)  # row, column
        self.bricks = torch.zeros(games, 10, 10, dtype=torch.bool, device=device)
        self.paddle, self.clock = self.index, self.index  # (G,) its column; steps of this game
        self.struck = self.index < 0  # (G,) whether the last step met a brick

    def _begin(self, over: Tensor) -> None:
        """Start those games anew (G,): the ball falls from row 3, from any column, to either side."""
        start = torch.randint(20, (self.games,), generator=self.generator).to(over.device)  # (G,)
        ball = torch.stack([torch.full_like(start, 3), start // 2], dim=1)  # (G, 2)
        way = torch.stack([torch.ones_like(start), start % 2 * 2 - 1], dim=1)  # (G, 2)
        self.ball, self.before = (torch.where(over[:, None], ball, old) for old in (self.ball, self.before))
        self.way = torch.where(over[:, None], way, self.way)
        self.paddle, self.clock = self.paddle.masked_fill(over, 4), self.clock.masked_fill(over, 0)
        self.struck = self.struck & ~over
        self.bricks[:, 1:4] |= over[:, None, None]

    def seen(self) -> Tensor:
        """What a player sees (G, 4, 10, 10): paddle, ball, where the ball was, bricks."""
        picture = torch.zeros_like(self.bricks)[:, None].repeat(1, 4, 1, 1)
        picture[self.index, 0, 9, self.paddle] = True
        picture[self.index, 1, *self.ball.unbind(1)] = True
        picture[self.index, 2, *self.before.unbind(1)] = True
        picture[:, 3] = self.bricks
        return picture

    def reset(self) -> tuple[Tensor, dict]:
        self._begin(self.index >= 0)
        return self.seen(), {}

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict]:
        """Act in all games (G,): 0 is left, 1 stay, 2 right. What is seen now, rewards (G,), which games have
        terminated and which were truncated (G,), and `final_obs`, what was seen before games that ended began anew."""
        if actions.shape != (self.games,):
            raise ValueError(f"Breakout: expected {self.games} actions, got {tuple(actions.shape)}")
        self.paddle, self.clock = (self.paddle + actions - 1).clamp(0, 9), self.clock + 1
        (down, right), (row, column), (above, left) = (x.unbind(1) for x in (self.way, self.ball + self.way, self.ball))
        right = torch.where((column < 0) | (column > 9), -right, right)  # the sides reflect
        down = torch.where(row < 0, -down, down)  # so does the ceiling
        row, column = row.clamp(min=0), column.clamp(0, 9)
        met, bottom = self.bricks[self.index, row, column], row == 9  # (G,)
        hit, self.struck = met & ~self.struck, met  # after a hit the ball passes the next brick
        self.bricks[self.index, row, column] &= ~hit
        self.bricks[:, 1:4] |= (bottom & ~self.bricks.flatten(1).any(dim=1))[:, None, None]  # a new wall
        flat = bottom & (self.paddle == left)  # met from above
        corner = bottom & (self.paddle == column) & ~flat  # met from the side: back the way it came
        back = hit | flat | corner
        self.before, self.ball = self.ball, torch.stack([torch.where(back, above, row), column], dim=1)  # (G, 2)
        self.way = torch.stack([torch.where(back, -down, down), torch.where(corner, -right, right)], dim=1)
        terminated, final = bottom & ~flat & ~corner, self.seen()
        truncated = (self.clock >= self.limit) & ~terminated
        self._begin(terminated | truncated)
        return self.seen(), hit.float(), terminated, truncated, {"final_obs": final}
