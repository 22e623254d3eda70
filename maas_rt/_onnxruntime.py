"""The names of ONNX Runtime's Python package over this runtime, so that a script changes one import.

    import maas_rt as ort
    session = ort.InferenceSession("model.mrt")
    (y,) = session.run(None, {"x": x})

A model is a model.mrt (a path or its bytes). An .onnx file, or its bytes, is compiled first, in memory, where the compiler is
installed; `maas-rt compile` does that once for all. There is one provider, the CPU. Options that mean nothing here are accepted, and
named once in a warning; tensors of strings are given and returned as numpy arrays of str.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import operator
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import maas_rt._native as _native
from maas_rt._errors import InvalidArgumentError, MissingExtraError, ModelNotFoundError
from maas_rt._model import CancelToken, Model, TensorInfo, load
from maas_rt._onnxruntime_values import OrtValue, array_over, check_device, check_value, type_name
from maas_rt._strings import decode_strings, encode_strings

_PROVIDER = "CPUExecutionProvider"
_ONNX_BEGIN = b"\x08"  # of an .onnx file: its first field, the version of its form

_seed: int | None = None  # what set_seed set
_SEED_STEP = 0x9E3779B97F4A7C15  # from a run's seed to the next one's: far, so that sessions of near seeds share none
_warned: set[str] = set()


def _warn_once(what: str) -> None:
    """Where the script is that called into this module."""
    if what in _warned:
        return
    _warned.add(what)
    level, frame = 1, sys._getframe()
    while frame.f_code.co_filename == __file__ and frame.f_back is not None:
        level, frame = level + 1, frame.f_back
    warnings.warn(f"maas_rt: {what}", UserWarning, stacklevel=level)


class GraphOptimizationLevel(enum.IntEnum):
    """Accepted; a compiled model is as it is."""

    ORT_DISABLE_ALL = 0
    ORT_ENABLE_BASIC = 1
    ORT_ENABLE_EXTENDED = 2
    ORT_ENABLE_LAYOUT = 3
    ORT_ENABLE_ALL = 99


class ExecutionMode(enum.IntEnum):
    """Accepted; steps run one after the other, each on all threads of the session."""

    ORT_SEQUENTIAL = 0
    ORT_PARALLEL = 1


class _Options:
    """Attributes of ONNX Runtime's options with their defaults; one that it does not have is named in a warning."""

    _defaults: Mapping[str, Any] = {}

    def __init__(self) -> None:
        object.__setattr__(self, "_entries", {})
        for name, value in self._defaults.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if not hasattr(self, name):
            _warn_once(f"{type(self).__name__} has no option {name!r}; it is ignored")
        object.__setattr__(self, name, value)


