"""Would the chapters run on a GPU? They run here on a pretend one (tests/accelerator.py), on which devices do not mix.

Three parts: the pretence catches the mistakes that a GPU would; every chapter passes; every exported model computes
and learns the same as on the CPU. Installing the accelerator changes PyTorch for good, so none of it happens in this
process: what is decorated with `on_accelerator` runs in a second one (`python -m tests.test_accelerator`), all in one
go, and the tests here read from its report how each went.
"""

import copy
import importlib
import inspect
import io
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

import lbdl
from lbdl import chapters
from tests import accelerator
from tests.devices import ALLOWED_ON_CPU, MODELS
from tests.running import SCRIPTS

ROOT = Path(__file__).parents[1]

# Two processes

CHECKS: dict[str, Callable[[], None]] = {}  # what the second process runs, by name


def run_python(*arguments: str) -> subprocess.CompletedProcess:
    """Run `python -m …` in the root of the project."""
    return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=900)


def last_line(process: subprocess.CompletedProcess) -> dict:
    """The JSON that a process printed last."""
    lines = process.stdout.splitlines()
    assert lines and lines[-1].startswith("{"), f"no report, exit code {process.returncode}: {process.stderr}"
    return json.loads(lines[-1])


@pytest.fixture(scope="module")
def report() -> dict[str, str]:
    """How each of CHECKS went in the second process: "" or a traceback."""
    return last_line(run_python("tests.test_accelerator"))


def on_accelerator(check: Callable[[], None]) -> Callable[[dict], None]:
    """Make a function a test that runs in the second process."""
    name = check.__name__
    CHECKS[name] = check

    def test(report):
        assert report[name] == "", report[name]

    test.__name__, test.__doc__ = name, check.__doc__
    return test


def report_checks() -> None:
    """What the second process does."""
    os.environ["LBDL_DEVICE"] = accelerator.NAME
    accelerator.install()
    outcomes = {}
    for name, check in CHECKS.items():
        try:
            check()
            outcomes[name] = ""
        except Exception:
            outcomes[name] = traceback.format_exc()
    print(json.dumps(outcomes))


def both(dtype: torch.dtype = torch.float32) -> SimpleNamespace:
    """The same matrix on the CPU and on the accelerator, and two indices on the accelerator."""
    cpu = torch.rand(4, 4, generator=torch.Generator().manual_seed(0), dtype=dtype) + torch.eye(4, dtype=dtype)
    return SimpleNamespace(cpu=cpu, gpu=cpu.to("gpu"), i=torch.tensor([0, 2], device="gpu"))


# The pretence catches what a GPU catches

