# %% [markdown]
# ## 6.7 Reinforcement learning
#
# Nobody can tell a beginner at Breakout which button is right in this very moment. What one can tell is the score.
# Can a network learn to play from the score alone? **Reinforcement learning** is learning of this kind. At each step
# $t$ the world is in a *state* $s_t$, the player chooses an *action* $a_t$, and chance decides on the next state and
# on a number, the *reward* $r_t$, with probabilities that depend on $s_t$ and $a_t$ and on nothing earlier. That is a
# **Markov Decision Process**. A rule for choosing actions, $\pi(a \mid s)$, is a **policy**. It is judged by the
# **return**, the sum of all rewards to come, where a reward counts less the later it comes, by a factor $0 \le \gamma
# < 1$ a step, the **discount factor**:
#
# $$V_\pi(s) = \mathbb{E}\Bigl[\, \sum_{t \ge 0} \gamma^t\, r_t \Bigm| s_0 = s \Bigr]$$
#
# We begin with a world so small that all can be known. A robot stands on one of fifteen cells and moves up, right,
# down or left; a wall keeps it in place. The goal G is worth 1, the pit P −1, and both end the game. The floor is
# slippery: with probability 0.2 the robot goes to one side of where it wanted to go. `P[s, a, s']` is the probability
# that action `a` in cell `s` leads to cell `s'`.

# %%
WORLD, MOVES = ("...G", ".#.P", "....", "...."), ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, …
cells = [(r, c) for r, row in enumerate(WORLD) for c, mark in enumerate(row) if mark != "#"]
worth = [{"G": 1.0, "P": -1.0}.get(WORLD[r][c], 0.0) for r, c in cells]
gain = torch.tensor(worth, **EXACT)  # (S,) the reward for arriving
ends, free = gain != 0, (gain == 0).nonzero()[:, 0]  # (S,), the cells to be in


def transitions(slip: float) -> Tensor:
    """The probabilities (S, A, S) of the next cell, where a step goes sideways with probability slip."""
    P = torch.zeros(len(cells), 4, len(cells), **EXACT)
    for s, (r, c) in enumerate(cells):
        for a in range(4):
            for turn, p in ((0, 1 - slip), (1, slip / 2), (3, slip / 2)):
                down, right = MOVES[(a + turn) % 4]
                there = (r + down, c + right)
                P[s, a, cells.index(there) if there in cells else s] += p
    return P


# %% [markdown]
# ### The Bellman equation
#
# Which policy is best? There are $4^{13}$ that choose one action for each cell, too many to try. Bellman's way asks
# for the value of an action: let $Q(s, a)$ be the expected return if the player takes $a$ in $s$ and plays as well as
# possible ever after. With these numbers the **optimal policy** is to take the action with the largest, so what comes
# after the next state is worth $\max_{a'} Q(s_{t+1}, a')$. That gives an equation which the numbers themselves have
# to satisfy, the **Bellman equation**:
#
# $$Q(s, a) = \mathbb{E}\Bigl[\, r_t + \gamma \max_{a'} Q(s_{t+1}, a') \Bigm| s_t = s,\ a_t = a \Bigr]$$
#
# Read it as an assignment: put any table on the right, and a better one comes out on the left. The error shrinks at
# least by $\gamma$ each time, so this *value iteration* ends at the solution.


# %%
def optimal_values(P: Tensor, gamma: float, sweeps: int = 300) -> Tensor:
    """The values Q (S, A) of all actions, by value iteration; nothing follows where the game ends."""
    Q = torch.zeros(P.shape[:2], **EXACT)
    for _ in range(sweeps):
        Q = P @ (gain + gamma * Q.amax(dim=1) * ~ends)  # (S, A)
    return Q


# %% [markdown]
# Is it the return of the best player? Once the actions are fixed there is no maximum left, and the values of the
# cells are the solution of linear equations. That is one check. The other is to play: 20,000 games by the best
# actions, their rewards discounted and added up.

