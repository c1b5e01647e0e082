"""A pretended GPU: tensors that say that they are on it, are computed on the CPU, and obey its rules.

    with pretended("cuda") as gpu:
        model.to(gpu.device)

In Python, such a tensor has the device cuda:0 or mps:0; in torch's C++ code it is a wrapper of a CPU tensor. So no
compiled code is needed, and the rules are enforced where operators are dispatched, with the devices' classes of errors:

- an operator takes tensors of one device. Exceptions are copies, numbers (CPU tensors of no dimensions) in pointwise
  operators, and CPU indices of a tensor on the GPU.
- `numpy()` needs a copy on the CPU first.
- An operator needs a kernel for the device (for CUDA, known to a build of torch with CUDA only).
- MPS has no float64.

`gpu.operations` counts the kernels that a GPU would launch, and `gpu.waits` the places where the CPU waits for it.

What it cannot see: compiled graphs (`torch.compile`, CUDA graphs), NCCL, memory and its limits, streams and anything
else that runs asynchronously, the rounding of a GPU's kernels and the types and sizes that they accept, pinned memory,
the classes of `as_subclass`, and the device in files of `torch.save`. An operator that is asked for a result on the CPU
(`torch.zeros_like(x, device="cpu")`) gives it on the GPU; only `to` and `cpu` move tensors. Operators that torch
composes in C++ of new tensors on their operand's device, such as `one_hot`, fail here but not on a GPU.
"""

import re
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

from tenreo.modules import weights

aten = torch.ops.aten
_COPIES = {aten._to_copy.default, aten.copy_.default, aten.copy.default}
_INDEXING = {
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}  # fmt: skip
# Operators after which the CPU waits: their result, or its size, is needed on the CPU.
_WAITS = {
    "_local_scalar_dense", "nonzero", "bincount", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim",
    "unique_consecutive", "repeat_interleave",
}  # fmt: skip
_NO_KERNEL = {
    "detach", "alias", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "lift_fresh",
    "_unsafe_view", "_local_scalar_dense", "is_same_size", "_has_compatible_shallow_copy_type",
}  # fmt: skip
_RESHAPES_IN_PLACE = {"resize_", "set_", "t_", "transpose_", "unsqueeze_", "squeeze_", "as_strided_", "swapaxes_"}
_to = Tensor.to