MISTAKES: dict[str, Callable[[SimpleNamespace], object]] = {
    "a matrix product": lambda t: t.gpu @ t.cpu,
    "an einsum": lambda t: torch.einsum("ij,jk->ik", t.gpu, t.cpu),
    "a sum": lambda t: t.cpu + t.gpu,
    "a bias": lambda t: t.gpu + t.cpu[0],
    "a sum in place": lambda t: t.cpu.add_(t.gpu),
    "a sum of numbers in place": lambda t: t.cpu.sum().add_(t.gpu.sum()),
    "a sum into out": lambda t: torch.add(t.gpu, t.gpu, out=t.cpu),
    "a condition": lambda t: torch.where(t.cpu > 0, t.gpu, t.gpu),
    "a comparison": lambda t: torch.allclose(t.gpu, t.cpu),
    "a cat": lambda t: torch.cat([t.gpu, t.cpu]),
    "a stack of numbers": lambda t: torch.stack([t.gpu.sum(), t.cpu.sum()]),
    "an index into a CPU tensor": lambda t: t.cpu[t.i],
    "a mask on a CPU tensor": lambda t: t.cpu[t.gpu > 0],
    "a CPU mask for masked_select": lambda t: t.gpu.masked_select(t.cpu > 0),
    "CPU indices for index_select": lambda t: t.gpu.index_select(0, t.i.cpu()),
    "CPU indices for gather": lambda t: t.gpu.gather(1, t.i.cpu()[None]),
    "CPU values put at indices": lambda t: t.gpu.__setitem__(t.i, t.cpu[:2]),
    "CPU tokens in an embedding": lambda t: F.embedding(t.i.cpu(), t.gpu),
    "a CPU table in an embedding": lambda t: F.embedding(t.i, t.cpu),
    "CPU weights in a convolution": lambda t: F.conv1d(t.gpu, t.cpu[:, :, None]),
    "CPU targets in a cross-entropy": lambda t: F.cross_entropy(t.gpu, torch.tensor([0, 1, 2, 3])),
    "CPU targets in a mean square": lambda t: F.mse_loss(t.gpu, t.cpu),
    "CPU keys in attention": lambda t: F.scaled_dot_product_attention(t.gpu[None], t.cpu[None], t.gpu[None]),
    "a CPU mask in attention": lambda t: F.scaled_dot_product_attention(*[t.gpu[None]] * 3, attn_mask=t.cpu > 0),
    "CPU values in least squares": lambda t: torch.linalg.lstsq(t.gpu, t.cpu),
    "a CPU mean of a distribution": lambda t: torch.distributions.Normal(t.cpu[0], t.gpu[0]).sample(),
    "a linear layer left on the CPU": lambda t: nn.Linear(4, 2)(t.gpu),
    "the same in inference mode": lambda t: torch.inference_mode()(nn.Linear(4, 2))(t.gpu),
    "a layer norm left on the CPU": lambda t: nn.LayerNorm(4)(t.gpu),
    "a batch norm left on the CPU": lambda t: nn.BatchNorm1d(4)(t.gpu),
    "an LSTM left on the CPU": lambda t: nn.LSTM(4, 3)(t.gpu),
    "an input left on the CPU": lambda t: nn.Linear(4, 2, device="gpu")(t.cpu),
    "a CPU gradient": lambda t: setattr(nn.Parameter(t.gpu), "grad", t.cpu),
    "a CPU generator": lambda t: torch.randn(3, device="gpu", generator=torch.Generator()),
    "a CPU generator in place": lambda t: t.gpu.normal_(generator=torch.Generator()),
    "a CPU generator to sample": lambda t: torch.multinomial(t.gpu, 1, generator=torch.Generator()),
    "numpy": lambda t: t.gpu.numpy(),
    "np.asarray": lambda t: np.asarray(t.gpu),
    "np.asarray of a list": lambda t: np.asarray(list(t.gpu.sum(0))),
    "a product with an array": lambda t: t.gpu * np.ones((4, 4)),
    "a curve": lambda t: Figure().subplots().plot(t.gpu[0]),
    "a curve over CPU positions": lambda t: Figure().subplots().plot(t.cpu[0], t.gpu[0]),
    "points": lambda t: Figure().subplots().scatter(t.cpu[0], t.gpu[0]),
    "bars": lambda t: Figure().subplots().bar(t.cpu[0], t.gpu[0]),
    "a histogram": lambda t: Figure().subplots().hist(t.gpu[0]),
    "an image": lambda t: Figure().subplots().imshow(t.gpu),
    "a driver of LAPACK alone": lambda t: torch.linalg.lstsq(t.gpu, t.gpu, driver="gelsd"),
}


@on_accelerator
def test_mistakes_raise_as_on_a_gpu():
    missed = {}
    for name, mistake in MISTAKES.items():
        try:
            mistake(both())
            missed[name] = "nothing was raised"
        except (RuntimeError, TypeError) as error:
            if not any(message in str(error) for message in accelerator.MESSAGES):
                missed[name] = f"{type(error).__name__}: {error}"
    assert not missed, missed