# %% tags=["equation-6.1"]
P, gamma = transitions(0.2), 0.9
Q_exact = optimal_values(P, gamma)  # (S, A)
best = Q_exact.argmax(dim=1)  # (S,) the optimal policy
chosen = P[torch.arange(len(cells), device=DEVICE), best]  # (S, S) from cell to cell
V = torch.linalg.solve(torch.eye(len(cells), **EXACT) - gamma * chosen * ~ends, chosen @ gain)
claim("Bellman equation: linear equations give the same", V, equals=Q_exact.amax(1), within=1e-12)

# %% tags=["equation-return"]
start = cells.index((3, 0))  # all games begin in the lower left
s = torch.full((20_000,), start, device=DEVICE)  # (games,)
total, alive, chance = torch.zeros(len(s), **EXACT), torch.ones(len(s), **EXACT), seed(1)
for t in range(100):
    s = torch.multinomial(chosen[s].cpu(), 1, generator=chance)[:, 0].to(DEVICE)  # (games,)
    total, alive = total + gamma**t * gain[s] * alive, alive * ~ends[s]
gap = (total.mean() - V[start]).abs()
claim("expected return: mean of the games and V differ by", gap, at_most=0.01)

# %% [markdown]
# In the widget each cell shows the value of its best action, and an arrow for it. Three things to try. Let the floor
# become more slippery and watch the cell left of the pit: at some point the best move is *into the wall*, because
# that way no slip leads into the pit. Make the robot impatient with a small discount factor, and the values far from
# the goal vanish. And set one sweep, then two, then three: value travels backwards from the goal, one step at a time.


# %%
def scene(fig):
    """The cells of the world with their values, an arrow for the best action, and a dark wall."""
    ax = fig.subplots()
    board = ax.imshow(torch.zeros(4, 4), cmap="RdBu", vmin=-1, vmax=1)
    ax.set(
        xticks=[], yticks=[], facecolor=color.data
    )  # what is not a number, the wall, is seen through
    numbers = {(r, c): ax.text(c, r + 0.32, "", ha="center") for r, c in cells}
    arrows = {(r, c): ax.text(c, r, "", ha="center", va="center", size=16) for r, c in cells}

    def update(slip, discount, sweeps):
        Q = optimal_values(transitions(slip), discount, sweeps).cpu()  # (S, A)
        shown = torch.full((4, 4), torch.nan)
        for n, (r, c) in enumerate(cells):
            value = gain[n].item() if ends[n] else Q[n].max().item()
            shown[r, c] = value
            numbers[r, c].set_text(f"{value:.2f}")
            arrows[r, c].set_text(WORLD[r][c] if ends[n] else "↑→↓←"[Q[n].argmax()])
        board.set_data(shown)
        beside = ("up", "into the pit", "down", "into the wall")[Q[cells.index((1, 2))].argmax()]
        return f"left of the pit, the best move is {beside}"

    return update


# %%
knobs = {"slip": slider(0.0, 0.6, 0.2, 0.1), "discount": slider(0.5, 0.95, 0.9, 0.05)}
explore(scene, "6.7a", "The best policy.", (3.4, 3.4), **knobs, sweeps=slider(1, 30, 30))

# %% [markdown]
# ### Learning from experience
#
# A real robot has no table of probabilities. It has experience: in $s$ I did $a$, got $r$ and found myself in $s'$.
# Each such step is one sample of the right side of the Bellman equation. *Q-learning* moves the value of the action a
# little towards it,
#
# $$Q(s, a) \leftarrow Q(s, a) + \eta\, \bigl( r + \gamma \max_{a'} Q(s', a') - Q(s, a) \bigr),$$
#
# with a rate $\eta$ that falls with the number of visits. Here the actions are chosen by lot, and still the values of
# the *best* player come out: the equation does not ask who played.

# %%
chance = seed(2)
s = free.cpu()[torch.randint(len(free), (200_000,), generator=chance)]  # (steps,)
a = torch.randint(4, s.shape, generator=chance)
after = torch.multinomial(P.cpu()[s, a], 1, generator=chance)[:, 0]
steps = zip(s.tolist(), a.tolist(), gain[after].tolist(), after.tolist(), strict=True)

