"""The messages of the Open Inference Protocol over gRPC and of grpc.health.v1, made from the tables below.

They live in a pool of their own: a process may import tritonclient, or any other package that has the same names, beside them. Of ModelConfig
there is what this server tells.

Source: the Open Inference Protocol's gRPC specification, https://github.com/kserve/open-inference-protocol; Triton's extensions of it,
https://github.com/triton-inference-server/server/tree/main/docs/protocol; https://github.com/grpc/grpc/blob/master/doc/health-checking.md.
"""

from __future__ import annotations

from typing import Any

from ._grpcio import descriptor_pb2, descriptor_pool, message_factory

INFERENCE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"

# A line a message: its fields, each a name, a number and a type. T* is a list of T, {T} a map from strings to T; what stands in parentheses
# after a name belongs to that oneof. In a line with = are the names of an enumeration, from 0 on.
_INFERENCE = """
ServerLiveRequest:
ServerLiveResponse: live 1 bool
ServerReadyRequest:
ServerReadyResponse: ready 1 bool
ModelReadyRequest: name 1 string, version 2 string
ModelReadyResponse: ready 1 bool
ServerMetadataRequest:
ServerMetadataResponse: name 1 string, version 2 string, extensions 3 string*
ModelMetadataRequest: name 1 string, version 2 string
ModelMetadataResponse: name 1 string, versions 2 string*, platform 3 string, inputs 4 TensorMetadata*, outputs 5 TensorMetadata*
ModelMetadataResponse.TensorMetadata: name 1 string, datatype 2 string, shape 3 int64*

InferParameter: parameter_choice(bool_param 1 bool, int64_param 2 int64, string_param 3 string, double_param 4 double, uint64_param 5 uint64)
InferTensorContents: bool_contents 1 bool*, int_contents 2 int32*, int64_contents 3 int64*, uint_contents 4 uint32*, uint64_contents 5 uint64*, \
fp32_contents 6 float*, fp64_contents 7 double*, bytes_contents 8 bytes*
ModelInferRequest: model_name 1 string, model_version 2 string, id 3 string, parameters 4 {InferParameter}, inputs 5 InferInputTensor*, \
outputs 6 InferRequestedOutputTensor*, raw_input_contents 7 bytes*
ModelInferRequest.InferInputTensor: name 1 string, datatype 2 string, shape 3 int64*, parameters 4 {InferParameter}, contents 5 InferTensorContents
ModelInferRequest.InferRequestedOutputTensor: name 1 string, parameters 2 {InferParameter}
ModelInferResponse: model_name 1 string, model_version 2 string, id 3 string, parameters 4 {InferParameter}, outputs 5 InferOutputTensor*, \
raw_output_contents 6 bytes*
ModelInferResponse.InferOutputTensor: name 1 string, datatype 2 string, shape 3 int64*, parameters 4 {InferParameter}, contents 5 InferTensorContents
ModelStreamInferResponse: error_message 1 string, infer_response 2 ModelInferResponse

ModelStatisticsRequest: name 1 string, version 2 string
StatisticDuration: count 1 uint64, ns 2 uint64
InferStatistics: success 1 StatisticDuration, fail 2 StatisticDuration, queue 3 StatisticDuration, compute_input 4 StatisticDuration, \
compute_infer 5 StatisticDuration, compute_output 6 StatisticDuration, cache_hit 7 StatisticDuration, cache_miss 8 StatisticDuration
InferResponseStatistics: compute_infer 1 StatisticDuration, compute_output 2 StatisticDuration, success 3 StatisticDuration, fail 4 StatisticDuration, \
empty_response 5 StatisticDuration, cancel 6 StatisticDuration
InferBatchStatistics: batch_size 1 uint64, compute_input 2 StatisticDuration, compute_infer 3 StatisticDuration, compute_output 4 StatisticDuration
MemoryUsage: type 1 string, id 2 int64, byte_size 3 uint64
ModelStatistics: name 1 string, version 2 string, last_inference 3 uint64, inference_count 4 uint64, execution_count 5 uint64, \
inference_stats 6 InferStatistics, batch_stats 7 InferBatchStatistics*, memory_usage 8 MemoryUsage*, response_stats 9 {InferResponseStatistics}
ModelStatisticsResponse: model_stats 1 ModelStatistics*

ModelRepositoryParameter: parameter_choice(bool_param 1 bool, int64_param 2 int64, string_param 3 string, bytes_param 4 bytes)
RepositoryIndexRequest: repository_name 1 string, ready 2 bool
RepositoryIndexResponse: models 1 ModelIndex*
RepositoryIndexResponse.ModelIndex: name 1 string, version 2 string, state 3 string, reason 4 string
RepositoryModelLoadRequest: repository_name 1 string, model_name 2 string, parameters 3 {ModelRepositoryParameter}
RepositoryModelLoadResponse: model_name 1 string, isLoaded 2 bool
RepositoryModelUnloadRequest: repository_name 1 string, model_name 2 string, parameters 3 {ModelRepositoryParameter}
RepositoryModelUnloadResponse: model_name 1 string, isUnloaded 2 bool

SystemSharedMemoryStatusRequest: name 1 string
SystemSharedMemoryStatusResponse: regions 1 {RegionStatus}
SystemSharedMemoryStatusResponse.RegionStatus: name 1 string, key 2 string, offset 3 uint64, byte_size 4 uint64
SystemSharedMemoryRegisterRequest: name 1 string, key 2 string, offset 3 uint64, byte_size 4 uint64
SystemSharedMemoryRegisterResponse:
SystemSharedMemoryUnregisterRequest: name 1 string
SystemSharedMemoryUnregisterResponse:
CudaSharedMemoryStatusRequest: name 1 string
CudaSharedMemoryStatusResponse: regions 1 {RegionStatus}
CudaSharedMemoryStatusResponse.RegionStatus: name 1 string, device_id 2 uint64, byte_size 3 uint64
CudaSharedMemoryRegisterRequest: name 1 string, raw_handle 2 bytes, device_id 3 int64, byte_size 4 uint64
CudaSharedMemoryRegisterResponse:
CudaSharedMemoryUnregisterRequest: name 1 string
CudaSharedMemoryUnregisterResponse:

TraceSettingRequest: settings 1 {SettingValue}, model_name 2 string
TraceSettingRequest.SettingValue: value 1 string*
TraceSettingResponse: settings 1 {SettingValue}
TraceSettingResponse.SettingValue: value 1 string*
LogSettingsRequest: settings 1 {SettingValue}
LogSettingsRequest.SettingValue: parameter_choice(bool_param 1 bool, uint32_param 2 uint32, string_param 3 string)
LogSettingsResponse: settings 1 {SettingValue}
LogSettingsResponse.SettingValue: parameter_choice(bool_param 1 bool, uint32_param 2 uint32, string_param 3 string)

DataType = TYPE_INVALID TYPE_BOOL TYPE_UINT8 TYPE_UINT16 TYPE_UINT32 TYPE_UINT64 TYPE_INT8 TYPE_INT16 TYPE_INT32 TYPE_INT64 TYPE_FP16 TYPE_FP32 \
TYPE_FP64 TYPE_STRING TYPE_BF16
ModelConfigRequest: name 1 string, version 2 string
ModelConfigResponse: config 1 ModelConfig
ModelConfig: name 1 string, platform 2 string, version_policy 3 ModelVersionPolicy, max_batch_size 4 int32, input 5 ModelInput*, output 6 ModelOutput*, \
instance_group 7 ModelInstanceGroup*, default_model_filename 8 string, parameters 14 {ModelParameter}, backend 17 string, \
scheduling_choice(dynamic_batching 11 ModelDynamicBatching, sequence_batching 13 ModelSequenceBatching, ensemble_scheduling 15 ModelEnsembling), \
response_cache 24 ModelResponseCache
ModelResponseCache: enable 1 bool
ModelEnsembling: step 1 Step*
ModelEnsembling.Step: model_name 1 string, model_version 2 int64, input_map 3 {string}, output_map 4 {string}
ModelParameter: string_value 1 string
ModelVersionPolicy: policy_choice(latest 1 Latest, all 2 All, specific 3 Specific)
ModelVersionPolicy.Latest: num_versions 1 uint32
ModelVersionPolicy.All:
ModelVersionPolicy.Specific: versions 1 int64*
ModelInput: name 1 string, data_type 2 DataType, dims 4 int64*
ModelOutput: name 1 string, data_type 2 DataType, dims 3 int64*
ModelInstanceGroup: name 1 string, count 2 int32, kind 4 Kind
ModelInstanceGroup.Kind = KIND_AUTO KIND_GPU KIND_CPU KIND_MODEL
ModelQueuePolicy: timeout_action 1 TimeoutAction, default_timeout_microseconds 2 uint64, allow_timeout_override 3 bool, max_queue_size 4 uint32
ModelQueuePolicy.TimeoutAction = REJECT DELAY
ModelDynamicBatching: preferred_batch_size 1 int32*, max_queue_delay_microseconds 2 uint64, default_priority_level 5 uint64, \
default_queue_policy 6 ModelQueuePolicy
ModelSequenceBatching: max_sequence_idle_microseconds 1 uint64
"""
_HEALTH = """
HealthCheckRequest: service 1 string
HealthCheckResponse: status 1 ServingStatus
HealthCheckResponse.ServingStatus = UNKNOWN SERVING NOT_SERVING SERVICE_UNKNOWN
HealthListRequest:
HealthListResponse: statuses 1 {HealthCheckResponse}
"""

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    name: getattr(_Field, f"TYPE_{name.upper()}")
    for name in ("bool", "bytes", "double", "float", "int32", "int64", "string", "uint32", "uint64")
}


