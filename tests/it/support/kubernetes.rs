//! An API server of Kubernetes: lists and watches of the EndpointSlices of one namespace, over TLS.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use super::authority::Authority;
use super::tool::Folder;
use super::until;

pub const NAMESPACE: &str = "shop";
pub const SERVICE: &str = "web";

/// An API server that knows one Service. Ends when dropped.
pub struct ApiServer {
    folder: Folder,
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: Option<AbortHandle>,
}

#[derive(Default)]
struct State {
    /// The version of the last change.
    version: u64,
    slices: BTreeMap<String, Value>,
    /// Each change, with its version.
    changes: Vec<(u64, Value)>,
    /// Versions before this one are forgotten.
    oldest: u64,
    token: String,
    /// Slices in one page.
    page: usize,
    /// What it answers instead, by the query.
    fault: Option<Fault>,
    watches: Vec<mpsc::UnboundedSender<Bytes>>,
    connections: Vec<AbortHandle>,
    requests: Vec<String>,
}

pub type Body = UnsyncBoxBody<Bytes, Infallible>;
type Fault = Box<dyn Fn(&str) -> Option<Response<Body>> + Send>;

impl ApiServer {
    pub async fn start() -> ApiServer {
        let state = State { version: 100, page: 100, ..State::default() };
        let address = "127.0.0.1:0".parse().unwrap();
        let mut server =
            ApiServer { folder: Folder::new(), address, state: Arc::new(Mutex::new(state)), accepting: None };
        server.rotate_token("token-1");
        server.restart("the authority").await;
        server
    }

    /// The lines of `[[pools.discover]]`.
    pub fn lines(&self, port: &str) -> String {
        let (token, ca, address) = (self.folder.file("token"), self.folder.file("ca.crt"), self.address);
        format!(
            "kubernetes = \"{NAMESPACE}/{SERVICE}\"\nport = {port}\napi_server = \"https://{address}\"\n\
             token_file = \"{token}\"\nca = \"{ca}\"\n"
        )
    }