# %%
Q, visits = [[0.0] * 4 for _ in cells], [[0] * 4 for _ in cells]
for s, a, r, after in steps:
    visits[s][a] += 1
    target = r + gamma * max(Q[after])  # where the game has ended, max(Q[after]) stays 0
    Q[s][a] += (target - Q[s][a]) / visits[s][a] ** 0.7

# %%
gap = (torch.tensor(Q, **EXACT) - Q_exact)[free].abs()
claim("Q-learning: largest error of a value", gap.max(), at_most=0.1)

# %% [markdown]
# So experience can replace knowledge of the world, given enough of it: 52 values took hundreds of thousands of steps.
#
# ### Deep Q-Network
#
# A table cannot hold a game of which one sees an image: thirty bricks, each there or gone, make a thousand million
# walls, and no player meets most of them even once. A **Deep Q-Network** (Mnih and others, 2015) is a network
# $Q(s, a; w)$ that looks at the state and gives one number for each action. It is trained by regression on the same
# targets,
#
# $$\mathscr{L}(w) = \frac{1}{N} \sum_{n=1}^{N} \bigl(Q(s_n, a_n; w) - y_n\bigr)^2, \qquad
# y_n = \begin{cases} r_n & \text{if the game ended there} \\ r_n + \gamma \max_a Q(s'_n, a; \bar w) & \text{else.}
# \end{cases}$$
#
# The bar matters. With the same $w$ on both sides, each step towards a target would move the target. So $\bar w$ is a
# frozen copy of the weights, renewed now and then, and no gradient flows into it.


# %% tags=["export"]
def dqn_loss(q, frozen, seen, actions, rewards, next_seen, terminated, gamma=0.95) -> Tensor:
    """The loss of a Deep Q-Network (book, equation 6.2) for N steps: seen, next_seen (N, …), others (N,)."""
    values = q(seen).gather(1, actions[:, None])[:, 0]  # (N,) of the actions taken
    with torch.no_grad():
        best = frozen(next_seen).amax(dim=1)  # (N,) of the best next action
    return F.mse_loss(values, rewards + gamma * best * ~terminated)


# %%
chance = seed(3)
seen, later = torch.randn(2, 12, 6, generator=chance, dtype=torch.float64).to(DEVICE)  # (N, 6)
actions, pay = torch.arange(12, device=DEVICE) % 3, torch.arange(12.0, **EXACT)
over = torch.arange(12, device=DEVICE) % 4 == 0
q, frozen = (nn.Linear(6, 3).to(**EXACT) for _ in range(2))

# %% tags=["equation-6.2"]
by_sum = 0.0
for n in range(12):
    y = pay[n] if over[n] else pay[n] + 0.9 * max(frozen(later[n]).tolist())
    by_sum = by_sum + (q(seen[n])[actions[n]] - y) ** 2 / 12
loss = dqn_loss(q, frozen, seen, actions, pay, later, over, gamma=0.9)
slopes = [torch.autograd.grad(value, q.weight, retain_graph=True)[0] for value in (loss, by_sum)]
claim("equation 6.2 term by term", loss, equals=by_sum, within=1e-10)
claim("its gradient; the targets have none", slopes[0], equals=slopes[1], within=1e-10)

# %% [markdown]
# Two more parts. Steps played one after the other resemble each other, and a network trained on one stretch of play
# forgets the rest. So all steps go into a **replay buffer**, a store of the last hundred thousand, and batches are
# drawn from it at random. And somebody has to play. A player that always takes the best action by its present values
# repeats for ever what worked once; one that moves at random never gets far in a game of skill. The compromise is
# **epsilon-greedy**: with a small probability $\varepsilon$ any action, else the best.
#
# Games speak as those of the library Gymnasium do, many at a time. `reset()` gives what is seen. `step(actions)`
# gives what is seen next, the rewards, which games have *terminated*, which were *truncated* because they took too
# long, and a dictionary with the last view of a game before a new one begins. Only a terminated game has no future; a
# truncated one would have gone on, so its last view still counts.


