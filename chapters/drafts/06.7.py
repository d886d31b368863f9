# %% [markdown]
# ## 6.7 Reinforcement learning
#
# All models so far learned from answers: somebody had drawn the box, or written down the word. For many tasks there
# is nobody who could. Who knows the right move in the middle of a game of Go, or how far each motor of a walking
# robot should turn? What one can say is how well it went in the end. **Reinforcement learning** is learning from
# that. A player acts, the world answers with a new situation and now and then with a reward, and from this alone the
# player has to find out what to do. Nobody says which action was right. And the reward may come long after the action
# that earned it.
#
# The mathematical form of such a game is a **Markov Decision Process**. At each step $t$ the world is in a *state*
# $s_t$, and the player chooses an *action* $a_t$. Then chance decides, with probabilities that depend on $s_t$ and
# $a_t$, on the next state $s_{t+1}$ and on a number, the *reward* $r_t$. That the probabilities depend on nothing
# else, on nothing that happened earlier, is what Markov's name stands for: the state holds all that matters.
#
# ### A world of twenty-five cells
#
# We begin with a world so small that everything about it can be known. A robot stands in one of 5 × 5 cells, and the
# cell is the state. The four actions are up, right, down and left, numbered from 0 in this order, clockwise. A robot
# that would leave the grid or run into a wall `#` stays in place. The game ends in the goal `G`, with a reward of 1,
# or in the pit `P`, with −1. And the floor may be slippery: with a probability called `slip` the robot goes sideways
# instead, half of the time to the left of where it wanted to go, half of the time to the right.
#
# First the moves. The $S = 25$ states are counted row by row, so the state is 5 × row + column. For each state and
# each of the $A = 4$ actions, `neighbours` says where the move leads. A move out of the grid is kept out by the first
# `where`, one into a wall by the second.


# %% tags=["export"]
GRID = ("....G", ".##.P", ".....", ".#.#.", ".....")  # "." is free, "#" a wall, "G" and "P" end it


# %% tags=["export"]
def neighbours(rows: tuple[str, ...]) -> Tensor:
    """The cell (S, 4) to which each of the moves up, right, down, left leads, without slipping."""
    height, width = len(rows), len(rows[0])
    here = torch.arange(height * width)[:, None]  # (S, 1)
    row = here // width + torch.tensor([-1, 0, 1, 0])  # (S, 4)
    column = here % width + torch.tensor([0, 1, 0, -1])  # (S, 4)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    there = torch.where(inside, width * row + column, here)  # (S, 4)
    wall = torch.tensor([cell == "#" for cell in "".join(rows)])  # (S,)
    return torch.where(wall[there], here, there)


# %% [markdown]
# Follow it with a finger: from the lower left corner, which is state 20, four times up and four times right is the
# way to the goal, state 4. One more step to the right would leave the grid.

# %%
cell, path = 20, []
for move in (0, 0, 0, 0, 1, 1, 1, 1, 1):
    cell = neighbours(GRID)[cell, move].item()
    path.append(cell)
claim("from the corner to the goal", path == [15, 10, 5, 0, 1, 2, 3, 4, 4])

# %% [markdown]
# The class `GridWorld` adds chance and rewards. To slip is to make the move that stands beside the wanted one in the
# list of actions, and `roll` shifts the list by one. So `chances`, the probabilities of all next states, are a
# mixture of three. What a robot gets depends on the cell where it arrives: `gain` is 1 in the goal, −1 in the pit, 0
# elsewhere, minus what a step costs if steps cost anything. The expected reward of an action is then one product.
#
# `step` plays the game for $N$ robots at once. A random number below `slip` means a turn, and one below half of it a
# turn to the left, that is −1 in the list of actions instead of 1.


# %% tags=["export"]
class GridWorld:
    """A world of S cells and A = 4 moves, for rows like those of GRID.

    next_state (S, A) and done (S, A): where a move leads, and whether the game is over there, if it
    does not slip. chances (S, A, S): of arriving, if it may. gain (S,) and over (S,): the reward for
    arriving, and whether that ends the game. reward (S, A): expected. free (F,): the cells to be in.
    """

    def __init__(
        self, rows=GRID, slip: float = 0.0, step_cost=0.0, device="cpu", dtype=torch.float32
    ):
        cells = "".join(rows)
        if len({len(row) for row in rows}) != 1 or set(cells) - set(".#GP"):
            raise ValueError(f"GridWorld: expected rows of one length, made of .#GP, got {rows}")
        if not 0 <= slip <= 1:
            raise ValueError(f"GridWorld: expected a slip from 0 to 1, got {slip}")
        self.rows, self.slip, self.device = rows, slip, device
        worth = {"G": 1.0, "P": -1.0}
        gain = [worth.get(cell, 0.0) - step_cost for cell in cells]
        self.gain = torch.tensor(gain, device=device, dtype=dtype)  # (S,)
        self.over = torch.tensor([cell in worth for cell in cells], device=device)  # (S,)
        self.free = torch.tensor([s for s, cell in enumerate(cells) if cell == "."], device=device)
        self.next_state = neighbours(rows).to(device)  # (S, A)
        self.done = self.over[self.next_state]  # (S, A)
        straight = F.one_hot(self.next_state, len(cells)).to(dtype)  # (S, A, S)
        sideways = straight.roll(1, dims=1) + straight.roll(-1, dims=1)
        self.chances = (1 - slip) * straight + slip / 2 * sideways  # (S, A, S)
        self.reward = self.chances @ self.gain  # (S, A)

    def step(self, state: Tensor, action: Tensor, chance: torch.Generator) -> tuple[Tensor, ...]:
        """Where N robots arrive (N,), their rewards (N,), and whether their games are over (N,)."""
        u = torch.rand(len(state), generator=chance).to(self.device)  # (N,)
        turn = (u < self.slip).long() - 2 * (u < self.slip / 2).long()  # (N,) -1, 0 or 1
        arrived = self.next_state[state, (action + turn) % 4]  # (N,)
        return arrived, self.gain[arrived], self.over[arrived]


# %% [markdown]
# Here the floor is slippery, with `slip` 0.2. The most exciting cell is number 8, left of the pit. A robot that goes
# up from there arrives in cell 3 with probability 0.8. With 0.1 the step goes left, into the wall, and the robot
# stays in 8. With 0.1 it goes right, into the pit, so the expected reward is −0.1. Thirty thousand robots do it.

# %%
world = GridWorld(slip=0.2, **EXACT)
beside_pit = torch.full((30_000,), 8, device=DEVICE)
arrived, rewards, over = world.step(beside_pit, 0 * beside_pit, seed(0))  # (30000,) each
shares = arrived.bincount(minlength=25) / len(arrived)  # (S,)

# %%
ways = world.chances[8, 0, [3, 8, 9]]
claim("up from cell 8: chances", ways, equals=[0.8, 0.1, 0.1], within=1e-6)
claim("up from cell 8: expected reward", world.reward[8, 0], equals=-0.1, within=1e-6)
claim(
    "up from cell 8: shares of 30,000 robots",
    shares.to(world.chances),
    equals=world.chances[8, 0],
    within=0.01,
)
claim("up from cell 8: mean reward of 30,000 robots", rewards.mean(), at_least=-0.11, at_most=-0.09)

# %% [markdown]
# ### A policy and its return
#
# A player is described by a **policy**: for each state, what to do there. It may roll a die, so we write it as
# probabilities $\pi(a \mid s)$, a tensor of shape (S, A) whose rows add up to 1. Our first robot takes every action
# with probability ¼, everywhere.
#
# How good is a policy? What a game brings in all is called its **return**. One could just add up the rewards. But a
# reward soon is usually preferred to one late, and a sum without end may be infinite. So a reward is counted less the
# later it comes, by a factor $0 \le \gamma < 1$ for every step, the **discount factor**. The policy is judged by the
# return that is to be expected, and that depends on the state $s$ in which the game begins:
#
# $$V_\pi(s) = \mathbb{E}\Bigl[\, r_0 + \gamma r_1 + \gamma^2 r_2 + \dots \Bigm| s_0 = s \Bigr]
# = \mathbb{E}\Bigl[\, \sum_{t \ge 0} \gamma^t\, r_t \Bigm| s_0 = s \Bigr]$$
#
# With $\gamma = 0.9$, which we use throughout, a reward counts half when it is 6.6 steps away. And with rewards of at
# most 1 no return exceeds $1 + \gamma + \gamma^2 + \dots = 1 / (1 - \gamma) = 10$.
#
# There are two ways to find the expectation. One is to play. `follow_policy` draws an action for every robot: a
# random number falls into one of four pieces of the interval from 0 to 1, as long as the probabilities are. `cumsum`
# adds these up, and the number of ends that lie below is the number of the piece. A robot whose game is over gets
# nothing more.


# %%
def follow_policy(world: GridWorld, policy: Tensor, state: Tensor, steps, chance) -> Tensor:
    """Rewards (T, N) of N robots that start in the states (N,) and follow a policy (S, A)."""
    rewards, playing = [], torch.ones_like(state, dtype=torch.bool)
    for _ in range(steps):
        u = torch.rand(len(state), 1, generator=chance).to(state.device)  # (N, 1)
        action = (u > policy[state].cumsum(dim=1)[:, :-1]).sum(dim=1)  # (N,)
        state, reward, over = world.step(state, action, chance)
        rewards.append(reward * playing)
        playing = playing & ~over
    return torch.stack(rewards)


# %% [markdown]
# The other way needs no games. The return is the first reward plus $\gamma$ times the return of what follows, which
# is a game that starts in the next state. So the expectations hang together,
#
# $$V_\pi(s) = \sum_a \pi(a \mid s) \Bigl( r(s, a) + \gamma \sum_{s'} P(s' \mid s, a)\, V_\pi(s') \Bigr),$$
#
# where $r(s, a)$ is the expected reward, $P(s' \mid s, a)$ are the chances, and the value of a game that is over is
# 0. These are 25 equations for 25 unknowns, all linear. With the matrix $M$ of the chances from state to state,
#   columns of terminal states set to 0, they read $V - \gamma M V = r$, and `solve` solves them. In the code
#   `~world.over`, "not over", counts as 1 or 0. The three dots allow many policies at once, which we shall need.


