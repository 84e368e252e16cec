"""OpenVINO files, NAME.xml and NAME.bin, run by OpenVINO."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from engine.errors import UserError
from engine.export.facts import KEY, ExportFacts
from engine.export.onnx_file import onnx_model

# What OpenVINO computes in where it has a choice; processors without it compute in float32.
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}


def openvino_model(program: ExportedProgram, inputs: Mapping[str, Sequence[int | str]], outputs: Sequence[str]):
    """The program as an ``openvino.Model``, by way of ONNX: OpenVINO's reader of that takes graphs of whole detectors.

    Args:
        inputs, outputs: as in ``ExportFacts``.

    Raises:
        UserError: an operation that one of the two has not.
    """
    import onnx
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        between = Path(folder) / "model.onnx"
        onnx.save(onnx_model(program, inputs, outputs), between)
        try:
            return openvino.Core().read_model(between)
        except Exception as error:
            raise UserError(f"OpenVINO cannot read the model: {str(error).strip().splitlines()[-1]}") from error


def write(program: ExportedProgram, path: Path, facts: ExportFacts, quantise=None) -> None:
    import openvino

    model = openvino_model(program, facts.inputs, facts.outputs)
    if quantise is not None:
        from openvino.passes import ConstantFolding, Manager

        folding = Manager()
        folding.register_pass(ConstantFolding())  # nncf wants weights as plain constants
        folding.run_passes(model)
        model = quantise(model)
    model.set_rt_info(facts.to_text(), [KEY])
    openvino.save_model(model, path, compress_to_fp16=facts.precision == "fp16")


class Session:
    """An OpenVINO file, ready to run.

    Attributes:
        facts: what it says of itself. device: where it runs.
    """

    def __init__(self, path: Path, device: torch.device):
        import openvino

        if device.type != "cpu":
            raise UserError(f"an OpenVINO file runs on processors here, not on {device}: --device cpu")
        try:
            core = openvino.Core()
            model = core.read_model(path)
            text = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
            self.facts, self.device = ExportFacts.from_text(text, path), device
            hint = HINTS.get(self.facts.precision, "f32")
            self._model = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"OpenVINO cannot run {path}: {reason}. Its .bin must lie beside it") from error

    def __call__(self, **inputs: Tensor) -> list[Tensor]:
        found = self._model({name: tensor.cpu().contiguous().numpy() for name, tensor in inputs.items()})
        return [torch.from_numpy(found[index]) for index in range(len(self.facts.outputs))]