# %% tags=["export"]
def learn_by_playing(game, q, chance, rounds, capacity=100_000, sync=20, batch=256) -> float:
    """Train q in place: each round a step in all games and a step down the loss. Seconds that it took."""
    frozen, memory = copy.deepcopy(q), None
    optimizer = torch.optim.Adam(q.parameters(), lr=1e-3)
    schedule = CosineAnnealingLR(optimizer, rounds)
    (seen, _), start = game.reset(), time.perf_counter()
    for k in progress(range(rounds), "playing"):
        epsilon = max(0.02, 1 - 2.5 * k / rounds)
        with torch.no_grad():
            best = q(seen).argmax(dim=1)  # (G,)
        random = torch.randint(3, best.shape, generator=chance).to(best.device)
        explores = (torch.rand(best.shape, generator=chance) < epsilon).to(best.device)
        actions = torch.where(explores, random, best)
        next_seen, rewards, terminated, _, more = game.step(actions)
        step = seen, actions, rewards, more["final_obs"], terminated
        if memory is None:  # places for what was seen, for actions, …
            memory = [part.new_zeros(capacity, *part.shape[1:]) for part in step]
        places = (k * len(best) + torch.arange(len(best), device=best.device)) % capacity
        for kept, part in zip(memory, step, strict=True):
            kept[places] = part
        drawn = torch.randint(min((k + 1) * len(best), capacity), (batch,), generator=chance)
        if k % sync == 0:
            frozen.load_state_dict(q.state_dict())
        optimizer.zero_grad()
        dqn_loss(q, frozen, *(kept[drawn.to(best.device)] for kept in memory)).backward()
        optimizer.step()
        schedule.step()
        seen = next_seen
    return time.perf_counter() - start


# %% [markdown]
# ### Breakout
#
# A ball flies diagonally through a field of 10 × 10 cells in which three rows of bricks hang; at the bottom a paddle,
# one cell wide, moves by one cell or stays. A brick that is hit is worth 1. A ball that passes the paddle ends the
# game. What the player sees is four images of truth values: the paddle, the ball, where the ball was a step ago, and
# the bricks. The game is in `lbdl.games`, a hundred of them at a time in the rows of tensors; a test of this project
# plays it side by side with MinAtar's, a collection of games made small for research.


# %%
@torch.no_grad()
def play(policy: Callable, games: int, generator: torch.Generator) -> list[Tensor]:
    """One game each: what was seen (T, G, 4, 10, 10), rewards (T, G), whether still playing (T, G)."""
    game, record = Breakout(games, generator, DEVICE), []
    seen, playing = game.reset()[0], torch.ones(games, dtype=torch.bool, device=DEVICE)
    while playing.any():
        following, rewards, terminated, truncated, _ = game.step(policy(seen))
        record.append((seen, rewards * playing, playing))
        seen, playing = following, playing & ~terminated & ~truncated
    return [torch.stack(part) for part in zip(*record, strict=True)]


# %%
buttons = seed(4)
by_chance = play(
    lambda x: torch.randint(3, x.shape[:1], generator=buttons).to(DEVICE), 500, seed(5)
)
at_random = by_chance[1].sum(dim=0).mean()
claim("Breakout: mean return of random buttons", at_random, at_most=0.5)

# %% [markdown]
# Our network has two hidden layers and is told nothing of balls and paddles. It plays 128 games at once, for 4,500
# rounds. At first it loses within eight steps or so, like anybody who presses buttons at random, and few games have a
# brick to learn from.
# What the brick was worth then travels backwards through the equation, from the ball below the wall to the ball on
# its way up, and at last to the moment at which a button decides.


# %% tags=["export"]
class QNetwork(nn.Sequential):
    """An MLP (book, 5.1) from what is seen (N, 4, 10, 10) to the values (N, 3) of the actions."""

    def __init__(self):
        first, second = nn.Linear(400, 256), nn.Linear(256, 128)
        super().__init__(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(128, 3))

    def forward(self, seen: Tensor) -> Tensor:
        if seen.shape[1:] != (4, 10, 10):
            raise ValueError(f"QNetwork: expected (N, 4, 10, 10), got {tuple(seen.shape)}")
        return super().forward(seen.flatten(1).to(self[0].weight.dtype))  # (N, 3)