# %% tags=["export"]
def policy_value(world: GridWorld, policy: Tensor, gamma: float) -> Tensor:
    """The exact expected returns (..., S) from each state, for policies (..., S, A)."""
    moves = torch.einsum("...sa, sat -> ...st", policy, world.chances) * ~world.over  # (..., S, S)
    rewards = (policy * world.reward).sum(dim=-1)  # (..., S)
    unit = torch.eye(moves.shape[-1], device=moves.device, dtype=moves.dtype)  # (S, S)
    return torch.linalg.solve(unit - gamma * moves, rewards)


# %% [markdown]
# From each of the 19 free cells 2,000 robots play at random, for at most 100 steps, after which a reward would count
# less than 0.00003. Their mean returns are near the exact ones. The error of such a mean falls with the root of the
# number of games, and with 2,000 it is typically less than a hundredth.

# %%
gamma = 0.9
at_random = torch.full_like(world.reward, 0.25)  # (S, A)
starts = world.free.repeat_interleave(2000)  # (N,)

# %% tags=["equation-return"]
rewards = follow_policy(world, at_random, starts, 100, seed(1))  # (T, N)
returns = (gamma ** torch.arange(100, device=DEVICE)[:, None] * rewards).sum(dim=0)  # (N,)
mean_return = returns.reshape(-1, 2000).mean(dim=1)  # (19,)
exact_return = policy_value(world, at_random, gamma)[world.free]  # (19,)

# %%
typical_gap = (mean_return - exact_return).square().mean().sqrt()
claim("expected returns: typical gap between played and exact", typical_gap, at_most=0.02)

# %% [markdown]
# ### The best policy
#
# A random walk brings little: near the goal up to 0.3, near the pit down to −0.5. Which policy is best? It is not
# even clear that there is one. A policy might be better from one cell, another policy from another. So let us try
# them all, in a smaller world with five free cells. If each policy has one action for each cell, there are
# $4^5 = 1024$. `cartesian_prod` lists them, and `one_hot` writes an action as probabilities, one of which is 1.

# %%
tiny = GridWorld(("...G", ".#.P"), slip=0.2, **EXACT)
every = torch.zeros(1024, 8, dtype=torch.long, device=DEVICE)  # (1024, S)
every[:, tiny.free] = torch.cartesian_prod(*[torch.arange(4, device=DEVICE)] * 5)
values = policy_value(tiny, F.one_hot(every, 4).double(), gamma)[:, tiny.free]  # (1024, 5)
best = values.sum(dim=1).argmax()

# %% [markdown]
# The policy with the largest sum has the largest value in each of the cells as well. This is no accident. The two
# best choices for two cells never get in each other's way, because what is best in a state does not depend on how one
# came there. A policy that is best from everywhere is called an **optimal policy**, and every Markov Decision Process
# with finitely many states and actions has one that needs no die.

# %%
claim(
    "one of 1024 policies is best from every cell",
    values[best],
    equals=values.amax(dim=0),
    within=1e-12,
)
claim(
    "from the far corner the optimum is far from the mean",
    values[best, 3] - values[:, 3].mean(),
    at_least=0.3,
)

# %% [markdown]
# Trying all is hopeless already for 19 cells, where there are $4^{19}$ policies, 275 thousand million. Bellman found
# the way round in the 1950s. Ask for the value of an *action*: let $Q(s, a)$ be the expected return if the player
# takes $a$ in $s$, and plays optimally ever after. Once these numbers are known, the optimal policy is to take the
# action with the largest. It is called *greedy*, and so from the next state $s'$ on the return is
# $\max_{a'} Q(s', a')$. That gives an equation that the numbers themselves must satisfy, the **Bellman equation**
# (6.1 in the book):
#
# $$Q(s, a) = \mathbb{E}\Bigl[\, r_t + \gamma \max_{a'} Q(s_{t+1}, a') \Bigm| s_t = s,\ a_t = a \Bigr]$$
#
# In the small world we can look. On the left, the return after action $a$ in state $s$, if then the best of the 1024
# policies is followed: no maximum occurs in it. On the right, the equation as it stands, with the expectation as a
# sum over all next states, term by term.

# %% tags=["equation-6.1"]
best_policy = F.one_hot(every[best], 4).double()  # (S, A)
after = policy_value(tiny, best_policy, gamma) * ~tiny.over  # (S,)
followed = (tiny.reward + gamma * tiny.chances @ after)[tiny.free]  # (5, A)
bellman = torch.zeros_like(followed)
known = dict(zip(tiny.free.tolist(), followed.tolist(), strict=True))  # state: four values
for n, s in enumerate(known):
    for a in range(4):
        for following in range(8):
            future = max(known[following]) if following in known else 0
            chance_of = tiny.chances[s, a, following]
            bellman[n, a] += chance_of * (tiny.gain[following] + gamma * future)

# %%
claim("the Bellman equation, for the best of 1024 policies", bellman, equals=followed, within=1e-12)

# %% [markdown]
# ### Sweep by sweep
#
# The equation is not linear, because of the maximum, so `solve` is of no use. But it can be read as an assignment:
# put any table on the right, and out comes another one on the left. Do this again and again. One such round through
# the whole table is called a sweep, and the method *value iteration*.


# %% tags=["export"]
def sweep(world: GridWorld, Q: Tensor, gamma: float) -> Tensor:
    """The right side of equation 6.1 for a table (S, A): rewards plus the best that may follow."""
    best_next = Q.amax(dim=-1) * ~world.over  # (S,) nothing follows when the game is over
    return world.reward + gamma * world.chances @ best_next


def optimal_values(world: GridWorld, gamma: float, sweeps: int = 400) -> Tensor:
    """The table Q (S, A) after some sweeps from zero; after many, that of the optimal policy."""
    Q = torch.zeros_like(world.reward)
    for _ in range(sweeps):
        Q = sweep(world, Q, gamma)
    return Q


# %% [markdown]
# From zero, 400 sweeps lead to what the best of the 1024 policies earns.

# %%
found = optimal_values(tiny, gamma)[tiny.free]  # (5, A)
claim("value iteration finds the best of 1024 policies", found, equals=followed, within=1e-12)

# %% [markdown]
# Why should this lead anywhere? Take two tables that differ by at most $d$. Then their maxima differ by at most $d$,
# so do the averages of these, and the factor $\gamma$ makes it $\gamma d$. A sweep brings any two tables closer, at
# least by the factor 0.9. One of the two may be the solution, which a sweep leaves as it is. So from wherever we
# start, the error shrinks by a tenth or more in every sweep, and there can be only one solution. After 400 sweeps
# only rounding is left. Here are 500 tables of random numbers, each compared with the next.

# %%
guesses = torch.randn(500, 25, 4, generator=seed(2), dtype=torch.float64).to(DEVICE)  # 500 tables
swept = torch.stack([sweep(world, guess, gamma) for guess in guesses])  # (500, S, A)
shrinks = swept.diff(dim=0).abs().amax(dim=(1, 2)) / guesses.diff(dim=0).abs().amax(dim=(1, 2))
claim(
    "two tables after a sweep: their distance, as a multiple",
    shrinks.max(),
    at_least=0.4,
    at_most=0.9,
)

# %% [markdown]
# Watch it on a dry floor, where nothing is left to chance. After the first sweep only the cell beside the goal knows
# that there is something to get. With each sweep the news travels one cell further, and loses a tenth on the way.
# After eight sweeps it has reached the lower left corner, eight steps from the goal: the last step brings the reward,
# and seven factors of 0.9 remain.
#
# The numbers in the picture will be the values of the states, $\max_a Q(s, a)$, and the arrows the best actions, one
# of them where two are equally good, and none where three or four are, since nothing is known there yet. `draw_world`
# puts up what changes: the shades of the cells, and for each a text and four arrows. `fill_world` fills these in.
# What is not a number stays grey, or has no arrow.


# %%
def draw_world(ax, world: GridWorld, size: float = 10):
    """The shades, texts and arrows of a picture of a world, for `fill_world`."""
    cells, width = "".join(world.rows), len(world.rows[0])
    shades = ax.imshow(torch.zeros(len(world.rows), width), vmin=-1.7, vmax=1.7)
    shades.set_cmap(plt.get_cmap("RdBu").with_extremes(bad="#999999"))  # walls are grey
    place = torch.arange(len(cells)).repeat_interleave(4)  # (4 S,)
    x, y = place % width, place // width + 0.22
    arrows = ax.quiver(x, y, x, x, color=color.data, pivot="mid", units="xy", scale=1, width=0.05)
    texts = [
        ax.text(
            s % width, s // width - 0.2 * (cell == "."), "", ha="center", va="center", size=size
        )
        for s, cell in enumerate(cells)
    ]
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return shades, texts, arrows


# %%
def fill_world(parts, world: GridWorld, values: Tensor, policy: Tensor) -> None:
    """Put values (S,), and an arrow wherever a policy (S, A) is above 0, into a picture."""
    shades, texts, arrows = parts
    cells, height = "".join(world.rows), len(world.rows)
    shown = [
        {".": v, "G": 1.0, "P": -1.0}.get(cell, math.nan)
        for cell, v in zip(cells, values.tolist(), strict=True)
    ]
    shades.set_data(torch.tensor(shown).clamp(-1, 1).reshape(height, -1))
    for text, cell, value in zip(texts, cells, shown, strict=True):
        number = f"{value:.2f}".replace("-", "−")
        text.set_text({".": number, "G": "goal", "P": "pit"}.get(cell, ""))
        text.stale = True  # drawn anew, since it stands on the shades
    free = torch.tensor([cell == "." for cell in cells])[:, None]  # (S, 1)
    length = torch.where(free & (policy.cpu() > 0), 0.36, math.nan)  # (S, 4)
    arrows.set_UVC(length * torch.tensor([0, 1, 0, -1]), length * torch.tensor([1, 0, -1, 0]))