class SessionOptions(_Options):
    """`intra_op_num_threads` is the number of threads of a run (0: all CPUs of the process); the rest means nothing here."""

    _defaults: Mapping[str, Any] = {
        "intra_op_num_threads": 0,
        "inter_op_num_threads": 0,
        "graph_optimization_level": GraphOptimizationLevel.ORT_ENABLE_ALL,
        "execution_mode": ExecutionMode.ORT_SEQUENTIAL,
        "execution_order": 0,
        "enable_cpu_mem_arena": True,
        "enable_mem_pattern": True,
        "enable_mem_reuse": True,
        "enable_profiling": False,
        "log_severity_level": -1,
        "log_verbosity_level": 0,
        "logid": "",
        "optimized_model_filepath": "",
        "profile_file_prefix": "onnxruntime_profile_",
        "use_deterministic_compute": False,
        "use_per_session_threads": True,
    }
    intra_op_num_threads: int
    enable_profiling: bool
    _entries: dict[str, str]

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Kept, and of no effect."""
        self._entries[key] = value

    def get_session_config_entry(self, key: str) -> str:
        """What add_session_config_entry was given."""
        if key not in self._entries:
            raise InvalidArgumentError(f"the session options have no entry {key!r}")
        return self._entries[key]

    def add_free_dimension_override_by_name(self, name: str, extent: int) -> None:
        """Of no effect: dimensions are fixed when a model is compiled."""
        _warn_once(f"the dimension {name!r} is not fixed to {extent}: compile the model with --input-shape for that")

    def add_free_dimension_override_by_denotation(self, denotation: str, extent: int) -> None:
        """Of no effect: dimensions are fixed when a model is compiled."""
        self.add_free_dimension_override_by_name(denotation, extent)

    def add_provider(self, name: str, options: Mapping[str, str] | None = None) -> None:
        """Accepted; what is not the CPU is named in a warning."""
        _check_provider(name)

    def has_providers(self) -> bool:
        """False: none are chosen."""
        return False

    def add_initializer(self, name: str, ortvalue: OrtValue) -> None:
        """Refused: weights are fixed when a model is compiled."""
        raise InvalidArgumentError(f"the weight {name!r} cannot be replaced: a compiled model has its own")

    def add_external_initializers(self, names: Sequence[str], ortvalues: Sequence[OrtValue]) -> None:
        """Refused: weights are fixed when a model is compiled."""
        for name in names:
            self.add_initializer(name, ortvalues[0])

    def register_custom_ops_library(self, path: str) -> None:
        """Refused: a compiled model has all of its operators."""
        raise InvalidArgumentError(f"{path}: libraries of custom operators cannot be used by a compiled model")


class RunOptions(_Options):
    """`terminate = True`, from any thread, ends the runs that were given these options."""

    _defaults: Mapping[str, Any] = {
        "log_severity_level": -1,
        "log_verbosity_level": 0,
        "logid": "",
        "only_execute_path_to_fetches": False,
    }
    _entries: dict[str, str]

    def __init__(self) -> None:
        object.__setattr__(self, "_cancel", CancelToken())
        super().__init__()

    @property
    def terminate(self) -> bool:
        """Whether runs with these options end."""
        return bool(self._token.cancelled)

    @terminate.setter
    def terminate(self, on: bool) -> None:
        self._token.cancel() if on else self._token.clear()

    @property
    def _token(self) -> CancelToken:
        token: CancelToken = vars(self)["_cancel"]
        return token

    def add_run_config_entry(self, key: str, value: str) -> None:
        """Kept, and of no effect."""
        self._entries[key] = value

    def get_run_config_entry(self, key: str) -> str:
        """What add_run_config_entry was given."""
        if key not in self._entries:
            raise InvalidArgumentError(f"the run options have no entry {key!r}")
        return self._entries[key]


@dataclass(frozen=True)
class NodeArg:
    """An input or output as ONNX Runtime describes it: type as "tensor(float)", a shape of numbers and names."""

    name: str
    type: str
    shape: list[int | str]


@dataclass(frozen=True)
class ModelMetadata:
    """What the file says about itself."""

    producer_name: str = "maas_rt"
    graph_name: str = ""
    graph_description: str = ""
    description: str = ""
    domain: str = ""
    version: int = 0
    custom_metadata_map: dict[str, str] = field(default_factory=dict)


class IOBinding:
    """Inputs and outputs by name, for run_with_iobinding; made by a session."""

    def __init__(self, session: InferenceSession) -> None:
        self._session = session
        self._inputs: dict[str, Any] = {}
        self._buffers: dict[str, Any] = {}  # None: an array of the run's
        self._results: list[OrtValue] = []

    def bind_cpu_input(self, name: str, arr_on_cpu: Any) -> None:
        """An array as input."""
        self._inputs[name] = arr_on_cpu

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: Sequence[int], buffer_ptr: int
    ) -> None:
        """Memory as input."""
        check_device(device_type)
        self._inputs[name] = array_over(buffer_ptr, shape, element_type)

    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None:
        """A tensor as input."""
        self._inputs[name] = check_value(name, ortvalue)

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        """Memory that an output is written to, or None for an array of the run's own."""
        check_device(device_type)
        given = buffer_ptr is not None and shape is not None and element_type is not None
        self._buffers[name] = array_over(buffer_ptr, shape, element_type) if given else None  # type: ignore[arg-type]

    def bind_ortvalue_output(self, name: str, ortvalue: OrtValue) -> None:
        """A tensor that an output is written to."""
        self._buffers[name] = check_value(name, ortvalue).numpy()

    def clear_binding_inputs(self) -> None:
        """Forgets the inputs."""
        self._inputs.clear()

    def clear_binding_outputs(self) -> None:
        """Forgets the outputs."""
        self._buffers.clear()
        self._results.clear()

    def synchronize_inputs(self) -> None:
        """Nothing to wait for."""

    def synchronize_outputs(self) -> None:
        """Nothing to wait for."""

    def get_outputs(self) -> list[OrtValue]:
        """Results of the last run, in the order in which outputs were bound."""
        return list(self._results)

    def get_outputs_as_ortvaluevector(self) -> list[OrtValue]:
        """The same."""
        return self.get_outputs()

    def copy_outputs_to_cpu(self) -> list[Any]:
        """The same as arrays."""
        return [value.numpy() for value in self._results]

    def _run(self, options: RunOptions | None) -> None:
        names = list(self._buffers) or [info.name for info in self._session.get_outputs()]
        buffers = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        results = self._session._run(names, self._inputs, options, buffers)
        self._results = [OrtValue(result) for result in results]


