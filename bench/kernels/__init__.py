"""The kernels alone, at the shapes of real layers, against the machine's peak and against ONNX Runtime."""