@on_accelerator
def test_a_mistake_raises_in_backward_too():
    class Forgetful(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * torch.ones(4, 4)

    with pytest.raises(RuntimeError, match="same device"):
        Forgetful.apply(both().gpu.requires_grad_()).sum().backward()


# and allows what a GPU allows

ALLOWED: dict[str, Callable[[SimpleNamespace], Tensor]] = {
    "a CPU tensor without dimensions": lambda t: t.cpu.sum() * t.gpu - t.cpu.sum(),
    "the same to fill with": lambda t: t.gpu.masked_fill(t.gpu > 1, t.cpu.sum()),
    "the same put at indices": lambda t: put(t.gpu, t.i, t.cpu.sum()),
    "an array's number": lambda t: np.float64(2) * t.gpu,
    "CPU indices": lambda t: t.gpu[t.i.cpu()],
    "CPU mask": lambda t: t.gpu[t.cpu > 0],
    "CPU values in a slice": lambda t: put(t.gpu, slice(2), t.cpu[:2]),
    "copying": lambda t: t.gpu.copy_(t.cpu),
    "moving": lambda t: t.cpu.to(t.gpu),
    "a new tensor like a CPU one": lambda t: torch.zeros_like(t.cpu, device="gpu"),
    "numbers of a CPU generator, moved": lambda t: torch.randn(3, generator=torch.Generator().manual_seed(0)).to(
        t.i.device
    ),
    "changes in place": lambda t: t.gpu.view(-1).mul_(2).unsqueeze_(0),
    "changes in place with gradient": lambda t: torch.autograd.grad(
        put(t.gpu.requires_grad_() * 2, 0, 0.0).sum(), t.gpu
    )[0],
    "a second derivative": lambda t: torch.func.hessian(lambda x: x.pow(3).sum())(t.gpu[0]),
    "a Jacobian": lambda t: torch.func.jacrev(torch.sin)(t.gpu[0]),
    "vmap": lambda t: torch.func.vmap(torch.sum)(t.gpu),
    "checkpointing": lambda t: torch.utils.checkpoint.checkpoint(nn.ReLU(), t.gpu, use_reentrant=False),
    "inference mode": lambda t: torch.inference_mode()(lambda x: put(x.reshape(2, 8) + 1, 0, 0.0))(t.gpu),
    # LAPACK's last digits depend on where in memory the matrix lies
    "least squares": lambda t: torch.linalg.lstsq(t.gpu, t.gpu).solution.round(decimals=5),
    "singular values": lambda t: torch.linalg.svd(t.gpu)[1],
    "eigenvalues": lambda t: torch.linalg.eigh(t.gpu)[0],
    "a triangular solve": lambda t: torch.linalg.solve_triangular(t.gpu.tril(), t.gpu, upper=False),
    "a pseudo-inverse": lambda t: torch.linalg.pinv(t.gpu),
    "a solve": lambda t: torch.linalg.solve(t.gpu, t.gpu),
    "a Cholesky factor": lambda t: torch.linalg.cholesky(t.gpu @ t.gpu.T),
    "a Gaussian": lambda t: torch.distributions.MultivariateNormal(t.gpu[0], t.gpu @ t.gpu.T).sample(),
    "a density": lambda t: torch.distributions.Normal(t.gpu, t.gpu.new_ones(4)).log_prob(t.gpu),
    "classes": lambda t: torch.distributions.Categorical(logits=t.gpu).sample(),
    "its own random numbers": lambda t: torch.randn(3, device="gpu") + torch.rand(3, device="gpu"),
}


def put(tensor: Tensor, index: object, value: object) -> Tensor:
    tensor[index] = value
    return tensor


@on_accelerator
def test_what_a_gpu_allows_stays_on_it_and_computes_the_same():
    wrong = {}
    for name, allowed in ALLOWED.items():
        for dtype in (torch.float32, torch.float64):
            t, expected = both(dtype), both(dtype)
            expected.gpu, expected.i = expected.cpu.clone(), expected.i.cpu()
            torch.manual_seed(0)
            on_cpu = allowed(expected)
            torch.manual_seed(0)
            try:
                result = allowed(t)
            except Exception as error:
                wrong[name] = f"{type(error).__name__}: {error}"
                continue
            here = str(result.device) == "gpu:0" and result.shape == on_cpu.shape
            if not here or not torch.equal(result.cpu(), on_cpu.cpu()):
                wrong[name] = f"got {result}, expected {on_cpu}"
    assert not wrong, wrong


@on_accelerator
def test_results_are_those_of_the_cpu():
    t = both()
    double = t.cpu.double()
    for function in (torch.linalg.svdvals, torch.linalg.inv, torch.det, torch.fft.rfft, torch.cov, lambda x: x @ x.T):
        for x in (t.cpu, double):
            torch.testing.assert_close(function(x.to("gpu")).cpu(), function(x), rtol=0, atol=0)


@on_accelerator
def test_derivatives_are_those_of_finite_differences():
    x = both(torch.float64).gpu.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: (x @ x.T).softmax(1), x)
    assert torch.autograd.gradgradcheck(torch.tanh, x)