    /// Starts to accept, with a certificate of this new authority, which is the one that the file then has.
    pub async fn restart(&mut self, authority: &str) {
        self.stop();
        let authority = Authority::new(authority);
        let issued = authority.issue(&["127.0.0.1"]);
        self.folder.write("ca.new", authority.pem().as_bytes());
        std::fs::rename(self.folder.file("ca.new"), self.folder.file("ca.crt")).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let mut listener = None;
        until("the API server's address", async || {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            listener = socket.bind(self.address).and_then(|()| socket.listen(64)).ok();
            listener.is_some()
        })
        .await;
        let listener = listener.unwrap();
        self.address = listener.local_addr().unwrap();
        let state = Arc::clone(&self.state);
        let accept = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, served) = (acceptor.clone(), Arc::clone(&state));
                let serve = async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(|request: Request<Incoming>| {
                        let response = lock(&served).respond(&request);
                        async { Ok::<_, Infallible>(response) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                };
                lock(&state).connections.push(tokio::spawn(serve).abort_handle());
            }
        };
        self.accepting = Some(tokio::spawn(accept).abort_handle());
    }

    /// Goes away: nobody listens, and all connections end.
    pub fn stop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
        }
        self.cut();
    }

    /// Ends all connections in the middle of what they do.
    pub fn cut(&self) {
        let mut state = lock(&self.state);
        state.connections.drain(..).for_each(|connection| connection.abort());
        state.watches.clear();
    }

    /// Ends all watches properly, as a server does when their time is over.
    pub fn end_watches(&self) {
        lock(&self.state).watches.clear();
    }

    /// Writes another token to the file, and accepts no other one.
    pub fn rotate_token(&self, token: &str) {
        self.folder.write("token.new", format!("{token}\n").as_bytes());
        std::fs::rename(self.folder.file("token.new"), self.folder.file("token")).unwrap();
        self.accept_token(token);
    }

    /// Accepts this token and no other one.
    pub fn accept_token(&self, token: &str) {
        lock(&self.state).token = token.to_owned();
    }

    /// Lists so many slices at a time.
    pub fn set_page(&self, slices: usize) {
        lock(&self.state).page = slices;
    }

    /// Answers each request as this says, by its query; or as usual where it says nothing.
    pub fn answer(&self, fault: impl Fn(&str) -> Option<Response<Body>> + Send + 'static) {
        lock(&self.state).fault = Some(Box::new(fault));
    }

    /// Tells of this change in all watches, and knows nothing of it later.
    pub fn tell(&self, kind: &str, object: &Value) {
        lock(&self.state).send(&json!({ "type": kind, "object": object }));
    }

    /// The version of the last change.
    pub fn version(&self) -> u64 {
        lock(&self.state).version
    }

    /// Creates or replaces a slice with these endpoints, whose port `http` is this one.
    pub fn set(&self, slice: &str, port: u16, endpoints: &[Value]) {
        self.set_named(slice, "http", port, endpoints);
    }

    /// The same, with another name of the port.
    pub fn set_named(&self, slice: &str, name: &str, port: u16, endpoints: &[Value]) {
        let mut state = lock(&self.state);
        state.version += 1;
        let object = json!({
            "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
            "metadata": {
                "name": slice, "namespace": NAMESPACE, "resourceVersion": state.version.to_string(),
                "labels": { "kubernetes.io/service-name": SERVICE }, "managedFields": [],
            },
            "endpoints": if endpoints.is_empty() { Value::Null } else { endpoints.into() },
            "ports": [{ "name": name, "port": port, "protocol": "TCP" }, { "name": "admin", "port": 9, "protocol": "TCP" }],
        });
        let kind = if state.slices.insert(slice.to_owned(), object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        state.change(kind, object);
    }

    /// Deletes a slice.
    pub fn delete(&self, slice: &str) {
        let mut state = lock(&self.state);
        state.version += 1;
        let mut object = state.slices.remove(slice).unwrap();
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        state.change("DELETED", object);
    }

    /// Something else in the cluster changes, and a bookmark says up to which version nothing here has.
    pub fn bookmark(&self) -> u64 {
        let mut state = lock(&self.state);
        state.version += 10;
        let metadata = json!({ "resourceVersion": state.version.to_string(), "creationTimestamp": null });
        let event = json!({ "type": "BOOKMARK", "object": { "kind": "EndpointSlice", "metadata": metadata } });
        state.send(&event);
        state.version
    }

    /// Forgets all versions until now. Says so in the watches that run, if `aloud`.
    pub fn compact(&self, aloud: bool) {
        let mut state = lock(&self.state);
        state.version += 1;
        state.oldest = state.version;
        if aloud {
            let status = json!({ "kind": "Status", "status": "Failure", "reason": "Expired", "code": 410 });
            state.send(&json!({ "type": "ERROR", "object": status }));
            state.watches.clear();
        }
    }

    /// Counts the requests for a list, and for a watch, and returns the version of the last watch.
    pub fn requests(&self) -> (usize, usize, Option<u64>) {
        let state = lock(&self.state);
        let watches: Vec<_> = state.requests.iter().filter_map(|query| parameter(query, "resourceVersion")).collect();
        let last = watches.last().and_then(|version| version.parse().ok());
        (state.requests.len() - watches.len(), watches.len(), last)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl State {
    fn change(&mut self, kind: &str, object: Value) {
        let event = json!({ "type": kind, "object": object });
        self.changes.push((self.version, event.clone()));
        self.send(&event);
    }

    fn send(&mut self, event: &Value) {
        self.watches.retain(|watch| watch.send(line(event)).is_ok());
    }

    fn respond(&mut self, request: &Request<Incoming>) -> Response<Body> {
        let authorization = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        if authorization != Some(&format!("Bearer {}", self.token)) {
            return failure(401);
        }
        let query = request.uri().query().unwrap_or_default();
        if request.uri().path() != format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices") {
            return failure(403);
        }
        assert_eq!(
            parameter(query, "labelSelector"),
            Some(format!("kubernetes.io%2Fservice-name%3D{SERVICE}").as_str())
        );
        self.requests.push(query.to_owned());
        if let Some(response) = self.fault.as_ref().and_then(|fault| fault(query)) {
            return response;
        }
        match parameter(query, "resourceVersion") {
            None => self.list(query),
            Some(version) => {
                assert_eq!(parameter(query, "watch"), Some("true"));
                assert_eq!(parameter(query, "allowWatchBookmarks"), Some("true"));
                self.watch(version.parse().unwrap())
            }
        }
    }

    fn list(&self, query: &str) -> Response<Body> {
        let limit: usize = parameter(query, "limit").unwrap().parse().unwrap();
        let skipped: usize = parameter(query, "continue").map_or(0, |next| next.parse().unwrap());
        let size = limit.min(self.page);
        let items: Vec<_> = self.slices.values().skip(skipped).take(size).cloned().collect();
        let next = if skipped + size < self.slices.len() { (skipped + size).to_string() } else { String::new() };
        let metadata = json!({ "resourceVersion": self.version.to_string(), "continue": next });
        let list = json!({ "kind": "EndpointSliceList", "metadata": metadata, "items": items });
        response(&list)
    }

    fn watch(&mut self, from: u64) -> Response<Body> {
        if from < self.oldest {
            return failure(410);
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        for (_, event) in self.changes.iter().filter(|(version, _)| *version > from) {
            sender.send(line(event)).unwrap();
        }
        self.watches.push(sender);
        let events =
            futures_util::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
        let frames = events.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
        Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)))
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap()
}

/// A response with this body.
pub fn response(body: &Value) -> Response<Body> {
    Response::new(Full::new(Bytes::from(body.to_string())).boxed_unsync())
}

/// A watch that ends at once.
pub fn ended() -> Response<Body> {
    Response::new(Full::new(Bytes::new()).boxed_unsync())
}

pub fn failure(code: u16) -> Response<Body> {
    let status =
        json!({ "kind": "Status", "status": "Failure", "message": "<b>what the server says</b>", "code": code });
    let body = Full::new(Bytes::from(status.to_string())).boxed_unsync();
    Response::builder().status(code).body(body).unwrap()
}

fn line(event: &Value) -> Bytes {
    format!("{event}\n").into()
}

fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}
