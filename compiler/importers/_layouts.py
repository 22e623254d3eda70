"""Which files of a path are the weights: the layouts that training tools write, each recognized by names that it documents."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ._adapters import Adapted, has_adapters
from ._compressed import Unpacked, compression
from ._contents import Contents, MergedFiles, StoredTensor, leaves
from ._deepspeed import DeepSpeedCheckpoint
from ._files import open_regular, plain_name, read_json
from ._megatron import Megatron, megatron_ranks
from ._quantized import Dequantized, is_quantized
from ._ranks import Ranks, has_parts, numbered
from ._safe_pickle import RefusedPickleError
from ._safetensors import SafetensorsFile, SafetensorsShards
from ._saved import SavedFile
from .dcp import DistributedCheckpoint

__all__ = ["open_contents"]

_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".model", ".gz", ".bz2", ".xz", ".zst")
# One file of weights, under the names that tools give it; the first that is there is taken.
_WHOLE = (
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model_fsdp.bin",
    "consolidated.safetensors",
)
# Folders in which tools keep the model beside an optimizer's folder: accelerate with FSDP and with DeepSpeed, and by hand.
_INNER = ("pytorch_model_fsdp_0", "pytorch_model", "model", "weights", "checkpoint", "checkpoints")
# Files beside the weights that hold something else.
_BESIDE = re.compile(
    r"(optim|optimizer|scheduler|lr_scheduler|rng|rng_state|random_states|scaler|sampler|dl_state|training_args|trainer_state|"
    r"train_state|recipe_state|meta|args|dataloader|loss_scaler|custom_checkpoint|tokenizer|spiece|sentencepiece|vocab)([._-].*)?$"
)
_ADAPTER = "adapter_config.json"
_METADATA = ".metadata"
_MOST_FOLDERS = 100  # that are looked into
_MOST_LOOKED_AT = 1000  # files of each
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.[a-z]+)$")
_CHUNKED = re.compile(r"shard-\d+-model-\d+-of-\d+\.safetensors$")
_OTHERS = {
    "saved_model.pb": "a TensorFlow model: export it to ONNX with tf2onnx",
    "tf_model.h5": "TensorFlow's weights: load them in transformers with from_tf=True, and save_pretrained() again",
    "flax_model.msgpack": "Flax's weights: load them in transformers with from_flax=True, and save_pretrained() again",
    "_CHECKPOINT_METADATA": "a checkpoint of JAX (Orbax): restore it there, and save its arrays under the model's names with torch.save",
    "manifest.ocdbt": "a checkpoint of JAX (Orbax): restore it there, and save its arrays under the model's names with torch.save",
    "snapshots": "the cache of Hugging Face: give the folder of one revision in its folder snapshots",
}


def open_contents(path: Path | Sequence[Path], *, floats: bool = True) -> Contents:
    """A file, a directory, or several files of one checkpoint; with `floats`, quantized weights as what they stand for.

    Raises RefusedPickleError: a clause that says what it is instead.
    """
    contents = _contents(path)
    return _floats(contents, path if isinstance(path, Path) else path[0]) if floats else contents


def _contents(path: Path | Sequence[Path]) -> Contents:
    if not isinstance(path, Path):
        return _several(" and ".join(part.name for part in path), path)
    if path.is_dir():
        return _directory(path)
    if path.name == _METADATA:
        return _directory(path.absolute().parent)
    if path.suffix == ".distcp":
        raise RefusedPickleError("it is one file of a checkpoint of torch.distributed.checkpoint: give its folder")
    return _indexed(path) if path.name.endswith(".json") else _file(path)


def _floats(contents: Contents, path: Path) -> Contents:
    """With quantized weights as floats: how they were quantized is in a file of their folder."""
    if not is_quantized(contents):
        return contents
    folder = path if path.is_dir() else path.parent
    config: Any = {}
    if (folder / "quantize_config.json").exists():
        config = read_json(folder / "quantize_config.json")
    elif (folder / "config.json").exists():
        config = read_json(folder / "config.json")
        config = config.get("quantization_config") if isinstance(config, Mapping) else None
    return Dequantized(contents, config)


def _several(name: str, paths: Sequence[Path]) -> Contents:
    """Parts of one checkpoint: of its names, or of its tensors, by rank; or weights, and an adapter that changes them."""
    adapters = [path for path in paths if _is_adapter(path)]
    if adapters:
        return _adapted(name, adapters, [path for path in paths if path not in adapters])
    parts = {path: _directory(path) if path.is_dir() else _opened(path) for path in paths}
    if any(has_parts(part) for part in parts.values()):
        return Ranks(name, list(parts.values()))
    ordered = numbered(paths)
    if ordered is not None and _have_the_same_names(list(parts.values())):
        return Ranks(name, [parts[path] for path in ordered])
    merged = MergedFiles(name)
    for part in parts.values():
        merged.add(part)
    return merged


def _is_adapter(path: Path) -> bool:
    """Whether this is a folder of PEFT, or the configuration of one."""
    return path.name == _ADAPTER or (path / _ADAPTER).exists()


def _adapted(name: str, adapters: Sequence[Path], others: Sequence[Path]) -> Contents:
    if len(adapters) > 1:
        raise RefusedPickleError("it is several adapters of PEFT: merge them with PEFT, or give one")
    folder = adapters[0] if adapters[0].is_dir() else adapters[0].parent
    config = read_json(folder / _ADAPTER)
    base = open_contents(list(others) if len(others) > 1 else others[0]) if others else None
    if base is not None and has_adapters(base):
        return Adapted(name, base, config, None)
    weights = next(
        (folder / n for n in ("adapter_model.safetensors", "adapter_model.bin") if (folder / n).exists()), None
    )
    if weights is None:
        raise RefusedPickleError(f"{folder.name} has no adapter_model.safetensors beside its adapter_config.json")
    return Adapted(name, _opened(weights), config, base)


def _have_the_same_names(parts: Sequence[Contents]) -> bool:
    seen: set[Any] = set()
    for part in parts:
        here = {location for location, leaf in leaves(part.tree) if isinstance(leaf, StoredTensor)}
        if here & seen:
            return True
        seen |= here
    return False


def _file(path: Path) -> Contents:
    """One file, which may be all that there is of its tensors, or one rank's part."""
    contents = _opened(path)
    return Ranks(path.name, [contents]) if has_parts(contents) else contents


