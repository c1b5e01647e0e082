"""Names and metadata of an ONNX model: what its inputs, outputs and batch are called, and what the file is."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

IMAGES, LOGITS, BATCH = "images", "logits", "batch"
_FLOATS = (1, 10, 16)  # ONNX's numbers of float32, float16 and bfloat16


def all_nodes(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph and of the graphs inside of them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from all_nodes(inner)


def output_names(outputs: Any) -> list[str]:
    """Return a name for every tensor that a model returns: its key in a dictionary, or "logits" for one matrix."""
    if isinstance(outputs, Mapping) and all(isinstance(each, Tensor) for each in outputs.values()):
        return [str(key) for key in outputs]
    leaves = tree_leaves(outputs)
    if len(leaves) == 1:
        return [LOGITS if isinstance(leaves[0], Tensor) and leaves[0].dim() == 2 else "output"]
    return [f"output_{i}" for i in range(len(leaves))]


def rename_(model: Any, outputs: Sequence[str], dynamic: bool) -> None:
    """Name the inputs, outputs and the batch of an ONNX model in place.

    A single batch of images is called "images"; other inputs keep the names that the model's `forward` gives them. A
    name that another value of the graph has is not used.
    """
    graph = model.graph
    names = {}
    shape = graph.input[0].type.tensor_type.shape.dim if len(graph.input) == 1 else ()
    if len(shape) == 4 and graph.input[0].type.tensor_type.elem_type in _FLOATS:
        names[graph.input[0].name] = IMAGES
    if len(outputs) == len(graph.output):
        names |= {each.name: name for each, name in zip(graph.output, outputs, strict=True)}
    used = {name for node in all_nodes(graph) for name in (*node.input, *node.output)}
    used |= {each.name for each in (*graph.input, *graph.initializer)}
    names = {old: new for old, new in names.items() if new not in used}
    for node in all_nodes(graph):
        for field in (node.input, node.output):
            field[:] = [names.get(name, name) for name in field]
    for each in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        each.name = names.get(each.name, each.name)
    if dynamic:
        _name_batch_(graph)


def _name_batch_(graph: Any) -> None:
    dims = [each.type.tensor_type.shape.dim for each in (*graph.input, *graph.output, *graph.value_info)]
    symbols = {shape[0].dim_param for shape in dims[: len(graph.input)] if len(shape)} - {""}
    for shape in dims:
        for dim in shape:
            if dim.dim_param in symbols:
                dim.dim_param = BATCH


def describe_(model: Any, entries: Mapping[str, str]) -> None:
    """Add metadata to an ONNX model in place; existing entries of the same keys are replaced."""
    values = {each.key: each.value for each in model.metadata_props} | dict(entries)
    del model.metadata_props[:]
    for key, value in values.items():
        model.metadata_props.add(key=key, value=value)
