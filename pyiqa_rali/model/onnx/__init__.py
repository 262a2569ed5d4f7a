"""RALI as a network in ONNX, scored by onnxruntime."""
