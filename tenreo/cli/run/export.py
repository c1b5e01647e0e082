"""Body of `tenreo export`."""

import torch

from tenreo.cli.commands.export import Exported
from tenreo.cli.run.models import open_file, open_inputs
from tenreo.cli.shared_options import ModelFile, ModelInputs, shape_of
from tenreo.cli.terminal.console import note, show, show_json
from tenreo.exporting.export import Export, example_inputs, export
from tenreo.files.atomic import make_folder
from tenreo.hub.folders import write_config
from tenreo.models.dense_weights import rename_weights


def export_file(file: ModelFile, exported: Exported, given: ModelInputs) -> None:
    """Export a model, run the exported program, and print the size of the output and how exact its outputs are."""
    model, header = open_file(file)
    inputs, own = None, open_inputs(given)
    if own is not None:
        inputs = own.first(model, 2)  # a dimension of size 1 would be exported as a constant
    elif exported.to.suffix in (".onnx", ".pt2"):
        shape = None if exported.input is None else shape_of(exported.input)
        inputs = example_inputs(model, shape or header.info.preprocess.crop)
    with torch.no_grad():
        if exported.folder is not None:
            make_folder(exported.folder)
        info = rename_weights(header.info, header.path.parent, exported.path.parent)
        done = export(
            model, exported.path, dtype=exported.dtype, inputs=inputs, info=info, small=exported.small,
            announce=lambda size: note(f"{exported.path} will have {size:,} bytes"),
        )  # fmt: skip
    if exported.folder is not None:
        write_config(exported.folder, header.info)
    if exported.json:
        options = {"file": str(file.file), "dtype": str(exported.dtype), "small": exported.small}
        show_json("export", {**done.to_dict(), **options})
        return
    show(f"wrote {done.path}: {_cost(done, file.file.stat().st_size, exported.small)}, {exported.dtype}")
    if done.dense:
        show(f"dense, since a runtime could not decode them: {', '.join(done.dense)}")
    if done.dynamic is not None:
        sizes = "of any size" if done.dynamic else "only of 2, the size that the program was traced with"
        difference = "not run on this machine" if done.difference is None else f"{done.difference:.2g}"
        show(f"batches: {sizes}", f"largest difference of an output from the compressed model: {difference}")


def _cost(done: Export, compressed: int, small: bool) -> str:
    """Return the size of an exported file, and how it compares with the compressed file in bytes."""
    text = f"{done.bytes:,} bytes, {'decoded when it is loaded' if small else 'dense'}"
    text += f", {done.bytes / compressed:.1f} times the compressed file"
    return text + "; --small keeps it near that size" if done.path.suffix == ".onnx" and not small else text
