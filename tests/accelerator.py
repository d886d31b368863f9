"""A pretend accelerator, for machines without one: a device "gpu" whose tensors do not mix with those on the CPU.

A notebook that forgets `.to(device)` runs on a laptop and stops on a GPU. To find that without a GPU, `install()` adds
a device to PyTorch (in PrivateUse1, the place that it keeps for other people's hardware), written in Python:

- a tensor on it says `device='gpu:0'`; its numbers are those of a hidden CPU tensor, and are computed with there;
- an operation on tensors of both devices raises where CUDA does, and with CUDA's words;
- heavy operations on plain CPU tensors are counted: a training on a GPU should have none.

What it does not have: autocast, random generators of its own, packed sequences, sparse tensors, shapes that change in
place in inference mode, and times that mean something. Printed tensors do not tell of their gradients.

The device stays for the rest of the process, so install it in a process of its own, before the first backward pass
(which counts the devices). Some of what is used here is private to PyTorch, whose version is pinned.
"""

import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "gpu"
CPU = torch.device("cpu")

# The operations below are named as PyTorch's dispatcher names them: `x[i]` arrives as index, `@` as mm or bmm.

# Their arguments may be on two devices: this is how numbers travel.
TRAVEL = {"copy_", "_to_copy"}

# Their indices may be on the CPU, whatever they index; and so may a single value that is put somewhere.
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}

# They take a CPU tensor without dimensions for a plain number, like all that PyTorch tags as pointwise.
TAKES_NUMBERS = {"fill", "fill_", "masked_fill", "masked_fill_", "floor_divide", "mse_loss", "huber_loss"}

# A training step that does one of these on the CPU has left something there.
HEAVY = {
    *("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "_cdist_forward", "_fft_r2c", "_fft_c2c"),
    *("convolution", "convolution_backward", "mkldnn_rnn_layer", "mkldnn_rnn_layer_backward"),
    *("embedding", "embedding_dense_backward", "_embedding_bag"),
    *("native_batch_norm", "_native_batch_norm_legit", "native_batch_norm_backward"),
    *("native_layer_norm", "native_layer_norm_backward", "native_group_norm", "native_group_norm_backward"),
    *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward"),
    *("_native_multi_head_attention", "_transformer_encoder_layer_fwd"),
    *("linalg_lstsq", "linalg_cholesky_ex", "linalg_solve_triangular", "_linalg_solve_ex", "linalg_inv_ex"),
    *("linalg_pinv", "linalg_qr", "linalg_lu_factor_ex", "linalg_eig", "_linalg_eigh", "_linalg_svd", "_linalg_det"),
    *("cholesky_solve", "cholesky_inverse"),
}
WORKED_EXAMPLE = 100  # numbers; an operation on no more of them is an example to follow by hand, and not heavy

heavy_on_cpu: Counter[tuple[str, str]] = Counter()  # (operation, "file.py:line") -> how often it ran on CPU tensors


# What the errors say that come of mixed devices.
MESSAGES = (
    "Expected all tensors to be on the same device",
    "to have the same device type, but got",
    "are not at the same device",
    "indices should be either on cpu or on the same device",
    "attempting to assign a gradient with device type 'cpu'",
    "Expected a 'gpu' device type for generator",
    "can't convert gpu:0 device type tensor to numpy",
    "`driver` should be one of (gels)",
)


class MixedDevicesError(RuntimeError):
    """An operation got tensors of different devices; on CUDA a RuntimeError of the same words."""


class GpuTensor(Tensor):
    """A tensor on the accelerator: for PyTorch an empty shell of the right shape, around `numbers` on the CPU."""

    # Functions of torch treat it like any tensor; what they then do arrives below, as operations.
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, numbers: Tensor):
        with torch.inference_mode(False):  # else it could not become a view of a tensor made outside of that mode
            return Tensor._make_wrapper_subclass(
                cls,
                numbers.size(),
                strides=numbers.stride(),
                storage_offset=numbers.storage_offset(),
                dtype=numbers.dtype,
                device=torch.device(NAME, 0),
            )

    def __init__(self, numbers: Tensor):
        self.numbers = numbers

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return compute(operation, args, kwargs or {})

    # Not everything is an operation. The rest follows: first what GPUs refuse,

    def numpy(self, *, force: bool = False):
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            f"can't convert {self.device} device type tensor to numpy. "
            "Use Tensor.cpu() to copy the tensor to host memory first."
        )

    # what looks at numbers,

    def tolist(self):
        return self.detach().cpu().tolist()

    def __repr__(self, *, tensor_contents=None):
        return f"{repr(self.detach().cpu()).removesuffix(')')}, device='{self.device}')"

    def __format__(self, form: str) -> str:
        return format(self.item(), form) if self.dim() == 0 else super().__format__(form)

    # and what looks at memory, of which the shell has none.

    def data_ptr(self) -> int:
        return self.numbers.data_ptr()

    def untyped_storage(self):
        return self.numbers.untyped_storage()

    @property
    def data(self):
        return Tensor.data.__get__(self)

    @data.setter
    def data(self, other: Tensor):
        Tensor.data.__set__(self, other)
        self.numbers = other.numbers

    def follow_shape(self) -> None:
        """Give the shell the shape that its numbers have, in case that they changed it in place."""
        if (self.shape, self.stride()) != (self.numbers.shape, self.numbers.stride()):
            Tensor.data.__set__(self, GpuTensor(self.numbers))

    def __deepcopy__(self, memo: dict):
        if id(self) not in memo:
            twin = GpuTensor(self.numbers.clone()).requires_grad_(self.requires_grad)
            memo[id(self)] = nn.Parameter(twin, self.requires_grad) if isinstance(self, nn.Parameter) else twin
            if self.grad is not None:
                memo[id(self)].grad = GpuTensor(self.grad.numbers.clone())
        return memo[id(self)]

    def __reduce_ex__(self, protocol):
        rebuild = torch._utils._rebuild_device_tensor_from_cpu_tensor
        return rebuild, (self.detach().cpu(), self.dtype, str(self.device), self.requires_grad)


