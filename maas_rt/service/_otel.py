"""Spans for OpenTelemetry, by its own SDK and exporter: imported only by a server that is told where to send them."""

from __future__ import annotations

import os
import time
from urllib.parse import urlsplit

from .._errors import InvalidArgumentError, MissingExtraError
from .._version import __version__
from ._tracing import Parent, Span

try:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
except ModuleNotFoundError as error:
    raise MissingExtraError("--otlp-endpoint", "otel", error.name or "opentelemetry-sdk") from error

_PATH = "/v1/traces"


class OtelTracer:
    """Sends spans to a collector by OTLP over HTTP, in batches and beside the requests; what it does not take is dropped.

    Which requests are sampled, how a batch is made and what else is told of the server is OpenTelemetry's to say, in its
    environment variables (OTEL_TRACES_SAMPLER, OTEL_BSP_*, OTEL_RESOURCE_ATTRIBUTES, OTEL_EXPORTER_OTLP_HEADERS).
    """

    def __init__(self, exporter: SpanExporter) -> None:
        about = {SERVICE_VERSION: __version__}
        if not os.environ.get("OTEL_SERVICE_NAME"):
            about[SERVICE_NAME] = "maas-rt"
        self._provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("maas_rt.service", __version__)

    def begin(self, parent: Parent | None) -> Span:
        """The span of a request that has come now."""
        context = None
        if parent is not None:
            flags, state = trace.TraceFlags(parent.flags), trace.TraceState.from_header([parent.state])
            remote = trace.SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), True, flags, state)
            context = trace.set_span_in_context(trace.NonRecordingSpan(remote))
        return _RequestSpan(self._tracer, self._tracer.start_span("request", context, trace.SpanKind.SERVER))

    def close(self) -> None:
        """Sends what was not sent yet."""
        self._provider.shutdown()


class _RequestSpan:
    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def ids(self) -> tuple[str, str, int]:
        found = self._span.get_span_context()
        return trace.format_trace_id(found.trace_id), trace.format_span_id(found.span_id), int(found.trace_flags)

    def phases(self, model: str, version: str, **spent: int) -> None:
        self._span.set_attributes({"maas_rt.model": model, "maas_rt.version": version})
        if not self._span.is_recording():
            return
        context = trace.set_span_in_context(self._span)
        at = time.time_ns() - sum(spent.values())
        for name, ns in spent.items():
            self._tracer.start_span(name, context, start_time=at).end(at + ns)
            at += ns

    def end(self, method: str, route: str, status: int, request_id: str) -> None:
        self._span.update_name(f"{method} {route}" if route else method)
        self._span.set_attributes(
            {
                "http.request.method": method,
                "http.response.status_code": status,
                "http.route": route,
                "maas_rt.request_id": request_id,
            }
        )
        if status >= 500:
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end()


def otel_tracer(endpoint: str) -> OtelTracer:
    """A tracer that sends to a collector's URL, as http://localhost:4318.

    Raises:
        InvalidArgumentError: it is no URL.
    """
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise InvalidArgumentError(
            f"--otlp-endpoint is {endpoint!r} and must be the http or https URL of a collector, as http://localhost:4318"
        )
    where = endpoint if url.path.strip("/") else endpoint.rstrip("/") + _PATH
    return OtelTracer(OTLPSpanExporter(endpoint=where))
