"""Classifiers in ONNX: read as numbers and a graph, asked through onnxruntime, differentiated through onnx2torch."""