def on_gpu(thing: Tensor | torch.device | str | None) -> bool:
    """Whether a tensor is on the accelerator, or a device is the accelerator."""
    if isinstance(thing, Tensor):
        return isinstance(thing, GpuTensor)
    return thing is not None and torch.device(thing).type == NAME


def compute(operation, args: tuple, kwargs: dict):
    """Do an operation that reads a tensor on the accelerator, or makes one there."""
    given = list(leaves(args, kwargs))
    from_gpu = any(isinstance(thing, GpuTensor) for thing in given)
    to_gpu = from_gpu if kwargs.get("device") is None else on_gpu(kwargs["device"])
    if from_gpu:
        refuse_mixing(operation, args, kwargs)
    if to_gpu:
        refuse_cpu_generator(given)

    hidden_args = [each(hide, thing) for thing in args]
    hidden_kwargs = {name: each(hide, thing) for name, thing in kwargs.items()}
    if "device" in kwargs and to_gpu:
        hidden_kwargs["device"] = CPU
    result = INSTEAD.get(name_of(operation), operation)(*hidden_args, **hidden_kwargs)

    if changed := changed_arguments(operation, args, kwargs):
        for tensor in changed:
            if on_gpu(tensor):
                tensor.follow_shape()
        return changed[0] if len(changed) == 1 else tuple(changed)
    return each(show, result) if to_gpu else result


def leaves(args: tuple, kwargs: dict) -> Iterator[object]:
    """All that an operation was given; lists of tensors one by one."""
    for thing in (*args, *kwargs.values()):
        if isinstance(thing, (list, tuple)):
            yield from thing
        else:
            yield thing


def each(function: Callable, thing: object) -> object:
    """function(thing), or for a list or a tuple that of its elements."""
    return type(thing)(map(function, thing)) if isinstance(thing, (list, tuple)) else function(thing)


def hide(thing: object) -> object:
    """The numbers of a tensor on the accelerator; anything else as it is."""
    return thing.numbers if isinstance(thing, GpuTensor) else thing


def show(thing: object) -> object:
    """A tensor as one on the accelerator; anything else as it is."""
    return GpuTensor(thing) if isinstance(thing, Tensor) else thing


@functools.cache
def name_of(operation) -> str:
    """aten::add.Tensor -> "add"."""
    return operation._schema.name.removeprefix("aten::")


@functools.cache
def changes(operation) -> list[tuple[int, str]]:
    """Which arguments an operation writes to and returns, by position and name: add_ its self, add.out its out."""
    schema = operation._schema
    if not schema.returns or schema.returns[0].alias_info is None or not schema.returns[0].alias_info.is_write:
        return []
    arguments = enumerate(schema.arguments)
    return [(i, a.name) for i, a in arguments if a.alias_info is not None and a.alias_info.is_write]


def changed_arguments(operation, args: tuple, kwargs: dict) -> list[Tensor]:
    """The tensors that an operation writes to and returns: the very same that went in."""
    return [kwargs[name] if name in kwargs else args[position] for position, name in changes(operation)]


# What raises


@functools.cache
def takes_numbers(operation) -> bool:
    """Whether a CPU tensor without dimensions may stand among tensors on the accelerator, as a number would."""
    return torch.Tag.pointwise in operation.tags or name_of(operation) in TAKES_NUMBERS


def refuse_mixing(operation, args: tuple, kwargs: dict) -> None:
    """Raise if tensors on the accelerator meet tensors on the CPU in a way that CUDA refuses."""
    name = name_of(operation)
    if name in TRAVEL:
        return
    if name in INDEXING:
        refuse_mixed_indexing(*args[:3])
        return
    changed = changed_arguments(operation, args, kwargs)
    for tensor in leaves(args, kwargs):
        if not isinstance(tensor, Tensor) or on_gpu(tensor):
            continue
        is_number = tensor.dim() == 0 and takes_numbers(operation) and all(tensor is not c for c in changed)
        if not is_number:
            raise mixed(name)