class _File:
    """A file of a package, from its table."""

    def __init__(self, package: str, table: str) -> None:
        self.proto = descriptor_pb2.FileDescriptorProto(
            name=f"maas_rt/{package}.proto", package=package, syntax="proto3"
        )
        self._messages: dict[str, Any] = {}
        self._enums: set[str] = set()
        lines = list(filter(None, table.splitlines()))
        bodies = {}
        for line in lines:  # the names first: what is used may stand below
            separator = "=" if "=" in line else ":"
            path, _, body = map(str.strip, line.partition(separator))
            owner, _, name = path.rpartition(".")
            if separator == "=":
                owners = self._messages[owner].enum_type if owner else self.proto.enum_type
                enum = owners.add(name=name)
                for number, value in enumerate(body.split()):
                    enum.value.add(name=value, number=number)
                self._enums.add(path)
            else:
                owners = self._messages[owner].nested_type if owner else self.proto.message_type
                self._messages[path] = owners.add(name=name)
                bodies[path] = body
        for path, body in bodies.items():
            self._add_fields(path, body)

    def _add_fields(self, path: str, body: str) -> None:
        message = self._messages[path]
        oneof = None
        for text in filter(None, map(str.strip, body.split(","))):
            if "(" in text:
                name, _, text = text.partition("(")
                oneof = len(message.oneof_decl)
                message.oneof_decl.add(name=name)
            name, number, kind = text.rstrip(")").split()
            field = message.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
            if oneof is not None:
                field.oneof_index = oneof
            if text.endswith(")"):
                oneof = None
            if kind.endswith("*") or kind.startswith("{"):
                field.label = _Field.LABEL_REPEATED
            if kind.startswith("{"):
                entry = "".join(map(str.capitalize, name.split("_"))) + "Entry"
                made = message.nested_type.add(name=entry)
                made.options.map_entry = True
                made.field.add(name="key", number=1, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_STRING)
                value = made.field.add(name="value", number=2, label=_Field.LABEL_OPTIONAL)
                self._set_type(value, path, kind.strip("{}"))
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".{self.proto.package}.{path}.{entry}"
            else:
                self._set_type(field, path, kind.rstrip("*"))

    def _set_type(self, field: Any, path: str, kind: str) -> None:
        if kind in _SCALARS:
            field.type = _SCALARS[kind]
            return
        found = next(
            name for name in (f"{path}.{kind}", kind) if name in self._messages or name in self._enums
        )  # its own first
        field.type = _Field.TYPE_ENUM if found in self._enums else _Field.TYPE_MESSAGE
        field.type_name = f".{self.proto.package}.{found}"


def _classes(package: str, table: str) -> dict[str, Any]:
    """The classes of a table's messages, by their names in it."""
    file = _File(package, table)
    _POOL.Add(file.proto)
    return {
        name: message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{package}.{name}"))
        for name in file._messages
    }


_POOL = descriptor_pool.DescriptorPool()
MESSAGES: dict[str, Any] = {**_classes("inference", _INFERENCE), **_classes("grpc.health.v1", _HEALTH)}