def _opened(path: Path) -> Contents:
    """By its first bytes, since some tools name safetensors .bin."""
    with open_regular(path) as stream:
        start = stream.read(9)
    packed = compression(start)
    if packed is not None:
        return Unpacked(path, packed, _unpacked)
    return _unpacked(path)


def _unpacked(path: Path) -> Contents:
    with open_regular(path) as stream:
        start = stream.read(9)
    if path.suffix.lower() == ".safetensors" or (len(start) == 9 and start[8:] == b"{" and start[4:8] == b"\0" * 4):
        return SafetensorsFile(path)
    return SavedFile(path)


def _directory(folder: Path) -> Contents:
    names = sorted(file.name for file in folder.iterdir())
    if _ADAPTER in names and not any(name.startswith("adapter_model.") for name in names):
        found = _hugging_face(folder, names) or _single(folder, names)
        if found is not None and has_adapters(found):  # a wrapped model's own state dict
            return Adapted(folder.name, found, read_json(folder / _ADAPTER), None)
    for layout in (_distributed, _hugging_face, _deepspeed, _megatron, _inner, _single):
        found = layout(folder, names)
        if found is not None:
            return found
    raise RefusedPickleError(_unknown(folder, names))


def _unknown(folder: Path, names: Sequence[str]) -> str:
    other = next((what for name, what in _OTHERS.items() if name in names), None)
    if other is not None:
        return f"it holds {other}"
    if any(".data-00000-of-" in name for name in names):
        return "it holds a checkpoint of TensorFlow: export the model to ONNX with tf2onnx"
    if not names:
        return "it is an empty folder, with no weights"
    if _ADAPTER in names:
        return (
            f"it holds adapters of PEFT without the model that they change: give both, as maas-rt compile BASE {folder.name}, or load both "
            "with PEFT, and save merge_and_unload().state_dict()"
        )
    if any(name.endswith(".distcp") for name in names):
        return "it has no file .metadata, so torch.distributed.checkpoint did not write or finish it"
    runs = [name for name in names if re.fullmatch(r"(checkpoint|step|epoch|iter|global_step|version)[-_=]?\d.*", name)]
    if runs:
        return f"it holds checkpoints, not one: give one of them, as {folder / max(runs, key=_number)}"
    inner = [name for name in names[:_MOST_FOLDERS] if _looks_like_one(folder / name)]
    if inner:
        return f"it holds folders with weights ({', '.join(inner[:8])}): give one of them, as {folder / inner[0]}"
    weights = [name for name in names if name.endswith(_SUFFIXES) and not _BESIDE.match(name)]
    if weights:
        return f"it holds several files of weights ({', '.join(weights[:8])}): give the one to compile, or all that belong together"
    return (
        "it has no file .metadata, so torch.distributed.checkpoint did not write or finish it, and no weights under a name that is "
        "known (model.safetensors, an index.json, pytorch_model.bin, mp_rank_00_model_states.pt, one .pt or .ckpt): give the file itself"
    )


