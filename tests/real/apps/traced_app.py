"""An ASGI app that OpenTelemetry's own instrumentation traces. OTEL_* variables say where to."""

from asgi_app import app as bare
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
app = OpenTelemetryMiddleware(bare, tracer_provider=provider, exclude_spans=["receive", "send"])
