//! A collector of traces: decodes what it gets with the published protobufs of OpenTelemetry.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use super::until;

const PROTOBUF: &str = "application/x-protobuf";

/// What a collector does with a batch.
#[derive(Debug, Clone, Copy, Default)]
pub enum Answer {
    /// Takes it.
    #[default]
    Take,
    /// Takes all but so many spans.
    TakeAllBut(i64),
    /// Responds with this status, and the field Retry-After.
    Status(u16, &'static str),
    /// Responds with 200 and something that is not OTLP.
    Rubbish,
    /// Never responds.
    Hang,
}

/// A running collector; ends with the test's runtime.
pub struct Collector {
    address: SocketAddr,
    state: Arc<Mutex<Collected>>,
}

#[derive(Default)]
struct Collected {
    spans: Vec<Span>,
    services: Vec<String>,
    keys: Vec<String>,
    batches: usize,
    answer: Answer,
}

impl Collector {
    pub async fn start() -> Collector {
        let state = Arc::<Mutex<Collected>>::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&state));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Collector { address, state }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The section of a configuration that exports to it, with more lines.
    pub fn section(&self, lines: &str) -> String {
        format!("[tracing]\notlp = \"http://{}\"\n{lines}\n", self.address)
    }

    /// Sets what it does with the batches that follow.
    pub fn answer(&self, answer: Answer) {
        self.state.lock().unwrap().answer = answer;
    }

    /// Counts the batches that it got, whatever it did with them.
    pub fn batches(&self) -> usize {
        self.state.lock().unwrap().batches
    }

    /// The spans that it took, in their order.
    pub fn spans(&self) -> Vec<Span> {
        self.state.lock().unwrap().spans.clone()
    }

    /// Waits until it has so many spans.
    pub async fn has(&self, spans: usize) -> Vec<Span> {
        until("the spans", async || self.spans().len() >= spans).await;
        self.spans()
    }

    /// The field X-Api-Key of each batch that had one.
    pub fn keys(&self) -> Vec<String> {
        self.state.lock().unwrap().keys.clone()
    }

    /// The name of the service of each batch.
    pub fn services(&self) -> Vec<String> {
        self.state.lock().unwrap().services.clone()
    }
}

async fn take(State(state): State<Arc<Mutex<Collected>>>, headers: HeaderMap, body: Bytes) -> Response {
    assert_eq!(headers[CONTENT_TYPE], PROTOBUF);
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let answer = {
        let mut state = state.lock().unwrap();
        state.batches += 1;
        state.keys.extend(headers.get("x-api-key").map(|key| key.to_str().unwrap().to_owned()));
        if let Answer::Take | Answer::TakeAllBut(_) = state.answer {
            for of_resource in request.resource_spans {
                let attributes = of_resource.resource.unwrap().attributes;
                let name = attributes.into_iter().find(|attribute| attribute.key == "service.name").unwrap();
                state.services.push(text(name.value.unwrap().value.unwrap()));
                state.spans.extend(of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        }
        state.answer
    };
    match answer {
        Answer::Take => {
            ([(CONTENT_TYPE, PROTOBUF)], ExportTraceServiceResponse::default().encode_to_vec()).into_response()
        }
        Answer::TakeAllBut(rejected_spans) => {
            let partial = ExportTracePartialSuccess { rejected_spans, error_message: "too old".into() };
            let response = ExportTraceServiceResponse { partial_success: Some(partial) };
            ([(CONTENT_TYPE, PROTOBUF)], response.encode_to_vec()).into_response()
        }
        Answer::Status(status, after) => {
            (StatusCode::from_u16(status).unwrap(), [(RETRY_AFTER, after)]).into_response()
        }
        Answer::Rubbish => ([(CONTENT_TYPE, PROTOBUF)], b"\xff\xff\xff").into_response(),
        Answer::Hang => std::future::pending().await,
    }
}

fn text(value: Value) -> String {
    match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Returns an attribute of a span, as text.
pub fn attribute(span: &Span, key: &str) -> Option<String> {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == key)?;
    Some(text(attribute.value.clone()?.value?))
}
