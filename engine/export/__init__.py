"""Trained models as files for other runtimes: ONNX, OpenVINO, torch.export."""