class PretendedTensor(Tensor):
    """A tensor whose values are those of `values`, a CPU tensor, and that says that it is on a GPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values, gpu):
        wide = values.dtype in (torch.float64, torch.complex128)
        if gpu.device.type == "mps" and wide:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        with torch.inference_mode(values.is_inference()):  # a view of a tensor that can be trained can be trained
            made = Tensor._make_wrapper_subclass(
                cls, values.shape, strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype
            )
        made.values_on_cpu, made.gpu = values, gpu
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        gpu = next(each.gpu for each in tree_leaves((args, kwargs)) if isinstance(each, cls))
        return gpu.run(function, args, kwargs or {})

    # torch would use the type of the wrapped tensor for these.
    device = property(lambda self: self.gpu.device)
    is_cuda = property(lambda self: self.gpu.device.type == "cuda")
    is_mps = property(lambda self: self.gpu.device.type == "mps")
    is_cpu = property(lambda self: False)

    def __tensor_flatten__(self):
        return ["values_on_cpu"], self.gpu

    @staticmethod
    def __tensor_unflatten__(inner, gpu, size, stride):
        return PretendedTensor(inner["values_on_cpu"], gpu)

    def cpu(self):
        return self.to("cpu")

    def numpy(self, *, force=False):
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first")

    def __array__(self, dtype=None):
        return self.numpy()

    def tolist(self):
        self.gpu.waits["tolist"] += 1
        return self.values_on_cpu.tolist()

    def new_tensor(self, data, *, dtype=None, device=None):
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or self.device)

    def as_subclass(self, cls):
        return self

    def __repr__(self, **_):
        return f"PretendedTensor({self.values_on_cpu}, {self.device})"

    def __format__(self, spec):
        return format(self.item(), spec) if self.dim() == 0 else repr(self)

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            new = PretendedTensor(self.values_on_cpu.detach().clone(), self.gpu).requires_grad_(self.requires_grad)
            new.__dict__.update({k: v for k, v in self.__dict__.items() if k not in new.__dict__})
            memo[id(self)] = new
        return memo[id(self)]

    def __reduce_ex__(self, protocol):
        values = self.values_on_cpu.detach()
        return (torch.nn.Parameter(values) if getattr(self, "_is_param", False) else values).__reduce_ex__(protocol)


class Gpu:
    """A pretended GPU.

    Attributes:
        device: cuda:0 or mps:0.
        operations: number of kernels launched, by name.
        waits: number of times that the CPU had to wait for the GPU, by reason.
    """

    def __init__(self, kind):
        self.device = torch.device(kind, 0)
        self.operations, self.waits = Counter(), Counter()
        self.kernels = {}

    def run(self, function, args, kwargs):
        """Run an operator on pretended tensors, or on the CPU if none is meant."""
        leaves = tree_leaves((args, kwargs))
        devices = [kwargs["device"]] if kwargs.get("device") is not None else _devices(leaves)
        wanted = any(torch.device(device).type == self.device.type for device in devices)
        ours = [each for each in leaves if isinstance(each, PretendedTensor)]
        if not ours and not wanted:
            return function(*args, **kwargs)
        if function.namespace != "aten" and function._schema.name in OPDEFS:  # runs the Python code of the operator
            with torch._C._AutoDispatchBelowAutograd(), _Mode(self):
                return OPDEFS[function._schema.name]._init_fn(*args, **kwargs)
        if _is_composite(function):  # in inference mode, such operators arrive before torch has divided them
            with _Mode(self):
                return function.decompose(*args, **kwargs)
        self._check(function, args, ours, [each for each in leaves if _is_plain(each)])
        self._count(function, args, kwargs)
        if "device" in kwargs:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        if kwargs.get("pin_memory"):
            kwargs = {**kwargs, "pin_memory": False}
        own_args, own_kwargs = tree_map_only(PretendedTensor, lambda each: each.values_on_cpu, (args, kwargs))
        result = function(*own_args, **own_kwargs)
        if function is aten.copy_.default and _is_plain(args[0]):
            return args[0]
        wrapped = tree_map_only(Tensor, lambda each: PretendedTensor(each, self), result)
        return return_and_correct_aliasing(function, args, kwargs, wrapped)

    def _check(self, function, args, ours, others):
        """Raise what the device would."""
        name = function._schema.name.removeprefix("aten::")
        if name in _RESHAPES_IN_PLACE:
            raise NotImplementedError(f"the pretended device cannot {name}")
        if function in _COPIES:
            return
        indexed = function in _INDEXING and isinstance(args[0], PretendedTensor)
        if indexed:
            others = [each for each in others if len(args) > 2 and each is args[2]]
        pointwise = torch.Tag.pointwise in function.tags or name.startswith(("_foreach", "fill_", "masked_fill"))
        if ours and any(each.dim() or not (pointwise or indexed) for each in others):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{self.device} and cpu! ({function})"
            )
        if not self._has_kernel(function):
            raise NotImplementedError(
                f"Could not run '{function}' with arguments from the '{self.device.type}' backend"
            )

    def _has_kernel(self, function):
        if function not in self.kernels:
            name = function.name()
            if self.device.type == "mps":
                self.kernels[function] = name.removeprefix("aten::") in _mps_operators()
            else:
                built = torch.version.cuda is not None
                self.kernels[function] = not built or torch._C._dispatch_has_computed_kernel_for_dispatch_key(
                    name, "CUDA"
                )
        return self.kernels[function]

    def _count(self, function, args, kwargs):
        name = function._schema.name.removeprefix("aten::")
        view = any(a.alias_info and not a.alias_info.is_write for a in function._schema.arguments)
        if not view and name not in _NO_KERNEL:
            self.operations[name] += 1
        masks = name.startswith(("index", "_index")) and any(
            isinstance(each, Tensor) and each.dtype == torch.bool for each in tree_leaves(args[1:2])
        )
        if name in _WAITS or masks:
            self.waits[name] += 1
        if function is aten.copy_.default and len({isinstance(each, PretendedTensor) for each in args[:2]}) == 2:
            self.copied(kwargs.get("non_blocking", args[2] if len(args) > 2 else False))

    def copied(self, non_blocking):
        """Count a copy between the CPU and the GPU."""
        self.operations["copy"] += 1
        self.waits["copy"] += not non_blocking


class _Moved(torch.autograd.Function):
    """A copy from the CPU to the GPU, or from the GPU to the CPU if `gpu` is None."""

    @staticmethod
    def forward(ctx, x, gpu):
        ctx.back = x.gpu if gpu is None else None
        return x.values_on_cpu.clone() if gpu is None else PretendedTensor(x.detach().clone(), gpu)

    @staticmethod
    def backward(ctx, gradient):
        return _Moved.apply(gradient, ctx.back), None


class _Mode(TorchDispatchMode):
    """Sees the operators whose result is to be on the GPU although no operand is."""

    def __init__(self, gpu):
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return self.gpu.run(function, args, kwargs or {})


def _devices(leaves):
    return [each for each in leaves if isinstance(each, torch.device)]


def _is_plain(each):
    return isinstance(each, Tensor) and not isinstance(each, PretendedTensor)


def _is_composite(function):
    return torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd")


def _mps_operators():
    """Return the operators with a kernel for MPS, from torch's own list of its operators."""
    if not _MPS:
        source = Path(torch.__file__).parents[1] / "torchgen/packaged/ATen/native/native_functions.yaml"
        for entry in re.split(r"\n(?=- func: )", source.read_text()):
            name = re.match(r"\s*- func: ([\w.]+)\(", entry)
            everywhere = "dispatch:" not in entry or "Composite" in entry or "structured_delegate" in entry
            if name and (everywhere or "MPS" in entry.split("dispatch:")[1]):
                _MPS.add(name[1])
    return _MPS


