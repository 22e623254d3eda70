"""Files that are no checkpoint of torch, by how they begin or by what an archive has in it, and what to do with them instead."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["HEAD", "foreign", "foreign_archive"]

HEAD = 512  # bytes from which a file is told
_TAR = slice(257, 262)
_MAGIC = {
    b"\x1f\x8b": "compressed with gzip: decompress it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: decompress it first (zstd -d)",
    b"BZh": "compressed with bzip2: decompress it first",
    b"\xfd7zXZ": "compressed with xz: decompress it first",
    b"7z\xbc\xaf": "an archive of 7-Zip: unpack it, and give what is in it",
    b"Rar!": "an archive of RAR: unpack it, and give what is in it",
    b"\x89HDF": "an HDF5 file, as Keras writes: export the model to ONNX, or load it in torch, and save the module's state_dict() with torch.save",
    b"GGUF": "a GGUF file, whose weights llama.cpp has quantized: give the .safetensors that it was made from",
    b"lmgg": "a GGML file, whose weights llama.cpp has quantized: give the .safetensors that it was made from",
    b"tjgg": "a GGML file, whose weights llama.cpp has quantized: give the .safetensors that it was made from",
    b"\x93NUMPY": "an array of numpy: save the module's state_dict() with torch.save",
    b"\x12\x01\0\0\0\0\0\0": "a file of MXNet: export the model to ONNX",
    b"\x89MRT": "a compiled model.mrt: run it as it is",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file itself with git lfs pull",
    b"<": "a page of HTML or XML, not the file that was to be downloaded",
}
_FLAX = b"\xa6params"
_ARCHIVES = {
    "model.weights.h5": "a model of Keras: export it to ONNX",
    ".npy": "an archive of numpy's arrays: save them as tensors, as torch.save({name: torch.from_numpy(array), ...}, path)",
    "serialized_exported_program.json": "an exported program: compile it itself, as .pt2 without --model",
    "models/model.json": "an exported program: compile it itself, as .pt2 without --model",
}
_WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".pkl")


def foreign(start: bytes) -> str | None:
    """Of a file that begins so: what it is, and what to do; None if that is not known."""
    if start[_TAR] == b"ustar":
        return "an archive of tar: unpack it (tar -xf), and give what is in it"
    if start[:1] == b"\x08" and start[2:3] in (b"\x12", b"\x3a"):
        return "a model of ONNX: compile it itself, without --model"
    if _FLAX in start[:16]:
        return "a file of Flax: load it in transformers with from_flax=True and save_pretrained() again, or save its arrays with torch.save"
    return next((what for magic, what in _MAGIC.items() if start.lstrip().startswith(magic)), None)


def foreign_archive(names: Sequence[str]) -> str | None:
    """The same of a zip archive that has these members."""
    for ending, what in _ARCHIVES.items():
        if any(name.endswith(ending) for name in names):
            return what
    inner = next((name for name in names if name.endswith(_WEIGHTS)), None)
    return f"an archive of zip: unpack it (unzip), and give {inner[-80:]}" if inner is not None else None