def _looks_like_one(folder: Path) -> bool:
    """Whether this is a folder with files of weights under names that tools give them."""
    names = [file.name for file in itertools.islice(folder.iterdir(), _MOST_LOOKED_AT)] if folder.is_dir() else []
    return any(name in (_METADATA, *_WHOLE) or name.endswith(".index.json") for name in names)


def _number(name: str) -> tuple[int, str]:
    return int(re.search(r"\d+", name).group()), name  # type: ignore[union-attr]


def _distributed(folder: Path, names: Sequence[str]) -> Contents | None:
    return DistributedCheckpoint(folder) if _METADATA in names else None


def _hugging_face(folder: Path, names: Sequence[str]) -> Contents | None:
    """save_pretrained and accelerate's save_state: one file, or parts with an index; HuggingFaceStorageWriter's chunks."""
    indices = [
        name for name in names if name.endswith((".safetensors.index.json", ".bin.index.json", ".pt.index.json"))
    ]
    whole = next((name for name in _WHOLE if name in names), None)
    if whole is not None and not any(name.startswith(Path(whole).stem + ".") for name in indices):
        return _file(folder / whole)
    if indices:
        return _indexed(folder / next((n for n in indices if ".safetensors" in n), indices[0]))
    if whole is not None:
        return _file(folder / whole)
    chunked = [name for name in names if _CHUNKED.match(name)]
    if chunked:
        return SafetensorsShards(folder, [SafetensorsFile(folder / name) for name in chunked])
    if "sharded" in names and (folder / "sharded").is_dir():
        return _hugging_face(folder / "sharded", sorted(file.name for file in (folder / "sharded").iterdir()))
    return _parts(folder, names)


def _parts(folder: Path, names: Sequence[str]) -> Contents | None:
    """name-00001-of-00003.safetensors and its like without an index: all of them, or none."""
    parts = [match for match in map(_PART.match, names) if match]
    kinds = {(match[1], match[3], match[4]) for match in parts}
    if len(kinds) != 1:
        return None
    (_, count, _) = kinds.pop()
    if len(parts) != int(count):
        raise RefusedPickleError(f"it has {len(parts)} of the {int(count)} parts of a checkpoint: fetch the others too")
    merged = MergedFiles(folder.name)
    for match in parts:
        merged.add(_file(folder / match[0]))
    return merged