class InferenceSession:
    """A model that is run by `run`; many threads may do so at once.

    Args:
        path_or_bytes: a model.mrt, or an .onnx file, which is compiled first.
        sess_options: of which intra_op_num_threads counts.
        providers: accepted; what is not the CPU is named in a warning.
    """

    def __init__(
        self,
        path_or_bytes: str | bytes | os.PathLike[str],
        sess_options: SessionOptions | None = None,
        providers: Iterable[Any] | None = None,
        provider_options: Sequence[Mapping[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        if sess_options is not None and not isinstance(sess_options, SessionOptions):
            raise InvalidArgumentError(f"sess_options is a {type(sess_options).__name__} and must be a SessionOptions")
        self._options = sess_options if sess_options is not None else SessionOptions()
        for name in kwargs:
            _warn_once(f"InferenceSession has no option {name!r}; it is ignored")
        self.set_providers([providers] if isinstance(providers, str) else list(providers or []))
        if self._options.enable_profiling:
            _warn_once(
                "enable_profiling has no effect: `maas-rt profile MODEL.mrt`, or profile(inputs) of a Model, does that"
            )
        self._model = _load(path_or_bytes, self._options.intra_op_num_threads)
        self._seed, self._runs = _seed, itertools.count()
        self._dtypes = {info.name: info.dtype for info in self._model.inputs}  # of numbers in lists
        self._texts = frozenset((self._model.manifest.get("source") or {}).get("strings", ()))

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: RunOptions | None = None
    ) -> list[Any]:
        """Runs on arrays by input name; returns the outputs of these names, in their order (None: all)."""
        return self._run(output_names, input_feed, run_options, {})

    def run_with_ort_values(
        self,
        output_names: Sequence[str] | None,
        input_dict: Mapping[str, OrtValue],
        run_options: RunOptions | None = None,
    ) -> list[OrtValue]:
        """The same with tensors instead of arrays."""
        return [OrtValue(result) for result in self._run(output_names, input_dict, run_options, {})]

    def run_async(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        callback: Callable[[list[Any], Any, str], None],
        user_data: Any = None,
        run_options: RunOptions | None = None,
    ) -> None:
        """Runs on another thread, which calls callback(outputs, user_data, error sentence or "")."""
        names = self._check_names(output_names)
        future = self._model.run_async(self._feed(input_feed), **self._options_of(run_options))

        def done(finished: Any) -> None:
            error = finished.exception()
            callback([] if error else self._pick(finished.result(), names), user_data, str(error) if error else "")

        future.add_done_callback(done)

    def io_binding(self) -> IOBinding:
        """An empty binding."""
        return IOBinding(self)

    def run_with_iobinding(self, iobinding: IOBinding, run_options: RunOptions | None = None) -> None:
        """Runs on what is bound; the results are the binding's."""
        iobinding._run(run_options)

    def get_inputs(self) -> list[NodeArg]:
        """The inputs."""
        return [self._node(info) for info in self._model.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """The outputs."""
        return [self._node(info) for info in self._model.outputs]

    def get_overridable_initializers(self) -> list[NodeArg]:
        """None: weights are fixed when a model is compiled."""
        return []

    def get_modelmeta(self) -> ModelMetadata:
        """What the file says about itself, the .onnx file that it was compiled from included."""
        manifest = self._model.manifest
        about = (manifest.get("source") or {}).get("about") or {}
        known = {each.name for each in dataclasses.fields(ModelMetadata)}
        known_fields = {name: value for name, value in about.items() if name in known}
        return ModelMetadata(**{"graph_name": str(manifest.get("name", "")), **known_fields})

    def get_session_options(self) -> SessionOptions:
        """The options that it was made with."""
        return self._options

    def get_providers(self) -> list[str]:
        """["CPUExecutionProvider"]."""
        return [_PROVIDER]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        """None are set."""
        return {_PROVIDER: {}}

    def set_providers(self, providers: Sequence[Any], provider_options: Any = None) -> None:
        """Accepted; what is not the CPU is named in a warning."""
        for provider in providers:
            _check_provider(provider[0] if isinstance(provider, tuple) else provider)

    def end_profiling(self) -> str:
        """The name of no file: nothing was profiled."""
        return ""

    def get_profiling_start_time_ns(self) -> int:
        """0: nothing was profiled."""
        return 0

    def enable_fallback(self) -> None:
        """Of no effect: there is one provider."""

    def disable_fallback(self) -> None:
        """Of no effect: there is one provider."""

    def _run(
        self,
        output_names: Sequence[str] | None,
        feed: Mapping[str, Any],
        options: RunOptions | None,
        buffers: dict[str, Any],
    ) -> list[Any]:
        names = self._check_names(output_names)
        inputs = self._feed(feed)
        return self._pick(self._model.run(inputs, out=buffers or None, **self._options_of(options)), names)

    def _options_of(self, options: RunOptions | None) -> dict[str, Any]:
        """Of one run: every run begins anew, and draws random numbers of its own."""
        return {
            "state": self._model.state() if self._model.states else None,
            "cancel": _cancel(options),
            "seed": None if self._seed is None else (self._seed + next(self._runs) * _SEED_STEP) % 2**64,
        }

    def _check_names(self, names: Sequence[str] | None) -> list[str]:
        if isinstance(names, str):
            raise InvalidArgumentError(f"the outputs' names are {names!r} and must be a list: [{names!r}]")
        known = [info.name for info in self._model.outputs]
        for name in names or []:
            if name not in known:
                raise InvalidArgumentError(f"the model has no output {name!r}; its outputs are: {', '.join(known)}")
        return list(names) if names else known

    def _feed(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(feed, Mapping):
            raise InvalidArgumentError(f"the inputs are a {type(feed).__name__} and must be a dict of arrays by name")
        return {name: self._array(name, value) for name, value in feed.items()}

    def _array(self, name: str, value: Any) -> Any:
        if isinstance(value, OrtValue):
            value = value.numpy()
        try:
            if name in self._texts:
                array = np.asarray(value)
                return array if array.dtype == np.uint8 else encode_strings(array.astype(object))
            if isinstance(value, (list, tuple, int, float, bool)) and name in self._dtypes:
                return _numbers(value, np.dtype(self._dtypes[name]))
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidArgumentError(f"input {name!r} cannot be read: {error}") from None
        return value

    def _pick(self, results: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
        return [decode_strings(results[name]) if name in self._texts else results[name] for name in names]

    def _node(self, info: TensorInfo) -> NodeArg:
        if info.name in self._texts:
            return NodeArg(info.name, "tensor(string)", list(info.shape[:-1]))
        return NodeArg(info.name, f"tensor({type_name(info.dtype)})", list(info.shape))


def _numbers(value: Any, dtype: np.dtype[Any]) -> Any:
    """Python's numbers as an input's element type; as numpy sees them where that would change them."""
    given = np.asarray(value)
    with np.errstate(invalid="ignore"):
        array = given.astype(dtype)
    return array if dtype.kind in "fc" or np.array_equal(array, given) else given


def _check_provider(name: Any) -> None:
    if name != _PROVIDER:
        _warn_once(f"there is no provider {name!r}: models run on the CPU ({_PROVIDER})")


def _cancel(options: RunOptions | None) -> CancelToken | None:
    if options is not None and not isinstance(options, RunOptions):
        raise InvalidArgumentError(f"run_options is a {type(options).__name__} and must be a RunOptions")
    return None if options is None else options._token


def _load(model: str | bytes | os.PathLike[str], threads: Any) -> Model:
    if isinstance(model, (bytes, bytearray, memoryview)) and bytes(model[:1]) == _ONNX_BEGIN:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.onnx")
            with open(path, "wb") as file:
                file.write(model)
            return _compiled(path, "the .onnx model given as bytes", threads)
    if not isinstance(model, (str, os.PathLike)) or not os.fsdecode(model).endswith(".onnx"):
        return load(model, threads=threads)
    path = os.fsdecode(model)
    if not os.path.exists(path):
        raise ModelNotFoundError(path)
    return _compiled(path, path, threads)


def _compiled(path: str, called: str, threads: Any) -> Model:
    try:
        from maas_rt.compiler import compile

        artifact = compile(path)
    except (ModuleNotFoundError, MissingExtraError) as error:
        missing = error.name or "its extra"
        raise MissingExtraError(f"{called} is compiled to a model.mrt first, which", "compiler", missing) from None
    file = path if called == path else "MODEL.onnx"
    _warn_once(f"{called} was compiled in memory: `maas-rt compile {file} -o MODEL.mrt` does that once")
    return load(artifact, threads=threads)


def get_available_providers() -> list[str]:
    """["CPUExecutionProvider"]."""
    return [_PROVIDER]


def get_all_providers() -> list[str]:
    """["CPUExecutionProvider"]."""
    return [_PROVIDER]


def get_device() -> str:
    """ "CPU"."""
    return "CPU"


def get_build_info() -> str:
    """What this is."""
    return f"maas_rt {get_version_string()}, CPU"


def preload_dlls(cuda: bool = True, cudnn: bool = True, msvc: bool = True, directory: str | None = None) -> None:
    """Of no effect: nothing beside this package is loaded."""


def set_default_logger_severity(severity: int) -> None:
    """Of no effect: this runtime logs nothing."""


def set_default_logger_verbosity(verbosity: int) -> None:
    """Of no effect: this runtime logs nothing."""


def disable_telemetry_events() -> None:
    """Of no effect: there are none."""


def enable_telemetry_events() -> None:
    """Of no effect: there are none."""


def set_seed(seed: int) -> None:
    """Sessions made from now on draw this seed's random numbers: others in each run, the same ones in the same run of each session."""
    global _seed
    try:
        _seed = operator.index(seed) % 2**64
    except TypeError:
        raise InvalidArgumentError(f"seed is {seed!r} and must be an integer") from None


def get_version_string() -> str:
    """This runtime's version."""
    return str(_native.version())
