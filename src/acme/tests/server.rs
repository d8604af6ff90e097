//! Owns: an ACME server in memory, with faults on demand.
//! Invariant: it checks each signature, nonce, URL and key authorization, and panics at what no client may send.
//! Must not know: what is tested.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{HeaderValue, RETRY_AFTER};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd,
};
use serde_json::{Value, json};

use super::super::challenges::Challenges;
use super::super::https_client::Unreachable;
use crate::clock;

pub(super) const URL: &str = "https://acme.test/directory";

/// What the server does instead of what it should.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// It refuses with this type of problem, and perhaps with Retry-After.
    Problem(&'static str, Option<u64>),
    /// It can't be reached.
    Away,
    /// It answers with what is no JSON.
    Garbage,
    /// It never answers.
    Hang,
    /// It carries out the request, and its response is lost.
    Lost,
    /// It never answers, and nobody gives up.
    Stuck,
    /// It issues a certificate for another key, or another name.
    OtherKey,
    OtherName,
}

/// The server. Clones share it.
#[derive(Clone)]
pub(super) struct Server(pub(super) Arc<Mutex<State>>);

pub(super) struct State {
    /// The faults to come, each for the next request to a path that begins so.
    pub(super) faults: VecDeque<(&'static str, Fault)>,
    /// The path of each request.
    pub(super) seen: Vec<String>,
    /// From how many days ago to how many days from now certificates are valid.
    pub(super) validity: (i64, i64),
    /// The window in which it suggests to renew; `None` for a server without this service.
    pub(super) window: Option<(&'static str, &'static str)>,
    pub(super) replaced: Vec<String>,
    /// The field Retry-After of each response, if not the usual one.
    pub(super) retry_after: Option<&'static str>,
    /// Who answers challenges.
    pub(super) answers: Vec<Challenges>,
    nonces: HashSet<String>,
    count: u64,
    /// The x and y of each account's key, by its URL.
    accounts: HashMap<String, (String, String)>,
    orders: Vec<Order>,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

struct Order {
    name: String,
    token: String,
    status: &'static str,
    problem: Option<Value>,
    certificate: Option<String>,
}

impl Server {
    pub(super) fn new() -> Server {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Server(Arc::new(Mutex::new(State {
            faults: VecDeque::new(),
            seen: Vec::new(),
            validity: (0, 90),
            window: None,
            replaced: Vec::new(),
            retry_after: None,
            answers: Vec::new(),
            nonces: HashSet::new(),
            count: 0,
            accounts: HashMap::new(),
            orders: Vec::new(),
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap(),
        })))
    }

    pub(super) fn fails(&self, path: &'static str, fault: Fault) {
        self.0.lock().unwrap().faults.push_back((path, fault));
    }

    /// How many requests it had for paths that begin so.
    pub(super) fn count(&self, path: &str) -> usize {
        self.0.lock().unwrap().seen.iter().filter(|seen| seen.starts_with(path)).count()
    }

    /// Forgets its accounts, as a test server does that was started again.
    pub(super) fn forget(&self) {
        self.0.lock().unwrap().accounts.clear();
    }
}

impl HttpClient for Server {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let server = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let away = |why: &str| Err(Error::Other(Box::new(Unreachable(why.into()))));
            let (fault, response) = {
                let mut state = server.0.lock().unwrap();
                let path = parts.uri.path().to_owned();
                state.seen.push(path.clone());
                let is_due = state.faults.front().is_some_and(|(at, _)| path.starts_with(at));
                let fault = if is_due { state.faults.pop_front().map(|(_, fault)| fault) } else { None };
                let mut response = match &fault {
                    Some(Fault::Problem(kind, after)) => state.problem(kind, *after),
                    Some(Fault::Garbage) => respond(200, &[], "<html>not ACME</html>"),
                    Some(Fault::Away | Fault::Hang | Fault::Stuck) => respond(200, &[], ""),
                    other => state.serve(&parts, &body, other.as_ref()),
                };
                if let Some(value) = state.retry_after {
                    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(value));
                }
                (fault, response)
            };
            match fault {
                Some(Fault::Away | Fault::Lost) => away("connection refused (acme.test:443)"),
                Some(Fault::Stuck) => std::future::pending().await,
                // As the client itself gives up.
                Some(Fault::Hang) => {
                    tokio::time::sleep(Duration::from_secs(30)).await;
                    away("no response within 30s (acme.test)")
                }
                _ => Ok(response.into()),
            }
        })
    }
}