# %%
seed(0)
dqn, chance = QNetwork().to(DEVICE), seed(6)
took = learn_by_playing(Breakout(128, chance, DEVICE), dqn, chance, rounds=4500)
seen, rewards, playing = play(lambda seen: dqn(seen).argmax(dim=1), 100, seed(5))
mean_return = rewards.sum(dim=0).mean()
claim("Breakout: mean return of the Deep Q-Network", mean_return, at_least=8)
results = f"{mean_return:.1f} bricks a game", f"random buttons: {at_random:.1f}"
summary["DQN, Breakout"] = (*cost(dqn, seen[0, :1]), took, *results)

# %% [markdown]
# The value of a state is that of its best action, the discounted bricks that are still to come. Here it is along a
# game. For 60 steps the network plays; then we take the buttons from its hands and push the paddle to the left.


# %%
def then_left(seen: Tensor) -> Tensor:
    """The network plays the first 60 steps; then the paddle goes left."""
    asked.append(1)
    return dqn(seen).argmax(dim=1) * (len(asked) <= 60)  # (G,) action 0 is left


asked = []
frames, bricks_hit, _ = (part[:, 0] for part in play(then_left, 1, seed(7)))  # (T, 4, 10, 10), (T,)
values = dqn(frames).amax(dim=1).detach().cpu()  # (T,)


def in_colour(seen: Tensor) -> Tensor:
    """What a player sees (4, 10, 10) as an image (10, 10, 3)."""
    image = torch.full((10, 10, 3), 0.12)
    for channel, shade in ((3, color.model), (2, "#666666"), (0, color.output), (1, "#ffffff")):
        image[seen[channel].cpu()] = torch.tensor(to_rgb(shade))
    return image


# %% tags=["figure-6.5"]
rows = [[0, 1, 2, 3], 4 * ["value"]]
fig, axes = plt.subplot_mosaic(rows, figsize=(8.4, 4.2), height_ratios=[1, 1.3])
hits, T = bricks_hit.nonzero()[:, 0].tolist(), len(frames)
later = next(t for t in hits if t > 20)
for k, t in enumerate((later - 6, later, 60, T - 1)):
    axes[k].imshow(in_colour(frames[t]))
    axes[k].set(xticks=[], yticks=[], title=f"step {t}")
    axes["value"].axvline(t, color=color.quiet, linewidth=1)
axes["value"].plot(values, color=color.model)
axes["value"].plot(hits, values[hits], "o", color=color.gradient)
axes["value"].text(61, values.max(), "the paddle goes left", color=color.data)
axes["value"].set(xlabel="step", ylabel="estimated value", xlim=(0, T))
said = f"A value that climbs until a brick is hit and falls then, {len(hits)} times in {T} steps, and sinks "
said += "to nothing at the end. Above it, four frames."
figure("6.5", "The value along a game; dots: a brick is about to be hit.", said, held="trained")

# %%
estimated = torch.stack([dqn(views).detach().amax(dim=1) for views in seen])  # (T, G)
change = (estimated[1:] - estimated[:-1])[playing[1:]]
after_hit = (rewards[:-1] == 1)[playing[1:]]
fall = change[~after_hit].mean() - change[after_hit].mean()
claim("value: change without a brick, minus that after one", fall, at_least=0.4)

# %% [markdown]
# The value climbs while the ball is on its way to a brick, for the reward comes nearer. When the brick is hit, its
# reward is in the past and the estimate drops. That saw is the Bellman equation at work. At the end, once the ball
# can no longer be caught, the value sinks before the ball is lost. Nobody has told the network about reach; it is a
# consequence of many balls that were lost.
#
# What it knows holds for the game that it played. Hide the third image, where the ball was a step ago. A person would
# look twice to see where the ball is heading. The network sees one moment only, and in that the direction is gone:
# what is left is not a state in Markov's sense, since what comes next depends on more than it shows.

# %%
kept = torch.tensor([True, True, False, True], device=DEVICE)[:, None, None]
in_the_dark = play(lambda x: dqn(x & kept).argmax(dim=1), 100, seed(5))[1].sum(dim=0).mean()
claim("mean return, minus that without the last image", mean_return - in_the_dark, at_least=4)