@on_accelerator
def test_tensors_are_made_there():
    makers = (
        *(lambda d: torch.tensor([1.0, 2.0], device=d), lambda d: torch.as_tensor(np.ones(3), device=d)),
        *(lambda d: torch.linspace(0, 1, 5, device=d), lambda d: torch.arange(5, device=d)),
        *(
            lambda d: torch.eye(3, device=d),
            lambda d: torch.zeros(2, device=d),
            lambda d: torch.full((2,), 3.0, device=d),
        ),
        *(lambda d: torch.zeros(2, dtype=torch.float64, device=d), lambda d: torch.tril_indices(3, 3, device=d)),
        lambda d: torch.ones(2).new_zeros(3, device=d),
    )
    for make in makers:
        made, expected = make("gpu"), make("cpu")
        assert str(made.device) == "gpu:0"
        torch.testing.assert_close(made.cpu(), expected, rtol=0, atol=0)


@on_accelerator
def test_numbers_can_be_read_and_printed():
    x = torch.tensor([1.5, 2.0], device="gpu")
    assert (float(x[0]), int(x[1]), bool(x[1]), x[0].item(), x.tolist()) == (1.5, 2, True, 1.5, [1.5, 2.0])
    assert f"{x[0]:.3f} {x.sum().item():g}" == "1.500 3.5"
    assert repr(x) == str(x) == f"{x}" == "tensor([1.5000, 2.0000], device='gpu:0')"
    assert [float(v) for v in x] == [1.5, 2.0] and list(range(x.long()[1])) == [0, 1]
    assert x.cpu().numpy().tolist() == [1.5, 2.0]


@on_accelerator
def test_memory_is_shared_where_it_should():
    x = torch.zeros(2, 3, device="gpu")
    assert x.view(6).data_ptr() == x.data_ptr() != x.clone().data_ptr()
    copied, moved = x.cpu(), x.cpu().to("gpu")
    x[0] = 1
    assert x.T[0, 0] == 1 and copied.sum() == 0 and moved.sum() == 0
    x.data = torch.ones(4, device="gpu")
    assert x.shape == (4,) and x.sum() == 4


@on_accelerator
def test_lbdl_computes_on_it():
    on = lbdl.device(needs=torch.float64)
    assert on == torch.device("gpu")
    x, y = next(iter(lbdl.batches(torch.rand(6, 2, device=on), torch.rand(6, 1, device=on), size=4)))
    lbdl.claim("shapes", torch.cat([x, y], 1), equals=torch.cat([x, y], 1))
    with pytest.raises(lbdl.ClaimError, match="same device"):
        lbdl.claim("devices", x, equals=x.cpu())
    assert lbdl.seconds(lambda: x + x, on, repeats=1) > 0 and lbdl.peak_memory(lambda: x + x, on) is None


def test_named_operations_exist():
    """A misspelt name would allow or count nothing, and nobody would notice."""
    for name in accelerator.TRAVEL | accelerator.INDEXING | accelerator.TAKES_NUMBERS | accelerator.HEAVY:
        assert hasattr(torch.ops.aten, name), name


@on_accelerator
def test_heavy_operations_on_the_cpu_are_counted():
    accelerator.heavy_on_cpu.clear()
    few, many = torch.rand(10, 10), torch.rand(11, 11)
    few @ few, many.to("gpu") @ many.to("gpu")
    assert not accelerator.heavy_on_cpu
    line = inspect.currentframe().f_lineno + 1
    many @ many
    assert dict(accelerator.heavy_on_cpu) == {("mm", f"{Path(__file__).name}:{line}"): 1}
    with torch.inference_mode():
        F.linear(many.clone(), many.clone())
    assert accelerator.heavy_on_cpu["mm", f"{Path(__file__).name}:{line + 3}"] == 1
    nn.Conv1d(11, 2, 1)(many.requires_grad_()).sum().backward()
    assert {"convolution", "convolution_backward"} <= {operation for operation, _ in accelerator.heavy_on_cpu}


# Models learn there as on the CPU


def same_step_on_both(model: nn.Module, *inputs: Tensor) -> None:
    """Train a model one step on the CPU and a copy of it on the accelerator: same output, loss and parameters."""
    twin = copy.deepcopy(model).to("gpu")
    results = []
    for trained, batch in ((twin, [x.to("gpu") for x in inputs]), (model, inputs)):
        accelerator.heavy_on_cpu.clear()
        torch.manual_seed(0)  # of dropout
        output = trained(*batch)
        output = output[0] if isinstance(output, tuple) else output
        loss = (output - 1).square().mean()
        if loss.requires_grad:
            loss.backward()
            torch.optim.SGD(trained.parameters(), lr=0.1).step()
        assert output.device == batch[0].device
        if trained is twin:
            assert not accelerator.heavy_on_cpu, f"ran on the CPU: {dict(accelerator.heavy_on_cpu)}"
        results.append([output, loss, *trained.parameters(), *trained.buffers()])
    for on_gpu, on_cpu in zip(*results, strict=True):
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-4, atol=1e-5)


