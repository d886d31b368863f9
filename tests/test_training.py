"""The training loop is the one that anybody would write by hand, in one process and in several."""

import time
from itertools import pairwise

import pytest
import torch
from torch import nn

from lbdl import Muon, batches, fit

# batches


def epoch(loader):
    """The samples of one epoch, in the order in which they come."""
    return torch.cat([x for (x,) in loader]).tolist()


@pytest.mark.parametrize("size", [1, 3, 10, 99])
def test_an_epoch_has_every_sample_once(size):
    assert sorted(epoch(batches(torch.arange(10), size=size))) == list(range(10))


def test_only_the_last_batch_is_smaller_and_without_shuffling_the_order_is_kept():
    loader = batches(torch.arange(10), size=4, shuffle=False)
    assert [x.tolist() for (x,) in loader] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(loader) == 3


def test_every_epoch_has_a_new_order_and_the_same_seed_the_same_orders():
    one, other, third = (batches(torch.arange(50), size=8, seed=s) for s in (1, 1, 2))
    orders = [epoch(one) for _ in range(3)]
    assert all(before != after for before, after in pairwise(orders))
    assert orders == [epoch(other) for _ in range(3)]
    assert orders[0] != epoch(third)


def test_the_order_depends_on_nothing_but_the_seed_and_disturbs_nothing():
    torch.manual_seed(1)
    first, after = epoch(batches(torch.arange(50), size=8)), torch.rand(())
    torch.manual_seed(1)
    assert torch.equal(torch.rand(()), after)
    assert epoch(batches(torch.arange(50), size=8)) == first


def test_tensors_stay_aligned():
    images, labels = torch.arange(20).repeat(3, 1).T.clone(), torch.arange(20)
    for x, y in batches(images, labels, size=6):
        assert x.shape == (len(y), 3)
        assert torch.equal(x[:, 0], y)


@pytest.mark.parametrize(
    "tensors, size, words",
    [
        ((), 2, r"tensors of one same length above 0, got lengths \[\]"),
        ((torch.zeros(3), torch.zeros(4)), 2, r"tensors of one same length above 0, got lengths \[3, 4\]"),
        ((torch.zeros(0),), 2, r"tensors of one same length above 0, got lengths \[0\]"),
        ((torch.zeros(3),), 0, "a size of at least 1, got 0"),
    ],
)
def test_batches_refuse_what_makes_no_sense(tensors, size, words):
    with pytest.raises(ValueError, match=f"batches: expected {words}"):
        batches(*tensors, size=size)


# fit


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.0), nn.Linear(8, 1))