# %%
def greedy(Q: Tensor) -> Tensor:
    """The policy (S, A) that takes the action with the largest value in a table (S, A)."""
    return F.one_hot(Q.argmax(dim=1), Q.shape[1]).to(Q.dtype)


def fill_with(parts, world: GridWorld, Q: Tensor) -> None:
    """Put the values and the best actions of a table (S, A) into a picture."""
    top = Q.amax(dim=1, keepdim=True)  # (S, 1)
    decided = (top - Q < 1e-5).sum(dim=1, keepdim=True) < 3  # (S, 1)
    fill_world(parts, world, top[:, 0], greedy(Q) * decided)


# %%
dry = GridWorld(**EXACT)
corner_value = optimal_values(dry, gamma)[20].amax().item()
claim("dry floor: value of the lower left corner", corner_value, equals=gamma**7, within=1e-6)

# %%
reached = [(optimal_values(dry, gamma, k)[dry.free] > 0).any(dim=1).sum().item() for k in (1, 3, 8)]
claim("dry floor: cells with a value above 0 after 1, 3 and 8 sweeps", reached == [1, 5, 19])

# %%
fig, axes = plt.subplots(1, 4, figsize=(8.5, 2.4))
for ax, count in zip(axes, (1, 3, 5, 8), strict=True):
    fill_with(draw_world(ax, dry, 8), dry, optimal_values(dry, gamma, count))
    ax.set_title("1 sweep" if count == 1 else f"{count} sweeps", size=11)
said = "Four grids. Cells with a value above 0, and arrows that lead to the goal: "
said += "{} after 1 sweep, {} after 3, {} after 8.".format(*reached)
figure("6.7a", "The news of the goal spreads, sweep by sweep.", said)

# %% [markdown]
# Now the slippery floor, and the greedy policy for its table. Whether it is as good as the table promises can be
# tested by `policy_value`, which knows of no maximum: it follows the policy, and solves linear equations. The two
# agree in every cell.

# %%
Q_best = optimal_values(world, gamma)  # (S, A)
V_best = policy_value(world, greedy(Q_best), gamma)  # (S,)
claim("the greedy policy earns what Q promises", V_best, equals=Q_best.amax(dim=1), within=1e-10)

# %%
fig, axes = plt.subplots(1, 2, figsize=(7.2, 3.6))
V_random = policy_value(world, at_random, gamma)  # (S,)
fill_world(draw_world(axes[0], world), world, V_random, 0 * at_random)
fill_with(draw_world(axes[1], world), world, Q_best)
ranges = []
for ax, title, V in zip(axes, ("at random", "optimal"), (V_random, V_best), strict=True):
    ax.set_title(title)
    ranges.append(f"{title}: from {V[world.free].min():.2f} to {V[world.free].max():.2f}")
said = "Two grids with expected returns, and arrows for the optimal policy. " + "; ".join(ranges)
figure("6.7b", "Expected returns on a slippery floor, of two policies.", said)

# %% [markdown]
# Look at the cell left of the pit. It is two steps from the goal, yet worth hardly more than the upper left corner,
# which is four steps away but safe. And look at the second cell of the middle row, number 11. Past the pit its way to
# the goal would take five steps. The optimal policy turns left and takes seven, and this is worth 0.017 more.

# %%
turns = Q_best[11, 3] - Q_best[11, 1]
claim("cell 11: the long way round is worth more, by", turns, at_least=0.01, at_most=0.02)

# %% [markdown]
# Now change the world, and the best policy follows at once. Raise `discount` to 0.99, which makes a patient robot.
# Left of the pit it now runs into the wall on purpose, again and again. It moves only when it slips, which takes it
# up or down and never into the pit. Safety has become worth more than time. Back at 0.9, a `slip` of 0.4 has the same
# effect. Or let every step cost something. At a `step cost` of 0.5 the robot below the pit gives up and jumps in: the
# way to the goal has become too dear. And with few `sweeps` one sees what value iteration knows so far.


# %%
def scene(fig):
    """A grid of cells with a wall, a goal and a pit; each has its value and an arrow for the best move."""
    ax = fig.subplots()
    parts = draw_world(ax, GridWorld(), 11)

    def update(discount, slip, step_cost, sweeps):
        floor = GridWorld(slip=slip, step_cost=step_cost)
        Q = optimal_values(floor, discount, sweeps)  # (S, A)
        fill_with(parts, floor, Q)
        left_of = ("up", "into the pit", "down", "into the wall")[Q[8].argmax()]
        below = ("into the pit", "right", "down", "left")[Q[14].argmax()]
        corner = f"value of the lower left corner {Q[20].amax():.2f}"
        return f"{corner}; left of the pit the best move is {left_of}, below it {below}"

    return update


# %%
player = {"discount": slider(0.5, 0.99, 0.9, 0.01), "slip": slider(0.0, 0.6, 0.2, 0.02)}
effort = {"step_cost": slider(0.0, 1.0, 0.0, 0.02), "sweeps": slider(1, 41, 41, 4)}
explore(scene, "6.7c", "The best policy, for every world.", (4.4, 4.4), **player, **effort)

# %% [markdown]
# ### Learning from experience
#
# So far the robot had the map, and the chances. A real one has neither. It has its experience: I was in $s$, did $a$,
# got $r$, and found myself in $s'$. *Q-learning* makes a table from nothing else. Every such step is one sample of
# the right side of the Bellman equation, and so the entry moves a little towards it:
#
# $$Q(s, a) \;\leftarrow\; Q(s, a) + \eta\, \Bigl( r + \gamma \max_{a'} Q(s', a') - Q(s, a) \Bigr)$$
#
# The expectation is never computed. It comes about because an entry is moved many times, each time towards another
# sample. For this the rate $\eta$ has to fall, else the last few samples weigh too much. Ours is $10 / (10 + n)$ at
# the $n$th visit of an entry. That is close to 1 at first, when the table is wrong anyway, and later the entry is
# nearly an average over its last tenth of visits. Where the game is over there is no next state, so the target is $r$
# alone.
#
# `update_table` does this for the steps of many robots, one after the other. The table is a list of lists, which is
# faster than a tensor when single numbers are changed.


# %%
def update_table(Q: list, visits: list, steps, gamma: float, rate: float | None = None) -> None:
    """Q-learning, in place, from steps (state, action, reward, next state, over)."""
    for s, a, reward, following, over in steps:
        visits[s][a] += 1
        target = reward if over else reward + gamma * max(Q[following])
        Q[s][a] += (rate or 10 / (10 + visits[s][a])) * (target - Q[s][a])


# %% [markdown]
# First by hand, at rate 0.5. A step from cell 3 into the goal moves the entry from 0 to 0.5. The same step again
# closes half of the gap that is left. Then a step from cell 2 into cell 3 passes the news on: half of 0.9 × 0.75. The
# table's row for the goal is never asked, since nothing follows there. So it may hold anything, such as nines.

# %%
small_table, small_visits = [[0.0] * 4 for _ in range(25)], [[0] * 4 for _ in range(25)]
small_table[4] = [9.0] * 4
into_goal, towards_it = (3, 1, 1.0, 4, True), (2, 1, 0.0, 3, False)

# %%
update_table(small_table, small_visits, [into_goal, into_goal, towards_it], 0.9, rate=0.5)
claim("three updates by hand", small_table[3] + small_table[2] == [0, 0.75, 0, 0, 0, 0.3375, 0, 0])

# %% [markdown]
# Whose experience should it be? Bellman's equation does not ask: it holds for every step, whoever made it. So the
# robots may stagger about at random, and the table still learns what the *best* player would get. A hundred of them
# play, with one table for all. When a robot is `curious`, it takes any action, else always the best by the table as
# it stands. A robot that arrives in the goal or in the pit starts anew in a random free cell.


# %%
def learn_table(chance, curious=True, rate=None, rounds=3000) -> Tensor:
    """The table Q after each round of one step by 100 robots: (rounds, S, A)."""
    Q, visits, tables = [[0.0] * 4 for _ in range(25)], [[0] * 4 for _ in range(25)], []
    state = world.free[torch.randint(19, (100,), generator=chance).to(DEVICE)]  # (100,)
    for _ in progress(range(rounds), "robots"):
        any_action = torch.randint(4, (100,), generator=chance).to(DEVICE)  # (100,)
        best_action = torch.tensor(Q, device=DEVICE).argmax(dim=1)[state]  # (100,)
        action = any_action if curious else best_action
        arrived, reward, over = world.step(state, action, chance)
        columns = (part.tolist() for part in (state, action, reward, arrived, over))
        update_table(Q, visits, zip(*columns, strict=True), gamma, rate)
        anew = world.free[torch.randint(19, (100,), generator=chance).to(DEVICE)]  # (100,)
        state = torch.where(over, anew, arrived)
        tables.append(torch.tensor(Q, dtype=torch.float64, device=DEVICE))
    return torch.stack(tables)


# %%
learned = {"falling rate": learn_table(seed(3))}  # (rounds, S, A)
learned["fixed rate"] = learn_table(seed(3), rate=0.5)
learned["not curious"] = learn_table(seed(3), curious=False)

# %%
misses = {}  # for each the typical error, (rounds,)
for name, tables in learned.items():
    misses[name] = (tables - Q_best)[:, world.free].square().mean(dim=(1, 2)).sqrt()

# %% [markdown]
# After 3000 rounds the 76 entries of the free cells are off by about 0.01, typically. The greedy policy for this
# table earns nearly all that can be earned, on average over the cells. We let `policy_value` judge it, as before.
# With a fixed rate of 0.5 the table never comes to rest.