# %% [markdown]
# Now play yourself. Type a letter for each step: `l` moves the paddle left, `r` right, any other leaves it, and the
# bars show what the network thinks of your three choices. With the slider the network plays on from where you
# stopped. Three things to try. Keep the ball for two catches. Stop when the ball is high up: the three bars are
# nearly equal, since there is time for everything; stop when it is just above the paddle, and one bar stands out.
# Leave the paddle too far from the ball to reach it: all three sink, whatever you do.

# %%
player = copy.deepcopy(dqn).cpu()


def game_after(opening: int, moves: str, then: int) -> tuple[Tensor, list[float], int, bool]:
    """What is seen after typed moves and `then` of the network's, its three values, the score, and whether lost."""
    game, score, lost, t = Breakout(1, seed(opening), limit=1000), 0, False, 0
    seen, _ = game.reset()
    while True:
        with torch.no_grad():
            values = player(seen)[0]  # (3,)
        if lost or t == len(moves) + then:
            return seen[0], values.tolist(), score, lost
        typed = {"l": 0, "r": 2}.get(moves[t], 1) if t < len(moves) else values.argmax().item()
        _, reward, terminated, _, more = game.step(torch.tensor([typed]))
        seen, score, lost, t = more["final_obs"], score + int(reward), terminated.item(), t + 1


# %%
def scene(fig):
    """Left the field, right a bar for the value of each action."""
    field, right = fig.subplots(1, 2, width_ratios=[1, 1.4])
    picture = field.imshow(torch.zeros(10, 10, 3))
    field.set(xticks=[], yticks=[])
    bars = right.barh(["left", "stay", "right"], [1, 1, 1])
    right.set(xlim=(0, 4), ylim=(2.6, -0.6), xlabel="value")

    def update(moves, then, opening):
        seen, values, score, lost = game_after(opening, moves, then)
        picture.set_data(in_colour(seen))
        for bar, value in zip(bars, values, strict=True):
            bar.set_width(max(0.0, value))
            bar.set_color(color.model if value == max(values) else color.quiet)
        return f"{score} bricks were hit" + (", and the ball is lost" if lost else " so far")

    return update


# %%
knobs = {"then": slider(0, 100, 16), "opening": slider(1, 9, 1)}
moves = words("rr", ["", "rrll", "llllllllll"])
explore(scene, "6.7b", "A game.", (7, 3), held="trained", moves=moves, **knobs)

# %% [markdown]
# **Exercise.** The largest of several uncertain estimates is too large on average, since whichever is overestimated
# most wins. *Double* Deep Q-Networks soften that: the network itself chooses the best next action, and the frozen
# copy says what that action is worth. Write the targets $y_n$ in this manner, from the values of the next states in
# both.


# %% tags=["exercise"]
def double_targets(online, frozen, rewards, terminated, gamma: float) -> Tensor:
    """Targets (N,), from both networks' values (N, A) of the next states, rewards and ends (N,)."""
    raise NotImplementedError


online = torch.tensor([[1.0, 3.0, 2.0], [4.0, 0.0, 1.0]])
frozen = torch.tensor([[9.0, 2.0, 6.0], [1.0, 8.0, 7.0]])
pay, over = torch.tensor([1.0, 0.0]), torch.tensor([True, True])
check(
    double_targets,
    (
        "1 + 0.5 · 2 and 0 + 0.5 · 1",
        lambda g: (g(online, frozen, pay, ~over, 0.5), torch.tensor([2, 0.5])),
    ),
    ("a game that is over: the reward", lambda g: (g(online, frozen, pay, over, 0.5), pay)),
)


# %% tags=["solution", "hide-input"]
def double_targets(online, frozen, rewards, terminated, gamma: float) -> Tensor:
    """What one network likes by mistake is valued by another, which did not make that mistake."""
    best = online.argmax(dim=1, keepdim=True)  # (N, 1)
    return rewards + gamma * frozen.gather(1, best)[:, 0] * ~terminated
