"""The one training loop that is not itself taught: any model, loss, optimizer and schedule; one process or many."""

import atexit
import copy
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lbdl.bars import progress
from lbdl.devices import synchronize


class batches:  # noqa: N801  reads as a function, like range
    """Shuffled mini-batches of tensors that share their first dimension, drawn anew at every iteration.

    >>> for x, y in batches(images, labels, size=128): ...

    Args:
        tensors: each (N, …), all on one device.
        size: samples in a batch; the last one may be smaller.
        shuffle: draw a new order for each epoch.
        seed: of the order; drawn on the CPU, so that it is the same on every device.

    Raises:
        ValueError: no tensors, different N, or a size below 1.
    """

    def __init__(self, *tensors: Tensor, size: int, shuffle: bool = True, seed: int = 0):
        lengths = [len(t) for t in tensors]
        if not tensors or len(set(lengths)) != 1 or lengths[0] == 0:
            raise ValueError(f"batches: expected tensors of one same length above 0, got lengths {lengths}")
        if size < 1:
            raise ValueError(f"batches: expected a size of at least 1, got {size}")
        self.tensors, self.size, self.shuffle = tensors, size, shuffle
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return math.ceil(len(self.tensors[0]) / self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        count = len(self.tensors[0])
        order = torch.randperm(count, generator=self.generator) if self.shuffle else torch.arange(count)
        for part in order.to(self.tensors[0].device).split(self.size):
            yield tuple(t[part] for t in self.tensors)


@dataclass(repr=False)
class History:
    """What happened in a training: the loss of every step, its mean over every epoch, the metrics of every epoch.

    And the seconds that it all took, by the clock on the wall, metrics included.
    """

    steps: list[float] = field(default_factory=list)
    epochs: list[float] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    best_epoch: int | None = None  # counted from 0; set when `watch` is
    seconds: float = 0.0

    def __repr__(self) -> str:  # short, and without what varies: a cell may end with fit(…)
        return f"History of {len(self.steps)} steps in {len(self.epochs)} epochs"


def _leave() -> None:
    if torch.distributed.is_initialized():  # unless the script has done it
        torch.distributed.destroy_process_group()


class _Team:
    """The processes that torchrun started, which share every batch; a team of one without it."""

    def __init__(self, on: torch.device):
        self.size, self.rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
        if self.size > 1 and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if on.type == "cuda" else "gloo")
            atexit.register(_leave)  # gloo's threads may hold a tensor yet, and abort a process that ends without them

    def wrap(self, model: nn.Module) -> nn.Module:
        return nn.parallel.DistributedDataParallel(model) if self.size > 1 else model

    def share(self, batch: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], float]:
        """This process's part of a batch, and its weight: the mean over the team is then the mean over the batch."""
        if self.size == 1:
            return batch, 1.0
        count = len(batch[0])
        if count < self.size:
            raise ValueError(f"fit: a batch of {count} cannot be shared by {self.size} processes: use larger batches")
        part = tuple(t[self.rank :: self.size] for t in batch)
        return part, len(part[0]) * self.size / count

    def mean(self, value: Tensor) -> Tensor:
        if self.size > 1:
            torch.distributed.all_reduce(value)
        return value / self.size

    def of_first(self, value: float, on: torch.device) -> float:
        """The first process's value, so that all take the same decisions."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], device=on)
        torch.distributed.broadcast(shared, src=0)
        return shared.item()


def fit(
    model: nn.Module,
    data: Iterable[tuple[Tensor, ...]],
    loss: Callable[..., Tensor],
    optimizer: Optimizer | list[Optimizer],
    epochs: int = 1,
    schedule: LRScheduler | list[LRScheduler] | None = None,
    clip: float | None = None,
    metrics: dict[str, Callable[[nn.Module], float]] | None = None,
    watch: str | None = None,
    patience: int | None = None,
    label: str = "training",
) -> History:
    """Train `model` by stochastic gradient descent (book, 3.3 and 3.6) and return what happened.

    Run by `torchrun --nproc-per-node=2 script.py`, every process takes its part of every batch and the gradients are
    averaged (DistributedDataParallel; NCCL on GPUs, gloo on CPUs): the steps are those of a single process.

    Args:
        model: trained in place, where it is; left in the mode, training or evaluation, in which it came.
        data: gives the batches of one epoch each time it is iterated, such as `batches(x, y, size=128)`.
        loss: loss(model, *batch) gives the mean loss of the batch, a tensor of one element.
        optimizer: of the model's parameters; or several, such as Muon for the matrices and AdamW for the rest.
        epochs: passes over the data.
        schedule: a learning rate schedule of that optimizer, or several; moved on after every step.
        clip: largest norm of the gradient; a longer one is scaled down to it.
        metrics: name -> function of the model; called after each epoch in evaluation mode and without gradients.
        watch: the metric to watch; lower is better. At the end the model has the parameters of its best epoch.
        patience: stop after so many epochs in which the watched metric did not improve.
        label: shown in front of the progress bar.

    Raises:
        ValueError: no epochs, no batches, an unknown metric to watch, patience below 1 or without a metric.
        FloatingPointError: the loss is no longer a finite number.
    """
    metrics = metrics or {}
    if epochs < 1:
        raise ValueError(f"fit: expected at least 1 epoch, got {epochs}")
    if watch is not None and watch not in metrics:
        raise ValueError(f"fit: expected watch to be one of the metrics {list(metrics)}, got {watch!r}")
    if patience is not None and watch is None:
        raise ValueError("fit: patience needs watch, the metric that should improve")
    if patience is not None and patience < 1:
        raise ValueError(f"fit: expected a patience of at least 1, got {patience}")
    optimizers = optimizer if isinstance(optimizer, list) else [optimizer]
    schedules = schedule if isinstance(schedule, list) else [schedule] * (schedule is not None)
    on = next(model.parameters()).device
    team = _Team(on)
    trained = team.wrap(model)
    history = History(metrics={name: [] for name in metrics})
    best, best_state, start, mode = math.inf, None, time.perf_counter(), model.training
    rounds = range(epochs)
    for epoch in progress(rounds, label) if team.rank == 0 else rounds:
        losses = _epoch(trained, data, loss, optimizers, schedules, clip, team)
        if wrong := [value for value in losses if not math.isfinite(value)]:
            raise FloatingPointError(f"fit: the loss is {wrong[0]} in epoch {epoch}: is the learning rate too large?")
        history.steps += losses
        history.epochs.append(sum(losses) / len(losses))
        for name, value in _measure(model, metrics).items():
            history.metrics[name].append(team.of_first(value, on))
        if watch is not None and history.metrics[watch][-1] < best:
            best, best_state, history.best_epoch = history.metrics[watch][-1], copy.deepcopy(model.state_dict()), epoch
        if patience is not None and epoch - (history.best_epoch or 0) >= patience:
            break
    if best_state is not None:
        model.load_state_dict(best_state)
    model.train(mode)
    synchronize(on)
    history.seconds = team.of_first(time.perf_counter() - start, on)
    return history


def _epoch(model, data, loss, optimizers, schedules, clip, team) -> list[float]:
    model.train()
    losses = []
    for batch in data:
        part, weight = team.share(batch)
        for optimizer in optimizers:
            optimizer.zero_grad()
        value = loss(model, *part) * weight
        value.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        for mover in (*optimizers, *schedules):  # first all optimizers, then their learning rates
            mover.step()
        losses.append(value.detach().reshape(()))
    if not losses:
        raise ValueError(
            "fit: expected at least one batch in an epoch, got none (a generator gives its batches only once)"
        )
    return team.mean(torch.stack(losses)).tolist()


def _measure(model: nn.Module, metrics: dict[str, Callable[[nn.Module], float]]) -> dict[str, float]:
    model.eval()  # the next epoch puts it back into training mode
    with torch.no_grad():
        return {name: float(metric(model)) for name, metric in metrics.items()}


def orthogonalized(G: Tensor) -> Tensor:
    """A matrix with the singular vectors of G (E, D) and singular values near 1, by five Newton-Schulz steps."""
    X = (G.mT if len(G) > G.shape[1] else G) / G.norm().clamp(min=1e-7)
    for _ in range(5):
        A = X @ X.mT
        X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
    return X.mT if len(G) > G.shape[1] else X


class Muon(Optimizer):
    """For matrices: Nesterov's momentum, then steps that go equally far in all directions (Jordan et al., 2024).

    As torch.optim.Muon without weight decay, but in the precision of the weights: that one computes in bfloat16, for
    which many CPUs have no instructions, and is then ten times slower.

    Args:
        matrices: parameters (E, D).
        lr: the learning rate.
        momentum: the share of the old average in the new one.
    """

    def __init__(self, matrices: Iterable[Tensor], lr: float, momentum: float = 0.95):
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """Move each matrix by its orthogonalized average of gradients."""
        for group in self.param_groups:
            for w in group["params"]:
                average = self.state[w].setdefault("average", torch.zeros_like(w))
                average.lerp_(w.grad, 1 - group["momentum"])
                ahead = w.grad.lerp(average, group["momentum"])
                w -= group["lr"] * max(1, len(w) / w.shape[1]) ** 0.5 * orthogonalized(ahead)
