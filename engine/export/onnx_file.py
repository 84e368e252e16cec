"""ONNX files, run by ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from engine.errors import UserError
from engine.export.facts import KEY, ExportFacts

OPSET = 20


def onnx_model(program: ExportedProgram, inputs: Mapping[str, Sequence[int | str]], outputs: Sequence[str]):
    """The program as an ``onnx.ModelProto``.

    Args:
        inputs, outputs: as in ``ExportFacts``.

    Raises:
        UserError: an operation that ONNX has not.
    """
    with _quietly():
        try:
            made = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(outputs),
                verbose=False,
            )
        except Exception as error:
            found = re.search(r"(?:No ONNX function found for|for node) .*?(\S*(?:aten|torchvision)\S*)", str(error))
            what = f"the operation {found[1]}" if found else f"{type(error).__name__}: {str(error).strip()[:300]}"
            raise UserError(f"the model cannot be written in ONNX ({what}); try --format torch-export") from error
    model = made.model_proto
    _name_sizes(model, inputs)
    return model


def write(program: ExportedProgram, path: Path, facts: ExportFacts, quantise=None) -> None:
    import onnx

    model = onnx_model(program, facts.inputs, facts.outputs)
    if quantise is not None:
        model = quantise(model)
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, facts.to_text()
    onnx.save(model, path)


class Session:
    """An ONNX file, ready to run.

    Attributes:
        facts: what it says of itself. device: where it runs.
    """

    def __init__(self, path: Path, device: torch.device):
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        wanted = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
        if wanted not in ort.get_available_providers():
            raise UserError(
                f"ONNX Runtime has no {wanted} here: pip install onnxruntime-gpu in place of onnxruntime, or take "
                "--device cpu"
            )
        try:
            self._session = ort.InferenceSession(path, options, providers=[wanted])
        except Exception as error:  # its own kinds of errors have no common ancestor
            raise UserError(f"ONNX Runtime cannot run {path}: {_in_short(error)}") from error
        text = self._session.get_modelmeta().custom_metadata_map.get(KEY)
        self.facts, self.device = ExportFacts.from_text(text, path), device

    def __call__(self, **inputs: Tensor) -> list[Tensor]:
        feed = {name: tensor.cpu().contiguous().numpy() for name, tensor in inputs.items()}
        return [torch.from_numpy(array) for array in self._session.run(None, feed)]


def _name_sizes(model, inputs: Mapping[str, Sequence[int | str]]) -> None:
    """Sizes that can vary get names of ours, in place of those of the capture."""
    names = {}
    for value in model.graph.input:
        for dimension, called in zip(value.type.tensor_type.shape.dim, inputs[value.name], strict=True):
            if isinstance(called, str):
                names |= dict.fromkeys(re.findall(r"[su]\d+", dimension.dim_param), called)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            text = dimension.dim_param
            if text:
                dimension.dim_param = re.sub(r"[su]\d+", lambda found: names.get(found[0], found[0]), text)


def _in_short(error: Exception) -> str:
    """ONNX Runtime's message, with the operation that it has no code for."""
    text = str(error)
    found = re.search(r"implementation for (\S+)", text)
    if found:
        return f"it has no code for {found[1]} in this precision on this device; use fp32, or --format openvino"
    return text.strip().splitlines()[0]


@contextlib.contextmanager
def _quietly():
    """The exporter tells of each of its steps."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