@on_accelerator
def test_a_convolutional_network_learns_the_same():
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5), nn.Flatten()
    same_step_on_both(nn.Sequential(*layers, nn.Linear(36, 3)), torch.randn(8, 1, 8, 8))


@on_accelerator
def test_recurrent_networks_learn_the_same():
    for network in (nn.LSTM, nn.GRU, nn.RNN):
        same_step_on_both(network(3, 5, num_layers=2, batch_first=True), torch.randn(4, 6, 3))


@on_accelerator
def test_a_transformer_layer_learns_and_infers_the_same():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
    same_step_on_both(layer, torch.randn(4, 6, 8))
    x = torch.randn(4, 6, 8)
    layer.eval()
    with torch.no_grad():
        torch.testing.assert_close(copy.deepcopy(layer).to("gpu")(x.to("gpu")).cpu(), layer(x))


@on_accelerator
def test_optimizers_take_the_same_steps():
    for name in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad"):
        torch.manual_seed(0)
        model, x = nn.Linear(4, 3).double(), torch.randn(8, 4, dtype=torch.float64)
        models = model, copy.deepcopy(model).to("gpu")
        for trained in models:
            optimizer = getattr(torch.optim, name)(trained.parameters(), lr=0.1, weight_decay=0.1)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
            for _ in range(3):
                optimizer.zero_grad()
                F.cross_entropy(
                    trained(x.to(trained.weight.device)), torch.arange(8).to(trained.weight.device) % 3
                ).backward()
                nn.utils.clip_grad_norm_(trained.parameters(), 0.5)
                optimizer.step()
                schedule.step()
        torch.testing.assert_close(models[1].weight.cpu(), models[0].weight, rtol=1e-12, atol=1e-12)


@on_accelerator
def test_inference_mode_changes_nothing():
    lstm, x = nn.LSTM(4, 4), torch.randn(5, 4)
    twin, y = copy.deepcopy(lstm).to("gpu"), x.to("gpu")
    with torch.inference_mode():
        assert twin(y)[0].to("cpu").device.type == "cpu"
        torch.testing.assert_close(twin(y)[0].cpu(), lstm(x)[0])
        y.view(-1)[0] = 7.0  # a view, made in inference mode, of a tensor made outside
    assert y[0, 0] == 7


class Tied(nn.Module):
    """A language model in small: the weights that read tokens in also read them out."""

    def __init__(self):
        super().__init__()
        self.read, self.write = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.write.weight = self.read.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self.read(x))


@on_accelerator
def test_moving_copying_and_saving_keep_parameters():
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)  # made before the model moves
    model.to("gpu")
    before = model.read.weight.tolist()
    model(torch.tensor([1, 2], device="gpu")).square().sum().backward()
    optimizer.step()
    assert model.write.weight is model.read.weight and before != model.read.weight.tolist()
    twin = copy.deepcopy(model)
    assert twin.write.weight is twin.read.weight and isinstance(twin.read.weight, nn.Parameter)
    assert twin.read.weight.tolist() == model.read.weight.tolist()
    saved = io.BytesIO()
    torch.save(model.state_dict(), saved)
    saved.seek(0)
    loaded = torch.load(saved, weights_only=True)
    assert str(loaded["read.weight"].device) == "gpu:0"
    optimizer.step()
    assert twin.read.weight.tolist() != model.read.weight.tolist()
    model.load_state_dict(loaded)
    assert twin.read.weight.tolist() == model.read.weight.tolist()
    model.cpu()
    assert type(model.read.weight) is nn.Parameter and model.write.weight is model.read.weight


# The chapters