# %%
def share_earned(Q: Tensor) -> Tensor:
    """What the greedy policy for a table is worth in the free cells, as a share of the optimum."""
    return policy_value(world, greedy(Q), gamma)[world.free].mean() / V_best[world.free].mean()


# %%
claim("Q-learning: typical error of a value", misses["falling rate"][-1], at_most=0.03)
claim(
    "Q-learning: share of the best return", share_earned(learned["falling rate"][-1]), at_least=0.9
)
unrest = (misses["fixed rate"] / misses["falling rate"])[-500:].mean()
claim("fixed rate: error at the end, as a multiple", unrest, at_least=3)

# %% [markdown]
# And the robots that are not curious? In a table of zeros all actions are equally good, and `argmax` takes the first,
# which is up. So they all go up, until one slips sideways into the goal. From then on that entry is above zero, the
# others are not, and what worked once is done for ever. Only in the two cells beside the pit, where going up was
# punished, did they find something else. They earn a seventh of what they could, and will never know.

# %%
stuck = learned["not curious"][-1]  # (S, A)
still_up = (stuck[world.free].argmax(dim=1) == 0).sum().item()
claim("without curiosity: share of the best return", share_earned(stuck), at_most=0.3)

# %%
fig, axes = plt.subplots(1, 3, figsize=(8.5, 2.75), width_ratios=[1.3, 1, 1])
rounds = torch.arange(1, 3001)
shades = (color.model, color.gradient, "#777777")
for (name, missed), shade, height in zip(misses.items(), shades, (0.0075, 0.27, 0.55), strict=True):
    axes[0].plot(rounds, missed.cpu(), color=shade, lw=1)
    axes[0].text(3000, height, name, color=shade, ha="right")
axes[0].set(xlabel="rounds", title="Typical error", ylim=(0.006, 0.8))
log_scale(axes[0].xaxis, [1, 10, 100, 1000])
log_scale(axes[0].yaxis, [0.01, 0.03, 0.1, 0.3])
for ax, title in zip(axes[1:], ("falling rate", "not curious"), strict=True):
    fill_with(draw_world(ax, world, 8.5), world, learned[title][-1])
    ax.set_title(title.capitalize())
said = "Left: the typical error falls for the falling rate, stays above it for a fixed rate, and does not "
said += "fall without curiosity. Middle: learned values, with arrows that lead to the goal. "
said += f"Right: {still_up} of 19 arrows point up."
figure("6.7d", "Tables learned from the experience of 100 robots.", said, held="trained")

# %% [markdown]
# So a player must try what seems worse, now and then, or it will not learn what is better. The players of the game
# below will do both.
#
# **Exercise.** Why values of actions, and not simply of states? Suppose that only $V(s)$ were known, the value of
# each state when played optimally. Write the function that finds the best actions from it. Everything that the
# function needs in addition, a robot would have to know about the world before it could use its values.


# %% tags=["exercise"]
def best_moves(chances: Tensor, gain: Tensor, over: Tensor, V: Tensor, gamma: float) -> Tensor:
    """The best action (S,) in each state, from its value V (S,).

    chances (S, A, S): of arriving in each state. gain (S,): the reward for arriving there, and
    over (S,): whether the game ends with it, so that nothing follows.
    """
    raise NotImplementedError


def moves_in(world: GridWorld, gamma: float, find: Callable) -> tuple[Tensor, Tensor]:
    """The moves (F,) that a function finds in the free cells, and the right ones."""
    Q = optimal_values(world, gamma)  # (S, A)
    V = Q.amax(dim=1) + 9 * world.over  # (S,) nines where nobody should look
    moves = find(world.chances, world.gain, world.over, V, gamma)  # (S,)
    return moves[world.free], Q.argmax(dim=1)[world.free]


dear = GridWorld(slip=0.2, step_cost=0.6, **EXACT)
check(
    best_moves,
    ("the world above", lambda g: moves_in(world, 0.9, g)),
    ("the same for a patient robot", lambda g: moves_in(world, 0.99, g)),
    ("steps that cost 0.6 each", lambda g: moves_in(dear, 0.9, g)),
)


# %% tags=["solution", "hide-input"]
def best_moves(chances: Tensor, gain: Tensor, over: Tensor, V: Tensor, gamma: float) -> Tensor:
    """It takes the chances of every move to get Q back; with Q one knows without them."""
    return (chances @ (gain + gamma * V * ~over)).argmax(dim=1)


# %% [markdown]
# ### A network instead of a table
#
# A table has one entry for each state and action. That works for nineteen cells. It does not work for a game that is
# seen as an image. At the end of this section one will be played in which a ball knocks down thirty bricks. The
# bricks alone, each there or gone, can stand in $2^{30}$ ways, a thousand million, and no player will meet most of
# them even once. What is learned about one image must carry over to images like it. A function of the pixels with
# weights can do that. A **Deep Q-Network** is a network $Q(s, a; w)$ that gets the state $s$ and gives one number for
# each action $a$: its estimate of what the return will be when this action is taken now, and the best ones ever
# after.
#
# It has as many outputs as there are actions, so one pass values them all. Ours is a multi-layer perceptron, with two
# layers of 256 and 128 units unless told otherwise. `pairwise` gives each width with the one that follows. Images of
# truth values come in as they are, and become numbers of the same kind as the weights.


# %% tags=["export"]
class QNetwork(nn.Module):
    """What each action is worth: observations (N, …), D numbers each, to the values (N, A) of A actions."""

    def __init__(self, D: int, A: int, hidden: tuple[int, ...] = (256, 128)):
        super().__init__()
        widths = (D, *hidden)
        dense = [nn.Linear(width, following) for width, following in pairwise(widths)]
        steps = [part for layer in dense for part in (layer, nn.ReLU())]
        self.D, self.layers = D, nn.Sequential(*steps, nn.Linear(widths[-1], A))

    def forward(self, seen: Tensor) -> Tensor:
        flat = seen.flatten(1)  # (N, D)
        if flat.shape[1] != self.D:
            raise ValueError(f"QNetwork: expected (N, {self.D}) flattened, got {tuple(flat.shape)}")
        return self.layers(flat.to(self.layers[-1].weight.dtype))  # (N, A)


# %% [markdown]
# What is its ground truth? It is the same as for the table: each step that is played gives a target, the reward that
# came plus what seems to be the best afterwards. An entry of the table was moved towards it by hand. The network is
# trained by regression instead. In step $n$ of a batch of $N$ the action $a_n$ was taken in state $s_n$, the reward
# $r_n$ came, and then the state $s'_n$, and the loss compares with targets $y_n$ (equation 6.2 in the book):
#
# $$\mathscr{L}(w) = \frac{1}{N} \sum_{n=1}^{N} \bigl(Q(s_n, a_n; w) - y_n\bigr)^2, \qquad
# y_n = \begin{cases} r_n & \text{if the game ended there} \\ r_n + \gamma \max_a Q(s'_n, a; \bar w) & \text{else}
# \end{cases}$$
#
# The bar on the second $w$ matters. With one and the same $w$ on both sides, each step towards a target would move
# the target as well, and, unlike in a table, also those of all other states. So $\bar w$ is a frozen copy of the
# weights, renewed only now and then, and no gradient flows into it: a target is a number, not a function.
#
# In the code, `gather` picks from each row of values that of the action taken. `amax` takes the largest of each row,
# inside `no_grad`, so that nothing is recorded. And `~terminated`, that is "not terminated", counts as 0 where the
# game ended and as 1 elsewhere. With it the two cases of the equation become one line.


# %% tags=["export"]
def dqn_loss(model, frozen, seen, actions, rewards, next_seen, terminated, gamma=0.95) -> Tensor:
    """Equation 6.2 for N transitions: seen and next_seen (N, …), the others (N,)."""
    values = model(seen).gather(1, actions[:, None]).squeeze(1)  # (N,) of the actions taken
    with torch.no_grad():
        best = frozen(next_seen).amax(dim=1)  # (N,) of the best next action
    return F.mse_loss(values, rewards + gamma * best * ~terminated)


# %% [markdown]
# The same by hand, on twelve made-up transitions of which four end the game, with two small networks, one for each
# side.

# %%
chance = seed(1)
small_q, small_frozen = (QNetwork(6, 3, hidden=(8,)).to(**EXACT) for _ in range(2))
before, later = torch.randn(2, 12, 6, generator=chance, dtype=torch.float64).to(DEVICE)  # (12, 6)
done = torch.randint(3, (12,), generator=chance).to(DEVICE)  # (12,) the actions
got = torch.randn(12, generator=chance, dtype=torch.float64).to(DEVICE)  # (12,) the rewards
ended = torch.arange(12, device=DEVICE) % 3 == 0  # (12,)

# %% [markdown]
# A loop goes through the equation term by term. `tolist` turns the frozen network's three values into plain numbers,
# which is what freezing means: a number has no gradient.

# %% tags=["equation-6.2"]
by_loop = 0.0
for n in range(12):
    y = got[n]
    if not ended[n]:
        y = y + 0.9 * max(small_frozen(later[n : n + 1])[0].tolist())
    by_loop = by_loop + (small_q(before[n : n + 1])[0, done[n]] - y) ** 2 / 12
at_once = dqn_loss(small_q, small_frozen, before, done, got, later, ended, gamma=0.9)
claim("equation 6.2 in a loop and all at once", at_once, equals=by_loop, within=1e-12)

# %% [markdown]
# The gradients agree as well, for all 83 weights of the first network. For the weights of the frozen one there is
# none. Asked for it, PyTorch answers `None`.


# %%
def all_slopes(loss: Tensor) -> Tensor:
    """The gradient of a loss for all weights of the small network, as one list (83,)."""
    found = torch.autograd.grad(loss, [*small_q.parameters()], retain_graph=True)
    return torch.cat([part.flatten() for part in found])


