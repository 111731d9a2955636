//! Where log lines and traces go.
//!
//! Lines go to standard error. With the feature `otlp`, and only where one of OpenTelemetry's own variables
//! `OTEL_EXPORTER_OTLP_ENDPOINT` and `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` names a collector, the way of each chunk goes there,
//! over HTTP, from a thread of its own: a collector that does not answer costs spans and nothing else.

use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Sends log lines to standard error, from the level on that the variable `FOREBAY_LOG` names (`off`, `error`, `warn`,
/// `info`, `debug`, `trace`; `warn` where it does not). For a program's `main`: it does nothing where a log is kept already.
pub fn log_to_stderr() {
    let level = std::env::var("FOREBAY_LOG").ok().and_then(|level| level.parse().ok());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_filter(level.unwrap_or(LevelFilter::WARN));
    let log = tracing_subscriber::registry().with(lines);
    #[cfg(feature = "otlp")]
    let log = log.with(otlp::spans());
    let _ = log.try_init();
}

/// Sends what has not been sent yet, for some seconds at most. For a program's end.
pub fn end_log() {
    #[cfg(feature = "otlp")]
    otlp::end();
}

#[cfg(feature = "otlp")]
mod otlp {
    use std::sync::OnceLock;
    use std::time::Duration;

    use opentelemetry::trace::TracerProvider;
    use opentelemetry_otlp::{OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, SpanExporter};
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing::{Level, Subscriber};
    use tracing_subscriber::filter::Targets;
    use tracing_subscriber::layer::Layer;
    use tracing_subscriber::registry::LookupSpan;

    /// How long the end is waited for.
    const END_MAX: Duration = Duration::from_secs(5);

    static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

    /// A layer that sends spans, if there is somebody to send them to.
    pub(super) fn spans<S: Subscriber + for<'a> LookupSpan<'a>>() -> Option<impl Layer<S>> {
        [OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT]
            .iter()
            .find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))?;
        // The client of HTTP that is compiled in comes without cryptography of its own.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let exporter = match SpanExporter::builder().with_http().build() {
            Ok(exporter) => exporter,
            Err(error) => {
                eprintln!("forebay: spans cannot be sent: {error}");
                return None;
            }
        };
        let mut about = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            about = about.with_service_name("forebay");
        }
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(about.build()).build();
        let tracer = provider.tracer("forebay");
        let _ = PROVIDER.set(provider);
        // What sends them has spans and lines of its own.
        let ours =
            Targets::new().with_target("forebay", Level::DEBUG).with_target("forebay::chunk", Level::TRACE);
        Some(tracing_opentelemetry::layer().with_tracer(tracer).with_filter(ours))
    }

    pub(super) fn end() {
        if let Some(provider) = PROVIDER.get() {
            let _ = provider.shutdown_with_timeout(END_MAX);
        }
    }
}