fn respond(status: u16, fields: &[(&str, &str)], body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    response.body(Full::new(Bytes::from(body.to_owned()))).unwrap()
}

fn decoded(text: &Value) -> Vec<u8> {
    BASE64_URL_SAFE_NO_PAD.decode(text.as_str().unwrap()).unwrap()
}

impl State {
    fn nonce(&mut self) -> String {
        self.count += 1;
        let nonce = format!("nonce{}", self.count);
        self.nonces.insert(nonce.clone());
        nonce
    }

    fn problem(&mut self, kind: &str, after: Option<u64>) -> Response<Full<Bytes>> {
        let status = match kind {
            "rateLimited" => 429,
            "serverInternal" => 500,
            _ => 400,
        };
        let body = json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": "as the test wants" });
        let (nonce, after) = (self.nonce(), after.map(|after| after.to_string()));
        let fields: Vec<_> = [("replay-nonce", nonce.as_str())]
            .into_iter()
            .chain(after.as_deref().map(|after| ("retry-after", after)))
            .collect();
        respond(status, &fields, &body.to_string())
    }

    /// Serves a request as RFC 8555 says.
    fn serve(&mut self, parts: &http::request::Parts, body: &Bytes, fault: Option<&Fault>) -> Response<Full<Bytes>> {
        let path = parts.uri.path();
        assert_eq!(parts.uri.scheme_str(), Some("https"));
        match path {
            "/directory" => {
                let mut all = json!({
                    "newNonce": "https://acme.test/nonce", "newAccount": "https://acme.test/account",
                    "newOrder": "https://acme.test/order", "revokeCert": "https://acme.test/revoke",
                });
                if self.window.is_some() {
                    all["renewalInfo"] = json!("https://acme.test/renewal");
                }
                return respond(200, &[], &all.to_string());
            }
            "/nonce" => {
                let nonce = self.nonce();
                return respond(200, &[("replay-nonce", &nonce)], "");
            }
            _ => {}
        }
        if let Some(id) = path.strip_prefix("/renewal/") {
            let (start, end) = self.window.unwrap();
            assert!(id.split_once('.').is_some_and(|(key, serial)| !key.is_empty() && !serial.is_empty()), "{id}");
            let body = json!({ "suggestedWindow": { "start": start, "end": end } });
            return respond(200, &[("retry-after", "21600")], &body.to_string());
        }
        let message: Value = serde_json::from_slice(body).unwrap();
        let protected: Value = serde_json::from_slice(&decoded(&message["protected"])).unwrap();
        assert_eq!(parts.headers["content-type"], "application/jose+json");
        assert_eq!((&protected["alg"], &protected["url"]), (&json!("ES256"), &json!(parts.uri.to_string())));
        if !self.nonces.remove(protected["nonce"].as_str().unwrap()) {
            return self.problem("badNonce", None);
        }
        let (x, y) = match path {
            "/account" => {
                let key = &protected["jwk"];
                assert!(protected.get("kid").is_none());
                (key["x"].as_str().unwrap().to_owned(), key["y"].as_str().unwrap().to_owned())
            }
            _ => {
                assert!(protected.get("jwk").is_none());
                match self.accounts.get(protected["kid"].as_str().unwrap()) {
                    Some(key) => key.clone(),
                    None => return self.problem("accountDoesNotExist", None),
                }
            }
        };
        let point = [&[4][..], &decoded(&json!(x)), &decoded(&json!(y))].concat();
        let signed = format!("{}.{}", message["protected"].as_str().unwrap(), message["payload"].as_str().unwrap());
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        key.verify(signed.as_bytes(), &decoded(&message["signature"])).expect("a signature by the account's key");
        let payload: Value = serde_json::from_slice(&decoded(&message["payload"])).unwrap_or_default();
        let thumb = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let thumb = BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, thumb.as_bytes()));
        self.carry_out(path, &payload, (x, y), &thumb, fault)
    }

    fn carry_out(
        &mut self,
        path: &str,
        payload: &Value,
        key: (String, String),
        thumb: &str,
        fault: Option<&Fault>,
    ) -> Response<Full<Bytes>> {
        let nonce = self.nonce();
        let nonce = ("replay-nonce", nonce.as_str());
        let (what, number) = path.trim_start_matches('/').split_once('/').unwrap_or((&path[1..], ""));
        let index: usize = number.parse().unwrap_or(0);
        match what {
            "account" => {
                assert_eq!(payload["termsOfServiceAgreed"], true);
                let url = format!("https://acme.test/account/{}", self.accounts.len());
                self.accounts.insert(url.clone(), key);
                respond(201, &[nonce, ("location", &url)], &json!({ "status": "valid" }).to_string())
            }
            "order" if number.is_empty() => {
                let name = payload["identifiers"][0]["value"].as_str().unwrap().to_owned();
                self.replaced.extend(payload["replaces"].as_str().map(str::to_owned));
                let token = format!("token{}", self.orders.len());
                self.orders.push(Order { name, token, status: "pending", problem: None, certificate: None });
                let index = self.orders.len() - 1;
                let url = format!("https://acme.test/order/{index}");
                let mut body = self.order(index);
                if let Some(replaces) = payload.get("replaces") {
                    body["replaces"] = replaces.clone();
                }
                respond(201, &[nonce, ("location", &url)], &body.to_string())
            }
            "order" => respond(200, &[nonce], &self.order(index).to_string()),
            "authorization" => respond(200, &[nonce], &self.authorization(index).to_string()),
            "challenge" => {
                let Order { token, .. } = &self.orders[index];
                let path = format!("/.well-known/acme-challenge/{token}");
                let expected = Bytes::from(format!("{token}.{thumb}"));
                let is_right = |one: &Challenges| one.http().response(&path).as_ref() == Some(&expected);
                // As Let's Encrypt does, from several places.
                let is_valid = !self.answers.is_empty() && self.answers.iter().all(is_right);
                let order = &mut self.orders[index];
                order.status = if is_valid { "ready" } else { "invalid" };
                let kind = "urn:ietf:params:acme:error:connection";
                order.problem = (!is_valid).then(|| json!({ "type": kind, "detail": "Fetching failed" }));
                respond(200, &[nonce], &self.challenge(index, "processing").to_string())
            }
            "finalize" => {
                assert_eq!(self.orders[index].status, "ready");
                let csr = decoded(&payload["csr"]);
                let mut request = CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
                let day = |days: i64| {
                    let time = i64::try_from(clock::unix().as_secs()).unwrap() + days * 24 * 60 * 60;
                    date_time_ymd(1970, 1, 1) + Duration::from_secs(time.try_into().unwrap())
                };
                (request.params.not_before, request.params.not_after) = (day(-self.validity.0), day(self.validity.1));
                request.params.use_authority_key_identifier_extension = true;
                if matches!(fault, Some(Fault::OtherName)) {
                    request.params.subject_alt_names =
                        CertificateParams::new(["other.test".into()]).unwrap().subject_alt_names;
                }
                let issued = match fault {
                    Some(Fault::OtherKey) => {
                        request.params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap()
                    }
                    _ => request.signed_by(&self.issuer).unwrap(),
                };
                let order = &mut self.orders[index];
                (order.status, order.certificate) = ("valid", Some(issued.pem()));
                respond(200, &[nonce], &self.order(index).to_string())
            }
            "certificate" => respond(200, &[nonce], self.orders[index].certificate.as_ref().unwrap()),
            other => panic!("no client asks for {other}"),
        }
    }

    fn order(&self, index: usize) -> Value {
        let Order { name, status, certificate, .. } = &self.orders[index];
        let mut order = json!({
            "status": status, "identifiers": [{ "type": "dns", "value": name }],
            "authorizations": [format!("https://acme.test/authorization/{index}")],
            "finalize": format!("https://acme.test/finalize/{index}"),
        });
        if certificate.is_some() {
            order["certificate"] = json!(format!("https://acme.test/certificate/{index}"));
        }
        order
    }

    fn authorization(&self, index: usize) -> Value {
        let Order { name, status, .. } = &self.orders[index];
        let status = match *status {
            "ready" => "valid",
            other => other,
        };
        json!({
            "status": status, "identifier": { "type": "dns", "value": name },
            "challenges": [self.challenge(index, status), { "type": "dns-01", "status": "pending", "url": "https://acme.test/dns", "token": "x" }],
        })
    }

    fn challenge(&self, index: usize, status: &str) -> Value {
        let Order { token, problem, .. } = &self.orders[index];
        let url = format!("https://acme.test/challenge/{index}");
        let mut challenge = json!({ "type": "http-01", "status": status, "url": url, "token": token });
        // It shows in the authorization, once validation is over.
        if let Some(problem) = problem.as_ref().filter(|_| status != "processing") {
            challenge["error"] = problem.clone();
        }
        challenge
    }
}