SCRATCH = """
# %%
import torch
from torch import nn
from lbdl import batches, check, claim, device, explore, fit, seed, slider
on = device()
x = torch.rand(80, 2, generator=seed(0))
def learn(model):
    return fit(model, batches(x.to(on), size=20), lambda model, x: model(x).square().mean(),
               torch.optim.SGD(model.parameters(), 0.1), epochs=3)

# %% [markdown]
# ## 1.1 All is well, but for a product on the CPU

# %%
history = learn(nn.Linear(2, 1).to(on))
assert len(history.steps) == 12 and len(history.epochs) == 3 and len(set(history.steps)) == 1
claim("false after one step", history.steps[-1], at_most=0)
x @ x.T

# %% [markdown]
# ## 1.2 A module left behind

# %%
learn(nn.Linear(2, 1))

# %% [markdown]
# ## 1.3 An equality that is false

# %%
claim("no equality", x.sum().to(on), equals=x.sum().to(on) + 1)

# %% [markdown]
# ## 1.4 Shapes that differ after training

# %%
learn(nn.Linear(2, 1).to(on))
claim("other equality", x, equals=x + 1)
claim("no shape", x, equals=x[0])

# %% [markdown]
# ## 1.5 A solution that mixes devices

# %% tags=["solution"]
def double(a):
    return a + x
check(double, ("twice", lambda f: (f(x.to(on)), 2 * x.to(on))))

# %% [markdown]
# ## 1.6 A widget that mixes devices at one end

# %%
def scene(fig):
    ax = fig.subplots()
    line, = ax.plot(x.sum(1))
    def update(k):
        line.set_ydata(x.sum(1) if k < 3 else x.sum(1).to(on))
        return "seen"
    return update
explore(scene, number="1.6a", caption="a widget", k=slider(1, 3, 1))
"""


def test_mistakes_in_a_chapter_are_found(tmp_path):
    """Each section of a scratch chapter but the first has a mistake; the message must name section, line and cause."""
    script = tmp_path / "01_scratch.py"
    script.write_text(SCRATCH)

    process = run_python("tests.run_on_accelerator", str(script))
    assert process.returncode == 1

    def line(code: str) -> int:
        return SCRATCH.splitlines().index(code) + 1

    heavy = last_line(process)
    assert heavy["1.1"] == {"mm": {"count": 1, "lines": [f"{script.name}:{line('x @ x.T')}"]}}
    assert "forgiven: false after one step" in process.stdout and "forgiven: other equality" in process.stdout

    found = [line for line in process.stderr.splitlines() if line.startswith("section")]
    expected = [
        ("1.2", "learn(nn.Linear(2, 1))", "MixedDevicesError: Expected all tensors to be on the same device"),
        ("1.3", 'claim("no equality", x.sum().to(on), equals=x.sum().to(on) + 1)', "ClaimError: no equality"),
        ("1.4", 'claim("no shape", x, equals=x[0])', "ClaimError: the two sides have shapes"),
        ("1.5", None, "the check of double says that its solution is wrong"),
        ("1.6", None, "TypeError: can't convert gpu:0"),
    ]
    assert len(found) == len(expected), found
    for problem, (section, code, cause) in zip(found, expected, strict=True):
        assert problem.startswith(f"section {section}") and cause in problem
        assert code is None or f"{script.name}, line {line(code)}" in problem


def test_allowances_are_for_sections_that_exist():
    sections = {section for script in SCRIPTS for section in chapters.sections(script)}
    unknown = {place for place in ALLOWED_ON_CPU if place.removesuffix(" widgets") not in sections}
    assert not unknown, f"ALLOWED_ON_CPU has sections that no chapter has: {sorted(unknown)}"


# The models that chapters export


def exported_models() -> dict[str, type[nn.Module]]:
    """All classes of modules that a chapter defines in its cells tagged export: "ch05.GPT" -> class."""
    found = {}
    for script in SCRIPTS:
        chapter = f"ch{script.name[:2]}"
        module = importlib.import_module(f"lbdl.chapters.{chapter}")
        for name, thing in vars(module).items():
            if inspect.isclass(thing) and issubclass(thing, nn.Module) and thing.__module__ == module.__name__:
                found[f"{chapter}.{name}"] = thing
    return found


def test_every_exported_model_has_a_case():
    exported = set(exported_models())
    assert not exported - set(MODELS), f"add a case to MODELS for {sorted(exported - set(MODELS))}"
    assert not set(MODELS) - exported, f"MODELS has cases for what no chapter exports: {sorted(set(MODELS) - exported)}"


@on_accelerator
def test_exported_models_learn_the_same():
    exported = exported_models()
    for name in set(MODELS) & set(exported):
        torch.manual_seed(0)
        model, inputs = MODELS[name](exported[name])
        try:
            same_step_on_both(model, *(inputs if isinstance(inputs, tuple) else (inputs,)))
        except Exception as error:
            raise AssertionError(f"{name} on the accelerator: {type(error).__name__}: {error}") from error


if __name__ == "__main__":
    report_checks()