def _indexed(path: Path) -> Contents:
    """An index.json: names, and the file beside it that has each."""
    value = read_json(path)
    places = value.get("weight_map") if isinstance(value, Mapping) else None
    if not isinstance(places, Mapping) or not places:
        raise RefusedPickleError(f"{path.name} has no weight_map, which names the file of each tensor")
    files = {name: _part(path, name) for name in sorted({plain_name(place) for place in places.values()})}
    merged = MergedFiles(path.name)
    for name, file in files.items():
        merged.add(_Selected(file, [key for key, place in places.items() if place == name]))
    return merged


def _part(index: Path, name: str) -> Contents:
    if not (index.parent / name).exists():
        raise RefusedPickleError(f"{index.name} names {name[:80]}, which is not beside it: fetch it too")
    return _file(index.parent / name)


class _Selected:
    """Those tensors of a file that an index places in it."""

    def __init__(self, file: Contents, names: Sequence[str]) -> None:
        missing = next((name for name in names if name not in file.tree), None)
        if missing is not None:
            raise RefusedPickleError(f"{file.name} has no {missing[:80]}, though the index says so")
        self.name = file.name
        self.tree: dict[Any, Any] = {name: file.tree[name] for name in names}
        self.read_by_library = file.read_by_library


def _deepspeed(folder: Path, names: Sequence[str]) -> Contents | None:
    if any(name.endswith("_model_states.pt") for name in names):
        return DeepSpeedCheckpoint(folder)
    if "latest" not in names:
        return None
    return DeepSpeedCheckpoint(folder / _named_folder(folder, "latest"))


def _megatron(folder: Path, names: Sequence[str]) -> Contents | None:
    """Megatron-LM's iter_0001000/mp_rank_00/model_optim_rng.pt; its distributed form is DCP's."""
    if "latest_checkpointed_iteration.txt" in names:
        folder_name = _named_folder(folder, "latest_checkpointed_iteration.txt", exists=False)
        inner = folder / (f"iter_{int(folder_name):07d}" if folder_name.isdigit() else folder_name)
        if not inner.is_dir():
            raise RefusedPickleError(f"latest_checkpointed_iteration.txt names {inner.name}, which is not there")
        return _directory(inner)
    ranks = megatron_ranks(names)
    if len(ranks) > 1:
        return Megatron(folder, ranks, _opened)
    if ranks:
        inner = folder / ranks[0]
        file = next((inner / n for n in ("model_optim_rng.pt", "model_rng.pt") if (inner / n).exists()), None)
        return _file(file) if file is not None else None
    return None


def _named_folder(folder: Path, name: str, exists: bool = True) -> str:
    """The folder that a small text file names."""
    with open_regular(folder / name) as stream:
        folder_name = plain_name(stream.read(4096).decode("utf-8", "replace").strip())
    if exists and not (folder / folder_name).is_dir():
        raise RefusedPickleError(f"its file {name} names {folder_name[:80]}, which is not there: copy that folder too")
    return folder_name


def _inner(folder: Path, names: Sequence[str]) -> Contents | None:
    """A folder for the model beside one for the optimizer."""
    inner = next((folder / name for name in _INNER if name in names and (folder / name).is_dir()), None)
    return _directory(inner) if inner is not None else None


def _single(folder: Path, names: Sequence[str]) -> Contents | None:
    """The only file of weights that is there; several of consolidated.NN.pth are ranks of tensor parallelism."""
    ranks = [name for name in names if re.fullmatch(r"consolidated\.\d\d\.pth", name)]
    if len(ranks) > 1:
        return _several(folder.name, [folder / name for name in ranks])
    if any(name.startswith("adapter_model.") for name in names):
        return None
    found = [n for n in names if n.lower().endswith(_SUFFIXES) and not _BESIDE.match(n) and (folder / n).is_file()]
    local = [n for n in found if re.search(r"(^|[_.-])(rank|tp|mp|shard|part)[_-]?\d+\.", n)]
    if len(local) > 1 and len(local) == len(found):
        return _several(folder.name, [folder / name for name in local])
    return _file(folder / found[0]) if len(found) == 1 else None