_MPS: set[str] = set()


def _mover(gpu):
    """Return `Tensor.to`, which in C++ would not see the device of a pretended tensor."""

    def to(self, *args, copy=False, **kwargs):
        if args and isinstance(args[0], Tensor):
            args, kwargs = (), {**kwargs, "device": args[0].device, "dtype": args[0].dtype}
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        ours = isinstance(self, PretendedTensor)
        options = {} if memory_format is None else {"memory_format": memory_format}
        if device is not None and (device.type == gpu.device.type) != ours:
            gpu.copied(non_blocking)
            self = self if ours or dtype is None else _to(self, dtype=dtype)  # the CPU has all types
            self, copy, ours = _Moved.apply(self, None if ours else gpu), False, not ours
        if device is not None and not ours:
            options["device"] = device
        return _to(self, dtype=dtype or self.dtype, copy=copy, **options)

    return to


def _run_thread(gpu):
    run = threading.Thread.run

    def run_with_gpu(self):
        with _Mode(gpu):
            run(self)

    return run_with_gpu


def _patches(gpu):
    """Yield (owner, name, value): what torch would answer if the GPU were there."""
    autocast, tensor, kind = torch.autocast, torch.tensor, gpu.device.type

    def on_cpu(device_type, dtype=None, **kwargs):
        return autocast("cpu" if device_type == kind else device_type, dtype, **kwargs)

    def new_tensor(data, *, dtype=None, device=None, **kwargs):  # which in C++ would ask the driver of the device
        made = tensor(data, dtype=dtype, **kwargs) if device is None else tensor(data, dtype=dtype, device="cpu")
        return made if device is None else made.to(device)

    yield weights, "type", lambda x: Tensor if isinstance(x, PretendedTensor) else type(x)
    yield Tensor, "to", _mover(gpu)
    yield Tensor, "pin_memory", lambda self, device=None: self.clone()
    yield torch, "tensor", new_tensor
    yield Tensor, kind, lambda self, **kwargs: self.to(kind, **kwargs)
    yield torch, "autocast", on_cpu
    yield threading.Thread, "run", _run_thread(gpu)
    if kind == "mps":
        yield torch.backends.mps, "is_available", lambda: True
        return
    yield torch.accelerator, "current_stream", lambda *_: SimpleNamespace(is_capturing=lambda: False)
    for name, answer in {
        "is_available": True, "device_count": 1, "current_device": 0, "is_bf16_supported": True, "_lazy_init": None,
        "max_memory_allocated": 1 << 20, "get_device_capability": (9, 0), "synchronize": None, "manual_seed_all": None,
        "reset_peak_memory_stats": None, "set_device": None, "empty_cache": None,
    }.items():  # fmt: skip
        yield torch.cuda, name, lambda *_, answer=answer, **__: answer


@contextmanager
def pretended(kind):
    """Pretend, inside the context and in threads that start in it, that this machine has a GPU.

    Args:
        kind: "cuda" or "mps".

    Yields:
        The `Gpu`.
    """
    gpu = Gpu(kind)
    swap = torch.__future__.get_swap_module_params_on_conversion()
    with ExitStack() as stack:
        for owner, name, value in _patches(gpu):
            stack.enter_context(patch.object(owner, name, value, create=True))
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swap)
        stack.enter_context(_Mode(gpu))
        yield gpu
