"""What the other servers need to serve a model with ONNX Runtime, as each one's own documentation has it. They run in environments of their own,
where nothing of this repository is installed but these files are seen."""