# %%
claim("both gradients", all_slopes(at_once), equals=all_slopes(by_loop), within=1e-12)
into_copy = torch.autograd.grad(at_once, [*small_frozen.parameters()], allow_unused=True)
claim("no gradient flows into the frozen copy", all(part is None for part in into_copy))

# %% [markdown]
# ### What to learn from, and who plays
#
# Such a step, with all that belongs to it, is called a transition. Which of them go into a batch? Those just played
# resemble each other: the ball is always where it was a moment ago, plus one step. A network trained on one stretch
# of play fits itself to that stretch and forgets the others. So every transition is put into a **replay buffer**, a
# store of the last hundred thousand or so, and a batch is drawn from it at random. Its examples then come from many
# games and many moments, as in ordinary training, and each is used several times. That is allowed for the reason that
# let the robots stagger about at random: Bellman's equation does not ask who played, and holds also for the steps of
# an old and clumsy player.
#
# Ours keeps a few tensors, and fills their rows in turn. When all are taken, the remainder `%` leads back to the
# first row, the oldest. The places are made when the first rows come, since only then their shapes are known.


# %% tags=["export"]
class ReplayBuffer:
    """The last `capacity` transitions, each a row of several tensors that share their first dimension."""

    def __init__(self, capacity: int):
        self.capacity, self.count, self.parts = capacity, 0, []

    def __len__(self) -> int:
        return min(self.count, self.capacity)

    def add(self, *parts: Tensor) -> None:
        """Put in N rows; where all places are taken they replace the oldest."""
        rows = len(parts[0])
        if rows > self.capacity or any(len(part) != rows for part in parts):
            raise ValueError(f"ReplayBuffer: expected up to {self.capacity} rows, as many in all")
        if not self.parts:
            self.parts = [part.new_zeros(self.capacity, *part.shape[1:]) for part in parts]
        places = torch.arange(self.count, self.count + rows, device=parts[0].device) % self.capacity
        for kept, part in zip(self.parts, parts, strict=True):
            kept[places] = part
        self.count += rows

    def sample(self, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Rows drawn at random, with equal chances; a row may come twice."""
        if not self.count:
            raise ValueError("ReplayBuffer: expected something in it, and it is empty")
        chosen = torch.randint(len(self), (size,), generator=generator)  # (size,)
        return tuple(kept[chosen.to(kept.device)] for kept in self.parts)


# %% [markdown]
# Room for five, and eight rows come, first three, then three, then two: the last five stay. The second tensor goes
# along with the first, so that a state keeps its own reward.

# %%
tiny_buffer = ReplayBuffer(capacity=5)
for rows in torch.arange(8, device=DEVICE).split(3):
    tiny_buffer.add(rows, 10 * rows)

# %%
drawn_rows, tenfold = tiny_buffer.sample(200, seed(0))  # (200,) each
claim("a buffer for five keeps the last of eight", drawn_rows.unique().tolist() == [3, 4, 5, 6, 7])
claim("rows stay together", tenfold, equals=10 * drawn_rows)

# %% [markdown]
# And who plays? We have seen what becomes of robots that are not curious. But a player who presses buttons at random
# does not get far in a game of skill, and never sees its interesting states. The compromise is called
# **epsilon-greedy**: with a small probability $\varepsilon$ take any action, else the best one. The random choice may
# hit the best action as well, so with three actions that one is taken with probability
# $1 - \varepsilon + \varepsilon / 3$. For $\varepsilon = 0.3$ that is 0.8.


# %% tags=["export"]
def epsilon_greedy(values: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    """Actions (N,) for values (N, A): the best, or with probability epsilon any of the A."""
    N, A = values.shape
    explores = torch.rand(N, generator=generator) < epsilon  # (N,)
    any_action = torch.randint(A, (N,), generator=generator)  # (N,)
    where = values.device
    return torch.where(explores.to(where), any_action.to(where), values.argmax(dim=1))


# %%
same_values = torch.tensor([0.1, 0.9, 0.2], device=DEVICE).expand(30_000, 3)  # (30000, 3)
taken = epsilon_greedy(same_values, 0.3, seed(0))  # (30000,)
best_taken = (taken == 1).float().mean()
claim("epsilon 0.3: share of the best action", best_taken, at_least=0.79, at_most=0.81)

# %% [markdown]
# Put together, this is the whole algorithm. Each round makes one step in all games, stores what happened, and makes
# one step down the loss on a batch from the store. Every `sync` rounds the frozen copy is renewed. At first all
# actions are random; within the first 40 % of the rounds $\varepsilon$ sinks to 0.02, and stays there. Adam's step
# gets smaller along the cosine of section 3.3. With 128 games and batches of 256, every transition is used twice on
# average. A hundred thousand views of 400 truth values, each stored as what was seen before and as what was seen
# after, take 80 MB.
#
# The discount factor of 0.95 makes a brick worth half as much when it is fourteen steps away. That is a little more
# than the flight from the paddle up to the wall and down again, so the network looks one or two bricks ahead. With
# more patience there would be more to plan, and more to be wrong about.
#
# The games speak as those of the library Gymnasium do, many at a time. `reset()` starts them and returns what is
# seen. `step(actions)` returns five things: what is seen now, the rewards, which games have *terminated*, which were
# *truncated*, and a dictionary with more. The two ways to end differ, and equation 6.2 shows why. A terminated game
# is over, and its future is worth nothing. A truncated one was cut off by us because it took too long, and its last
# state is worth what it always was; so only `terminated` goes into the buffer. A game that has ended starts anew at
# once, so what is seen is then a new beginning, and the old game's last view is in the dictionary, as `final_obs`.


# %% tags=["export"]
def learn_by_playing(game, network, chance, rounds, capacity=10**5, sync=20, batch=256, gamma=0.95):
    """Train a Deep Q-Network in place: a step in all games, a step down the loss, and so on."""
    frozen, memory = copy.deepcopy(network), ReplayBuffer(capacity)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(cosine, T=rounds))
    seen, _ = game.reset()
    for step in progress(range(rounds), "playing"):
        epsilon = max(0.02, 1 - 2.5 * step / rounds)
        with torch.no_grad():
            actions = epsilon_greedy(network(seen), epsilon, chance)
        next_seen, rewards, terminated, _, more = game.step(actions)
        memory.add(seen, actions, rewards, more["final_obs"], terminated)
        seen = next_seen
        if step % sync == 0:
            frozen.load_state_dict(network.state_dict())
        optimizer.zero_grad()
        dqn_loss(network, frozen, *memory.sample(batch, chance), gamma).backward()
        optimizer.step()
        schedule.step()


# %% [markdown]
# ### Does it find the right values?
#
# In the grid world the answer is known exactly, so we try it there first, on a dry floor. Here is that world again,
# in the 32 bits that networks compute with, and its values by value iteration. As a game it gets the interface from
# above, for several players who each start in a random free cell. What a player sees is a list of 25 numbers, all 0
# but a 1 at its place. After 30 steps a game is cut off.

# %%
grid = GridWorld(device=DEVICE)
grid_exact = optimal_values(grid, 0.9)[grid.free]  # (19, A)


# %%
class GridGames:
    """Games in the grid world; what is seen is the state, as 25 numbers of which one is 1."""

    def __init__(self, games: int, chance: torch.Generator):
        self.games, self.chance, self.looks = games, chance, torch.eye(25, device=DEVICE)

    def somewhere(self) -> Tensor:
        drawn = torch.randint(len(grid.free), (self.games,), generator=self.chance)
        return grid.free[drawn.to(DEVICE)]  # (G,)

    def reset(self) -> tuple[Tensor, dict]:
        self.at, self.clock = self.somewhere(), torch.zeros(self.games, device=DEVICE)
        return self.looks[self.at], {}

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict]:
        arrived, rewards, terminated = grid.step(self.at, actions, self.chance)  # (G,) each
        self.clock = self.clock + 1
        truncated = (self.clock >= 30) & ~terminated
        over, more = terminated | truncated, {"final_obs": self.looks[arrived]}
        self.at, self.clock = torch.where(over, self.somewhere(), arrived), self.clock * ~over
        return self.looks[self.at], rewards, terminated, truncated, more


# %% [markdown]
# Eight players at a time, 800 rounds, a small network, and out come the values of 19 cells and 4 actions, 76 in all.
# Three networks start from different weights and meet different chances.


# %%
def learned_on_grid(number: int, **recipe) -> Tensor:
    """The values (19, 4) in the free cells that a new network learns by playing."""
    chance = seed(number)
    player = QNetwork(25, 4, hidden=(64, 64)).to(DEVICE)
    learn_by_playing(GridGames(8, chance), player, chance, 800, batch=64, gamma=0.9, **recipe)
    return player(torch.eye(25, device=DEVICE)[grid.free]).detach()


# %%
grid_tries = {"all parts": torch.stack([learned_on_grid(k) for k in range(3)])}  # (3, 19, 4)
worst = (grid_tries["all parts"] - grid_exact).abs().amax(dim=(1, 2))  # (3,)
claim("DQN on the grid: largest error of a value, median", worst.median(), at_most=0.2)

# %% [markdown]
# No network was shown the map. They found the values from rewards alone. What counts in the end is the move that is
# made, and it is nearly always a best one. Where two are equally good, either is right, which is why the code
# compares the exact values of the moves and not the moves.

# %%
moves = grid_tries["all parts"].argmax(dim=2)  # (3, 19)
worth = grid_exact.gather(1, moves.mT)  # (19, 3)
optimal = worth > grid_exact.amax(dim=1, keepdim=True) - 1e-4  # (19, 3)
claim("DQN on the grid: share of best moves", optimal.float().mean(), at_least=0.85)

# %% [markdown]
# Are the buffer and the frozen copy needed? Leave one out and see. Without a buffer, a batch comes from the eight
# transitions just played and nothing else, so `capacity` is 8. Without a frozen copy, it is renewed before every
# step, so `sync` is 1. Again each is tried three times, and we take the typical error of the 76 values, the root of
# the mean square.

# %%
grid_tries["no frozen copy"] = torch.stack([learned_on_grid(k, sync=1) for k in range(3)])
grid_tries["no buffer"] = torch.stack([learned_on_grid(k, capacity=8) for k in range(3)])
gaps = {name: values - grid_exact for name, values in grid_tries.items()}
typical = {name: gap.square().mean(dim=(1, 2)).sqrt().median() for name, gap in gaps.items()}

# %%
note("typical errors", ", ".join(f"{name} {error:.3f}" for name, error in typical.items()))

# %%
without_buffer = typical["no buffer"] / typical["all parts"]
without_copy = typical["no frozen copy"] / typical["all parts"]
claim("no buffer: typical error, as a multiple", without_buffer, at_least=4)
claim("no frozen copy: typical error, as a multiple", without_copy, at_most=3)

# %%
exact_values = grid_exact.flatten().cpu()  # (76,)
fig, axes = plt.subplots(1, 3, figsize=(8.4, 3.1), sharey=True)
for ax, (name, guesses) in zip(axes, grid_tries.items(), strict=True):
    ax.plot([-1, 1], [-1, 1], color=color.truth, lw=1)
    ax.plot(exact_values, guesses.flatten(1).mT.cpu(), ".", color=color.model, ms=4, alpha=0.6)
    ax.set(title=name, xlabel="exact value", xlim=(-1.15, 1.15), ylim=(-1.6, 1.6))
axes[0].set_ylabel("learned value")
scattered = "scattered" if without_buffer > 4 else "no wider"
said = "Exact values across, learned ones upwards. With all parts the points follow the diagonal; "
said += f"without a buffer they are {scattered}, without a frozen copy they are close to it."
figure("6.7e", "Values on the grid, learned three times each.", said, held="trained")

# %% [markdown]
# Without the buffer it does not work: eight transitions at a time drag the values of all other cells along. Without
# the frozen copy it works as well, often sooner, since the targets are never out of date. The copy is a safeguard
# against targets that run away, and a small grid does not need it.
#
# On the game below we found the same. In trials with other seeds, without a buffer nothing was learned. A copy
# renewed every 20 rounds and no copy at all did equally well, at about 25 bricks. With 100 rounds it was 12 to 24,
# and with 1000 rounds less than one, as the targets were then hopelessly out of date. We keep the copy, as the book
# has it, and renew it often. One game is not all games.

# %% [markdown]
# ### A hundred games of Breakout at once
#
# Now a game that is seen. A ball flies diagonally, one cell at a time, through a field of 10 × 10. Three rows of
# bricks hang in it, and at the bottom a paddle, one cell wide, moves left or right by one cell or stays. A brick that
# is hit disappears and is worth 1. A ball that passes the paddle ends the game. The rules in detail are those of
# Breakout in MinAtar, a collection of games made small for research:
#
# - The paddle moves first, then the ball. Side walls and ceiling mirror the ball.
# - A brick throws the ball back up or down, and so does the paddle when the ball stands right above it. The ball then
#   stays in its row for that step. If the paddle is instead where the ball is going, at the corner, the ball is thrown
#   back the way it came.
# - Right after a hit no other brick is hit: the ball flies through.
# - When all bricks are gone, a new wall appears as the ball comes down.
#
# MinAtar starts in one of two ways; ours has twenty, any column and either direction. All is written in tensors with
# one row for each of G games, so that a step of a hundred games costs little more than a step of one, and a GPU would
# play thousands.


# %% tags=["export"]
class Board(NamedTuple):
    """The state of G games of Breakout; rows are counted from the top."""

    ball: Tensor  # (G, 2) row and column
    before: Tensor  # (G, 2) where the ball was one step ago
    heading: Tensor  # (G, 2) -1 or 1, down and to the right
    paddle: Tensor  # (G,) its column
    bricks: Tensor  # (G, 10, 10) True where there is one
    struck: Tensor  # (G,) True where the last step met a brick


def opening(column: Tensor, right: Tensor) -> Board:
    """Games that begin, with the ball in a column (G,), on its way down and to the right: -1 or 1 (G,)."""
    ball = torch.stack([torch.full_like(column, 3), column], dim=1)  # (G, 2)
    heading = torch.stack([torch.ones_like(right), right], dim=1)  # (G, 2)
    bricks = torch.zeros(len(column), 10, 10, dtype=torch.bool, device=column.device)
    bricks[:, 1:4] = True
    return Board(ball, ball, heading, torch.full_like(column, 4), bricks, column < 0)


# %% [markdown]
# One step of all games. Read it beside the rules. Wherever something happens in some games only, a truth value for
# each game says in which, and `where` chooses. The list `games` is 0, 1, 2 and so on; indexing with it and two other
# lists picks one cell from each game. First the paddle moves, and the ball tries to: `row` and `ahead` are where it
# would go. Then come the bricks, then the bottom, and at the end all that changed is put into a new board.


# %% tags=["export"]
def advance(board: Board, actions: Tensor) -> tuple[Board, Tensor, Tensor]:
    """Boards, rewards (G,) and lost balls (G,) after actions (G,): 0 is left, 1 is stay, 2 is right."""
    games, column = torch.arange(len(actions), device=actions.device), board.ball[:, 1]
    paddle = (board.paddle + actions - 1).clamp(0, 9)
    (down, right), (row, ahead) = board.heading.unbind(1), (board.ball + board.heading).unbind(1)
    right = torch.where((ahead < 0) | (ahead > 9), -right, right)
    ceiling, row, ahead = row < 0, row.clamp(min=0), ahead.clamp(0, 9)

    brick = board.bricks[games, row, ahead]  # (G,)
    hit = brick & ~board.struck
    bricks = board.bricks.clone()
    bricks[games, row, ahead] &= ~hit

    bottom = row == 9
    bricks[:, 1:4] |= (bottom & ~bricks.flatten(1).any(dim=1))[:, None, None]  # a new wall
    flat = bottom & (paddle == column)
    corner = bottom & (paddle == ahead) & ~flat
    returned = hit | flat | corner

    ball = torch.stack([torch.where(returned, board.ball[:, 0], row), ahead], dim=1)  # (G, 2)
    down = torch.where(returned | ceiling, -down, down)
    heading = torch.stack([down, torch.where(corner, -right, right)], dim=1)  # (G, 2)
    after = Board(ball, board.ball, heading, paddle, bricks, brick)
    return after, hit.float(), bottom & ~flat & ~corner


# %% [markdown]
# Eight situations that one can work out with a finger on squared paper, played at once. Each line has the ball, its
# heading, the paddle and the action, then the ball, the heading, the reward and whether the ball is lost.

# %%
situations = [
    ((5, 4), (1, 1), 0, 1, (6, 5), (1, 1), 0, False),  # flies on
    ((5, 9), (1, 1), 0, 1, (6, 9), (1, -1), 0, False),  # side wall
    ((0, 4), (-1, 1), 0, 1, (0, 5), (1, 1), 0, False),  # ceiling
    ((4, 4), (-1, 1), 0, 1, (4, 5), (1, 1), 1, False),  # brick
    ((8, 4), (1, 1), 4, 1, (8, 5), (-1, 1), 0, False),  # right above the paddle
    ((8, 4), (1, 1), 5, 1, (8, 5), (-1, -1), 0, False),  # corner of the paddle
    ((8, 4), (1, 1), 2, 1, (9, 5), (1, 1), 0, True),  # lost
    ((8, 4), (1, 1), 3, 2, (8, 5), (-1, 1), 0, False),  # the paddle arrives just in time
]
columns = [torch.tensor(values, device=DEVICE) for values in zip(*situations, strict=True)]
balls, headings, paddles, buttons, *expected = columns

# %%
on_paper = opening(paddles, buttons)._replace(ball=balls, heading=headings, paddle=paddles)
after, gained, lost = advance(on_paper, buttons)
claim("eight situations: balls", after.ball, equals=expected[0])
claim("eight situations: headings", after.heading, equals=expected[1])
claim("eight situations: rewards", gained.long(), equals=expected[2])
claim("eight situations: lost balls", lost, equals=expected[3])

# %% [markdown]
# In the fourth game one brick is gone, that in row 3 and column 5, and none in the other games. And had that ball
# just hit another brick, it would fly through this one, without a reward.

# %%
gone = (on_paper.bricks != after.bricks).nonzero().tolist()
claim("only the brick that was hit is gone", gone == [[3, 3, 5]])
through, unpaid, _ = advance(on_paper._replace(struck=paddles >= 0), buttons)
claim("after a hit the ball flies through", through.ball[3].tolist() == [3, 5])
claim("and there is no reward for it", unpaid.sum(), equals=0)

# %% [markdown]
# The same eight with no bricks at all: a new wall comes where the ball has reached the bottom, and only there.

# %%
bare = on_paper._replace(bricks=torch.zeros_like(on_paper.bricks))
rebuilt = advance(bare, buttons)[0].bricks.sum(dim=(1, 2))  # (8,)
claim("a new wall comes when the ball is down", rebuilt.tolist() == [0, 0, 0, 0, 30, 30, 30, 30])

# %% [markdown]
# The players see four images of truth values: the paddle, the ball, where the ball was a step ago, which tells where
# it is heading, and the bricks. That is all they get, 400 times yes or no.


# %% tags=["export"]
def pictured(board: Board) -> Tensor:
    """What a player sees, (G, 4, 10, 10) bool: paddle, ball, where the ball was, bricks."""
    games = torch.arange(len(board.paddle), device=board.paddle.device)
    seen = torch.zeros(len(games), 4, 10, 10, dtype=torch.bool, device=games.device)
    seen[games, 0, 9, board.paddle] = True
    seen[games, 1, board.ball[:, 0], board.ball[:, 1]] = True
    seen[games, 2, board.before[:, 0], board.before[:, 1]] = True
    seen[:, 3] = board.bricks
    return seen


# %% [markdown]
# `Breakout` wraps this into the interface of the games above. A game that lasts 300 steps is truncated. Where a game
# is over, `where` takes each part of the board from one that begins. For this the truth values get as many dimensions
# of size one as that part has more than they.


# %% tags=["export"]
class Breakout:
    """Many games of Breakout at once, in Gymnasium's manner; one that ends starts anew within the same step."""

    def __init__(
        self, games: int, generator: torch.Generator, device: torch.device, limit: int = 300
    ):
        if games < 1 or limit < 1:
            raise ValueError(
                f"Breakout: expected at least 1 game and 1 step, got {games} and {limit}"
            )
        self.games, self.generator, self.device, self.limit = games, generator, device, limit

    def begin(self) -> Board:
        start = torch.randint(20, (self.games,), generator=self.generator).to(self.device)  # (G,)
        return opening(start // 2, start % 2 * 2 - 1)

    def reset(self) -> tuple[Tensor, dict]:
        """What is seen, (G, 4, 10, 10), and nothing more."""
        self.board = self.begin()
        self.clock = torch.zeros(self.games, dtype=torch.long, device=self.device)
        return pictured(self.board), {}

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict]:
        """Seen (G, 4, 10, 10), rewards, terminated and truncated (G,); final_obs is before a new start."""
        if actions.shape != (self.games,):
            raise ValueError(f"Breakout: expected {self.games} actions, got {tuple(actions.shape)}")
        board, rewards, terminated = advance(self.board, actions)
        self.clock, final = self.clock + 1, pictured(board)
        truncated = (self.clock >= self.limit) & ~terminated
        over = terminated | truncated
        self.clock = self.clock * ~over
        mixed = [
            torch.where(over.reshape(-1, *[1] * (old.ndim - 1)), new, old)
            for new, old in zip(self.begin(), board, strict=True)
        ]
        self.board = Board(*mixed)
        return pictured(self.board), rewards, terminated, truncated, {"final_obs": final}


# %% [markdown]
# Nobody moves, in two hundred games that may take ten steps. In each the ball either comes down where the paddle
# stands, or is lost in the sixth step. Those go on with a new game, and `final_obs` still shows the ball at the
# bottom, in row 9.

# %%
idle = Breakout(200, seed(5), DEVICE, limit=10)
shown, _ = idle.reset()
for _ in range(6):
    shown, _, terminated, _, more = idle.step(torch.ones(200, dtype=torch.long, device=DEVICE))
at_bottom = more["final_obs"][:, 1, 9].any(dim=1)  # (200,)
claim("lost: the final view has the ball in row 9", at_bottom, equals=terminated)
claim("lost: what is seen begins anew", shown[:, 1, 3].any(1), equals=terminated)

# %% [markdown]
# The other games were saved by where they began. Four steps later the limit of ten is reached, and those games are
# truncated, not terminated.

# %%
for _ in range(4):
    *_, still_lost, truncated, _ = idle.step(torch.ones(200, dtype=torch.long, device=DEVICE))
claim("ten steps: games cut off", truncated, equals=~terminated)
claim("ten steps: none of them counts as lost", not (truncated & still_lost).any())

# %% [markdown]
# Now somebody has to play. `play` lets a policy, any function from what is seen to actions, play one game each from
# many starts, and keeps everything step by step. `alive` is 1 until a game is over, and later rewards do not count.


# %% tags=["export"]
def play(policy: Callable, games: int, chance: torch.Generator, device: torch.device) -> dict:
    """One game each, T up to 300: seen (T, G, 4, 10, 10); actions, rewards and alive (T, G)."""
    game, record = Breakout(games, chance, device), []
    seen, _ = game.reset()
    alive = torch.ones(games, device=device)
    while alive.any():
        actions = policy(seen)
        following, rewards, terminated, truncated, _ = game.step(actions)
        record.append((seen, actions, rewards * alive, alive))
        seen, alive = following, alive * ~(terminated | truncated)
    columns = [torch.stack(column) for column in zip(*record, strict=True)]
    return dict(zip(("seen", "actions", "rewards", "alive"), columns, strict=True))


# %% [markdown]
# Two players to compare with. One presses buttons at random. The other was written by somebody who knows the trick:
# keep the paddle below the ball. `argmax` finds the column in which there is a 1, and the sign of the difference is
# −1, 0 or 1, to which we add one.

# %%
random_buttons = seed(2)


def random_player(seen: Tensor) -> Tensor:
    return torch.randint(3, (len(seen),), generator=random_buttons).to(seen.device)  # (G,)


def follow_the_ball(seen: Tensor) -> Tensor:
    ball = seen[:, 1].any(dim=1).long().argmax(dim=1)  # (G,)
    return (ball - seen[:, 0, 9].long().argmax(dim=1)).sign() + 1  # (G,)


# %%
by_chance = play(random_player, 500, seed(1), DEVICE)["rewards"].sum(dim=0)  # (500,)
claim("random player: mean return", by_chance.mean(), at_most=0.5)
by_rule = play(follow_the_ball, 100, seed(1), DEVICE)
claim("follow the ball: return of every game", (by_rule["rewards"].sum(dim=0) == 25).all())

# %% [markdown]
# A random player breaks a brick in every fourth game and loses the ball after eight steps. Whoever follows the ball
# never loses it, and breaks one brick about every twelve steps: 25 in 300 steps, from every start.
#
# Here is what there is to see, in one picture: the opening of a game, the ball in front of the paddle, a moment
# later, and what following the ball has left of the wall at the end. White is the ball, grey where it was, pink the
# paddle.


# %%
def in_colour(seen: Tensor) -> Tensor:
    """What a player sees, (4, 10, 10), as an RGB image (10, 10, 3)."""
    shades = torch.tensor([[238, 51, 119], [255, 255, 255], [110, 110, 110], [0, 119, 187]]) / 255
    image = torch.full((10, 10, 3), 0.12)
    for channel in (3, 2, 0, 1):  # what is painted last lies above
        image[seen[channel].cpu()] = shades[channel]
    return image


# %%
fig, axes = plt.subplots(1, 4, figsize=(8.4, 2.4))
for ax, t in zip(axes, (0, 5, 6, 299), strict=True):
    ax.imshow(in_colour(by_rule["seen"][t, 0]))
    ax.set(xticks=[], yticks=[], title=f"step {t}")
left_over = by_rule["seen"][299, 0, 3].sum()
said = f"Four frames. The wall has 30 bricks at first, and {left_over} of them after 299 steps."
figure("6.7f", "Breakout, played by following the ball.", said)

# %% [markdown]
# ### Training
#
# The network has 400 inputs, 256 and 128 units, and three outputs. It plays 128 games at once for 4,500 rounds, more
# than half a million steps in all. Nobody tells it what the pixels mean, that there is a ball, or which button moves
# the paddle where. At first it loses within eight steps, like anybody who presses buttons at random, and only one
# game in four has a brick to learn from. What the brick was worth then travels backwards, from one view to the view
# before, by one step each time that the equation is applied: first the ball just below the wall becomes valuable,
# then the ball on its way up, then the ball above the paddle, and at last every position from which the paddle can
# still get there. Only the last of these has to do with the buttons.

# %%
chance, start = seed(0), time.perf_counter()
dqn = QNetwork(400, 3).to(DEVICE)
learn_by_playing(Breakout(128, chance, DEVICE), dqn, chance, rounds=4500)
synchronize(DEVICE)
dqn_seconds = time.perf_counter() - start

# %% [markdown]
# It is tested with no more random actions: the best by its own values, in a hundred games from random starts. There
# are only twenty different openings, and they were all met in training. Games have no test set of other images. What
# is held out here is chance: the network now has to play alone, from every opening, for up to 300 steps.


# %%
def dqn_player(seen: Tensor) -> Tensor:
    with torch.no_grad():
        return dqn(seen).argmax(dim=1)  # (G,)


# %%
by_dqn = play(dqn_player, 100, seed(1), DEVICE)
dqn_return = by_dqn["rewards"].sum(dim=0).mean()
claim("Breakout: mean return of the Deep Q-Network", dqn_return, at_least=15)
dqn_words = f"{dqn_return:.1f} bricks a game; at random 0.2, following the ball 25"
summary["Plays Breakout"] = (*cost(dqn, by_dqn["seen"][0, :1]), dqn_seconds, dqn_words)

# %% [markdown]
# That is about a hundred times what random buttons earn, and about as much as the player who follows the ball. The
# two do not play alike. The rule is safe: it never loses a ball, and it cannot aim. The network drops one now and
# then, before the 300 steps are over. But some of its games end with more than the 25 bricks that the rule gets in
# the same time: it has found out that the corner of the paddle sends the ball elsewhere.

# %%
longest = by_dqn["rewards"].sum(dim=0).max()
claim("Breakout: best of its hundred games", longest, at_least=25)

# %% [markdown]
# ### What it thinks while it plays
#
# The value of a state is that of its best action, $\max_a Q(s, a; w)$: the network's estimate of all bricks still to
# come, each discounted by 0.95 for every step until then. Here it is along one game. For 60 steps the network plays.
# Then we take the buttons from its hands and push the paddle to the left, whatever comes.

# %%
board, tale, lost = opening(*torch.tensor([[2], [1]], device=DEVICE)), [], False
while len(tale) < 120 and not lost:
    frame = pictured(board)
    button = dqn_player(frame) if len(tale) < 60 else torch.zeros(1, device=DEVICE).long()
    board, gained, lost = advance(board, button)
    tale.append((frame, gained))

# %%
tale_frames, tale_rewards = (torch.cat(part) for part in zip(*tale, strict=True))  # (T, …), (T,)
tale_hits = tale_rewards.nonzero().flatten().tolist()
tale_values = dqn(tale_frames).amax(dim=1).detach().cpu()  # (T,)
late_hit = next(t for t in tale_hits if t > 20)

# %% tags=["figure-6.5"]
fig = plt.figure(figsize=(8.4, 4.2))
rows = fig.add_gridspec(2, 5, height_ratios=[1, 1.4])
below = fig.add_subplot(rows[1, :])
below.plot(tale_values, color=color.model)
below.axvspan(60, len(tale) - 1, color=color.quiet, alpha=0.3, lw=0)
below.plot(tale_hits, tale_values[tale_hits], "o", color=color.gradient, ms=5)
below.set(xlabel="step", ylabel="estimated value", xlim=(0, len(tale) - 1))
for k, t in enumerate((late_hit - 6, late_hit, late_hit + 2, 60, len(tale) - 1)):
    above = fig.add_subplot(rows[0, k])
    above.imshow(in_colour(tale_frames[t]))
    above.set(xticks=[], yticks=[], title=f"step {t}")
    below.axvline(t, color=color.data, lw=0.6, ls=":")
sinks = "sinks to about 0" if tale_values[-1] < 0.6 else "stays up"
said = f"Five frames, and a value like a saw that falls at each brick. It {sinks} in the grey end."
figure("6.5", "The value along a game. Orange: a brick is about to be hit.", said, held="trained")

# %% [markdown]
# The value climbs while the ball is on its way to a brick, by the factor 1 / 0.95 for each step that the reward comes
# nearer. Then the brick is hit, its reward is in the past, and the estimate drops. The saw is what Bellman's equation
# asks for. And in the grey part, once the ball can no longer be caught, the value sinks to zero before it is lost.
# Over all the games above:

# %%
with torch.no_grad():
    estimated = torch.stack([dqn(views).amax(dim=1) for views in by_dqn["seen"]])  # (T, G)
rise, goes_on = estimated[1:] - estimated[:-1], by_dqn["alive"][1:] == 1  # (T - 1, G) each
hit = by_dqn["rewards"][:-1] == 1  # (T - 1, G)

# %%
claim("value: mean fall when a brick is hit", -rise[hit & goes_on].mean(), at_least=0.4)
claim("value: mean rise in a step without", rise[~hit & goes_on].mean(), at_least=0.03)
claim("value one step before the ball is lost", tale_values[-1], at_most=0.6)

# %% [markdown]
# Are the estimates true? We can wait and see. For each moment of each game, add up the rewards that did come later,
# discounted, from the end backwards: what comes from here on is the reward now, plus 0.95 times what comes from the
# next step on. This is the return of the player that we have, with all its mistakes, and it is the fairest judge of
# what that player expected.

# %%
to_come = torch.zeros_like(estimated)  # (T, G)
to_come[-1] = by_dqn["rewards"][-1]
for t in reversed(range(len(to_come) - 1)):
    to_come[t] = by_dqn["rewards"][t] + 0.95 * to_come[t + 1]

# %% [markdown]
# Moments after step 200 are left out. The games are cut off at 300, and what would have come then is missing, which
# for earlier moments no longer counts: $0.95^{100}$ is less than a hundredth. A correlation of 1 would mean that the
# values tell the good moments from the bad ones as well as hindsight does, and a ratio of 1 that they are neither too
# high nor too low on average.

# %%
early = by_dqn["alive"][:200] == 1  # (200, G)
told, came = estimated[:200][early], to_come[:200][early]
related = torch.corrcoef(torch.stack([told, came]))[0, 1]
claim("values told and returns that came: correlation", related, at_least=0.5)
claim("mean value told, over what came", told.mean() / came.mean(), at_least=0.75, at_most=1.5)

# %% [markdown]
# ### Watch it play
#
# Move through four games step by step. The bars are the three values, and the longest is what the network does.
# Mostly they differ little: while the ball is far up, one step more or less to the left costs nothing, as there is
# time to make up for it. They part when it gets urgent. Look for a step at which the ball comes down in row 7 or 8:
# the right button then keeps what there is, and the wrong one loses it all. Now move the paddle away from where it
# was. Near the bottom the values fall to about zero, since the ball is out of reach, whatever one does. With the ball
# high up they hardly change. No rule about reach was programmed; it is a consequence of many balls that were lost.

# %%
shown_dqn, watched = copy.deepcopy(dqn).cpu(), by_dqn["seen"][:150, :4].cpu()  # (150, 4, 4, 10, 10)
watched_values = estimated[:150, :4].cpu()  # (150, 4)


def elsewhere(seen: Tensor, cells: int) -> Tensor:
    """The same view (4, 10, 10) with the paddle moved by some cells, as far as there is room."""
    moved, column = seen.clone(), seen[0, 9].long().argmax().item()
    moved[0, 9] = torch.arange(10) == min(9, max(0, column + cells))
    return moved


# %%
def scene(fig):
    """Left, the field with bricks, ball and paddle. Right, a bar for each action, and the value."""
    spots = fig.subplot_mosaic([["field", "bars"], ["field", "curve"]], width_ratios=[1, 1.4])
    picture = spots["field"].imshow(torch.zeros(10, 10, 3))
    spots["field"].set(xticks=[], yticks=[])
    bars = spots["bars"].barh(["left", "stay", "right"], [1, 1, 1])
    spots["bars"].set(xlim=(0, 4), ylim=(2.6, -0.6), xlabel="value of the action")
    (curve,) = spots["curve"].plot([], [], color=color.quiet)
    (here,) = spots["curve"].plot([], [], "o", color=color.model)
    spots["curve"].set(xlim=(-1, 150), ylim=(-0.2, 4), xlabel="step", ylabel="best value")

    def update(step, game, paddle_moved_by):
        seen = elsewhere(watched[step, game - 1], paddle_moved_by)  # (4, 10, 10)
        with torch.no_grad():
            values = shown_dqn(seen[None])[0].tolist()
        picture.set_data(in_colour(seen))
        curve.set_data(range(len(watched)), watched_values[:, game - 1])
        here.set_data([step], [max(values)])
        for bar, value in zip(bars, values, strict=True):
            bar.set_width(max(0.0, value))
            bar.set_color(color.model if value == max(values) else color.quiet)
        numbers = ", ".join(f"{value:.2f}" for value in values)
        return f"game {game}, step {step}: left, stay and right are worth {numbers}"

    return update


# %%
knobs = {"step": slider(0, 149, 18), "game": slider(1, 4, 1), "paddle_moved_by": slider(-6, 6, 0)}
explore(scene, "6.7g", "Its values, step by step.", (8.2, 3.6), held="trained", **knobs)

# %% [markdown]
# ### Where it fails
#
# In training every button did what it says. Suppose they stick: with probability 0.25 the action of the step before
# is done again, as is customary in Gymnasium's Atari games to keep players from learning a fixed sequence by heart.
# The player is not told, and needs no more skill than before, only more care: to be below the ball early instead of
# at the last moment.


# %%
class Sticky:
    """A player whose buttons stick with probability 0.25."""

    def __init__(self, player: Callable, generator: torch.Generator):
        self.player, self.generator, self.last = player, generator, None

    def __call__(self, seen: Tensor) -> Tensor:
        wanted = self.player(seen)  # (G,)
        stuck = (torch.rand(len(wanted), generator=self.generator) < 0.25).to(wanted.device)
        self.last = wanted if self.last is None else torch.where(stuck, self.last, wanted)
        return self.last


# %%
chance = seed(3)
stuck_dqn = play(Sticky(dqn_player, chance), 100, chance, DEVICE)["rewards"].sum(dim=0).mean()
stuck_rule = play(Sticky(follow_the_ball, chance), 100, chance, DEVICE)["rewards"].sum(dim=0).mean()
claim("sticky buttons: mean return of the DQN", stuck_dqn, at_most=13)
claim("sticky buttons: mean return of following the ball", stuck_rule, at_most=6)

# %% [markdown]
# Both fall far below what they had. The rule moves as late as it can, and a stuck button is then a lost ball. The
# network knows a little better, as two in a hundred of its actions were random in training, but not enough. The
# remedy is to train with buttons that stick. What is learned by playing holds for the game that was played.
#
# A word on what made it work here. We also tried a small convolutional network, as one would for images. It took
# twice as long and got half as many bricks in the same number of rounds. In a field of a hundred cells the exact
# place counts, and a dense layer has a weight for each place. And as always in this field, chance has a large part:
# with another seed, the same recipe drops more balls, or none.
#
# **Exercise.** The largest of several uncertain estimates is, on average, too large: whichever is overestimated most
# wins. *Double* Deep Q-Networks soften that. The network itself chooses the best next action, and the frozen copy
# says what that action is worth. Write the targets $y_n$ in this manner, from the values of the next states in both
# networks.


# %% tags=["exercise"]
def double_targets(online, frozen, rewards, ended, gamma: float) -> Tensor:
    """Targets (N,), from both networks' values (N, A) of the next states, rewards, ended (N,)."""
    raise NotImplementedError


online_next = torch.tensor([[1.0, 3.0, 2.0], [4.0, 0.0, 1.0]])
frozen_next = torch.tensor([[9.0, 2.0, 6.0], [1.0, 8.0, 7.0]])
pay, over = torch.tensor([1.0, 0.0]), torch.tensor([True, True])
next_values = online_next, frozen_next
targets = torch.tensor([2.0, 0.5])
check(
    double_targets,
    ("1 + 0.5 · 2 and 0 + 0.5 · 1", lambda g: (g(*next_values, pay, ~over, 0.5), targets)),
    ("a game that is over: the reward", lambda g: (g(*next_values, pay, over, 0.5), pay)),
)


# %% tags=["solution", "hide-input"]
def double_targets(online, frozen, rewards, ended, gamma: float) -> Tensor:
    """What one network likes by mistake is valued by another, which did not make that mistake."""
    best = online.argmax(dim=1, keepdim=True)  # (N, 1)
    return rewards + gamma * frozen.gather(1, best).squeeze(1) * ~ended