def refuse_mixed_indexing(target: Tensor, indices: list, value: Tensor | None = None) -> None:
    """Raise unless what is indexed is on the accelerator, and so is what is put into it, or that is one number."""
    if not on_gpu(target):
        raise MixedDevicesError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    if value is not None and not on_gpu(value) and value.dim() > 0:
        raise mixed("index_put")


def mixed(name: str) -> MixedDevicesError:
    return MixedDevicesError(
        f"Expected all tensors to be on the same device, but found at least two devices, gpu:0 and cpu! ({name})"
    )


def refuse_cpu_generator(given: list) -> None:
    """Raise if random numbers for the accelerator are to come from a generator, which is always one of the CPU."""
    if any(isinstance(thing, torch.Generator) for thing in given):
        raise RuntimeError(f"Expected a {NAME!r} device type for generator but found 'cpu'")


# What CUDA does its own way


def lstsq(A: Tensor, B: Tensor, rcond: float | None = None, *, driver: str | None = None):
    """CUDA has one driver, which takes matrices of full rank."""
    if driver not in (None, "gels"):
        raise RuntimeError("torch.linalg.lstsq: parameter `driver` should be one of (gels)")
    return torch.ops.aten.linalg_lstsq(A, B, rcond, driver="gels")


def lstm_cell(from_input, from_hidden, cell, input_bias=None, hidden_bias=None):
    """One step of nn.LSTM, which PyTorch computes in one piece on GPUs; the third result is only for its backward."""
    gates = from_input + from_hidden
    if input_bias is not None:
        gates = gates + input_bias + hidden_bias
    enter, keep, new, leave = gates.chunk(4, 1)
    cell = keep.sigmoid() * cell + enter.sigmoid() * new.tanh()
    return leave.sigmoid() * cell.tanh(), cell, gates


def gru_cell(from_input, from_hidden, hidden, input_bias=None, hidden_bias=None):
    """One step of nn.GRU, as above."""
    if input_bias is not None:
        from_input, from_hidden = from_input + input_bias, from_hidden + hidden_bias
    (reset_in, update_in, new_in), (reset, update, new) = from_input.chunk(3, 1), from_hidden.chunk(3, 1)
    update = (update_in + update).sigmoid()
    new = (new_in + (reset_in + reset).sigmoid() * new).tanh()
    return new + update * (hidden - new), from_input


RECURRENT = {"_thnn_fused_lstm_cell": lstm_cell, "_thnn_fused_gru_cell": gru_cell}
INSTEAD = {
    "linalg_lstsq": lstsq,
    "_efficientzerotensor": torch.ops.aten.zeros,  # forward derivatives use one without memory: a shell needs some
    **RECURRENT,
}


# What is installed

LIBRARY = torch.library.Library("aten", "IMPL")  # a constant, because what it registers goes when it goes


class Accelerator(TorchDispatchMode):
    """Sees every operation of PyTorch: does those of the accelerator, counts the heavy ones of the CPU."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled() and operation._can_decompose():
            with self:  # only in that mode do composed operations, such as linear, come undivided
                return operation.decompose(*args, **kwargs)
        if on_gpu(kwargs.get("device")) or any(isinstance(thing, GpuTensor) for thing in leaves(args, kwargs)):
            return compute(operation, args, kwargs)
        if is_heavy(operation, args):
            heavy_on_cpu[name_of(operation), caller()] += 1
        return operation(*args, **kwargs)


def is_heavy(operation, args: tuple) -> bool:
    """Whether an operation belongs on the accelerator, if there is one."""
    sizes = (thing.numel() for thing in args if isinstance(thing, Tensor))
    return name_of(operation) in HEAVY and max(sizes, default=0) > WORKED_EXAMPLE


def caller() -> str:
    """Where in our own code we are, "file.py:line": the innermost line that is not PyTorch's."""
    not_ours = (str(Path(torch.__file__).parent), __file__)
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(not_ours) and frame.f_back is not None:
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


class Backend(backend_registration._DummyBackendModule):
    """What becomes `torch.gpu`."""

    def synchronize(self, device: object = None) -> None:
        """Nothing to wait for: all is computed when it is asked for."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        torch.set_rng_state(state)


def move_parameters_in_place(apply):
    """Wrap Module._apply, so that moving a module keeps its parameters the same objects, as on CUDA.

    An optimizer that was made before still holds them, and tied weights stay tied. PyTorch has a switch for it, which
    is turned only while modules move, because load_state_dict would heed it too.
    """
    switch = torch.__future__.set_swap_module_params_on_conversion

    @functools.wraps(apply)
    def wrapped(self, function, recurse=True):
        before = torch.__future__.get_swap_module_params_on_conversion()  # True when a module moves its children
        switch(True)
        try:
            return apply(self, function, recurse)
        finally:
            switch(before)

    return wrapped


@functools.cache
def install() -> None:
    """Add the device "gpu" to PyTorch, for the rest of this process; a second call does nothing."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, Backend())
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor([1.0], device="gpu") is made on the CPU and moved
    for name, function in RECURRENT.items():
        LIBRARY.impl(name, function, "AutogradPrivateUse1")  # above autograd, which then sees its parts
    nn.Module._apply = move_parameters_in_place(nn.Module._apply)
    Accelerator().__enter__()