def samples(size=7):
    """20 samples of a function, in batches: of 7, 7 and 6."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 3, generator=generator)
    return batches(x, x.sum(1, keepdim=True).sin(), size=size)


def squared_error(model, x, y):
    return (model(x) - y).square().mean()


def halving(optimizer):
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


def weights(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def adam(model, rate=0.05):
    return torch.optim.Adam(model.parameters(), lr=rate)


def by_hand(epochs, schedule=None, clip=None):
    model, data = network(), samples()
    optimizer = adam(model)
    schedule = schedule and schedule(optimizer)
    losses = []
    for _ in range(epochs):
        for x, y in data:
            optimizer.zero_grad()
            loss = ((model(x) - y) ** 2).mean()
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            if schedule:
                schedule.step()
            losses.append(loss.item())
    return weights(model), losses


@pytest.mark.parametrize("options", [{}, {"schedule": halving}, {"clip": 0.1}, {"schedule": halving, "clip": 0.1}])
def test_fit_is_the_loop_by_hand_bit_for_bit(options):
    model = network()
    optimizer = adam(model)
    schedule = options["schedule"](optimizer) if "schedule" in options else None
    history = fit(model, samples(), squared_error, optimizer, 4, schedule=schedule, clip=options.get("clip"))
    expected, losses = by_hand(4, **options)
    assert torch.equal(weights(model), expected) and history.steps == losses
    assert torch.equal(expected, by_hand(4)[0]) == (not options)  # each option makes a difference


def test_the_history_has_every_step_and_the_mean_of_every_epoch():
    model = network()
    history = fit(model, samples(), squared_error, adam(model), 2)
    assert len(history.steps) == 6 and len(history.epochs) == 2
    assert history.epochs == pytest.approx([sum(history.steps[:3]) / 3, sum(history.steps[3:]) / 3])
    assert history.metrics == {} and history.best_epoch is None


def test_the_seconds_are_those_between_start_and_end():
    model, start = network(), time.perf_counter()
    history = fit(model, samples(), squared_error, adam(model), 2, metrics={"pause": lambda m: time.sleep(0.02) or 0.0})
    assert 0.04 <= history.seconds <= time.perf_counter() - start
    assert str(history) == "History of 6 steps in 2 epochs"  # nothing that varies, nothing long


def test_a_loss_of_one_element_may_have_dimensions():
    model = network()
    history = fit(model, samples(), lambda m, x, y: squared_error(m, x, y).reshape(1), adam(model))
    assert all(isinstance(step, float) for step in history.steps)


def test_metrics_are_called_after_each_epoch_in_evaluation_mode_without_gradients_and_training_goes_on_in_its_mode():
    model, happened = network(), []

    def loss(m, x, y):
        happened.append(("loss", m.training, torch.is_grad_enabled()))
        return squared_error(m, x, y)

    def metric(m):
        happened.append(("metric", m.training, torch.is_grad_enabled()))
        return torch.tensor(0.5)

    history = fit(model, samples(20), loss, adam(model), 2, metrics={"half": metric})
    assert happened == [("loss", True, True), ("metric", False, False)] * 2
    assert history.metrics == {"half": [0.5, 0.5]}


def scripted(values):
    """A metric that takes these values, one after each epoch."""
    values = iter(values)
    return {"error": lambda model: next(values)}


@pytest.mark.parametrize("values", [[3, 1, 2, 1.5], [2, 1, 1, 1], [float("nan"), 1, float("nan"), 2]])
def test_watching_leaves_the_model_with_the_weights_of_the_first_of_its_best_epochs(values):
    model = network()
    history = fit(model, samples(), squared_error, adam(model), 4, metrics=scripted(values), watch="error")
    assert history.best_epoch == 1
    assert history.metrics["error"] == pytest.approx(values, nan_ok=True)
    assert torch.equal(weights(model), by_hand(2)[0])


def test_without_watching_the_model_has_its_last_weights():
    model = network()
    fit(model, samples(), squared_error, adam(model), 4, metrics=scripted([3, 1, 2, 1.5]))
    assert torch.equal(weights(model), by_hand(4)[0])


@pytest.mark.parametrize(
    "patience, values, epochs",
    [(1, [3, 1, 2, 0], 3), (2, [3, 1, 2, 2, 0], 4), (2, [3, 1, 2, 0, 2, 2, 0], 6), (5, [3, 2, 1], 3)],
)
def test_patience_stops_after_so_many_epochs_without_a_new_best(patience, values, epochs):
    model = network()
    history = fit(
        model,
        samples(),
        squared_error,
        adam(model),
        len(values),
        metrics=scripted(values),
        watch="error",
        patience=patience,
    )
    assert len(history.epochs) == epochs


@pytest.mark.parametrize(
    "options, words",
    [
        ({"epochs": 0}, "expected at least 1 epoch, got 0"),
        ({"watch": "error"}, r"expected watch to be one of the metrics \[\], got 'error'"),
        (
            {"watch": "eror", "metrics": {"error": len}},
            r"expected watch to be one of the metrics \['error'\], got 'eror'",
        ),
        ({"patience": 2}, "patience needs watch"),
        ({"patience": 0, "watch": "error", "metrics": {"error": len}}, "expected a patience of at least 1, got 0"),
        ({"data": []}, "expected at least one batch in an epoch, got none"),
    ],
)
def test_fit_refuses_what_makes_no_sense(options, words):
    model = network()
    before = weights(model)
    with pytest.raises(ValueError, match=f"fit: {words}"):
        fit(model, **{"data": samples(), "loss": squared_error, "optimizer": adam(model), **options})
    assert torch.equal(weights(model), before)


def test_a_generator_is_refused_in_the_second_epoch_because_it_is_empty_then():
    model = network()
    with pytest.raises(ValueError, match="a generator gives its batches only once"):
        fit(model, iter(list(samples())), squared_error, adam(model), 2)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_the_mode_in_which_it_came(training):
    model = network().train(training)
    fit(model, samples(), squared_error, adam(model), 2, metrics={"size": lambda m: float(not m.training)})
    assert model.training is training


def test_several_optimizers_with_their_schedules_make_the_steps_of_one():
    together, apart = network(), network()
    apart.load_state_dict(together.state_dict())
    halving = {"lr_lambda": lambda step: 0.5**step}
    one = torch.optim.SGD(together.parameters(), lr=0.01)
    first, *rest = apart.parameters()
    two = [torch.optim.SGD(some, lr=0.01) for some in ([first], rest)]
    schedule, schedules = ([torch.optim.lr_scheduler.LambdaLR(o, **halving) for o in each] for each in ([one], two))
    fit(together, list(samples()), squared_error, one, 2, schedule[0])
    fit(apart, list(samples()), squared_error, two, 2, schedules)
    for left, right in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(24, 8), (8, 24), (8, 8)])
def test_muon_steps_as_pytorchs_does_in_16_bits(shape):
    chance = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(shape, generator=chance), torch.randn(3, *shape, generator=chance)
    ours, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    optimizers = Muon([ours], lr=0.1), torch.optim.Muon([theirs], lr=0.1, weight_decay=0)
    for gradient in gradients:
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient
            optimizer.step()
    assert (ours - start).abs().max() > 0.1
    assert (ours - theirs).abs().max() < 0.02


def test_a_diverging_loss_stops_the_training_and_names_the_epoch():
    model = network()
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) in epoch 1: is the learning rate too large\?"):
        fit(model, samples(20), squared_error, torch.optim.SGD(model.parameters(), lr=1e30), 5)


def test_one_infinite_loss_among_finite_ones_is_named():
    model, factors = network(), iter([1, float("inf"), 1])

    def loss(m, x, y):
        return squared_error(m, x, y).detach() * next(factors) + 0 * squared_error(m, x, y)

    with pytest.raises(FloatingPointError, match="the loss is inf in epoch 0"):
        fit(model, samples(), loss, adam(model))
