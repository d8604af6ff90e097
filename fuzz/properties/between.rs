//! A proxy in this process, a backend that sends a given response, and the properties of every request that reaches this
//! backend and of every response to a client, whatever either of them sends.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use linchpin::app::App;
use linchpin::config;

/// How long a client waits for a response before it closes its sending side.
const PATIENCE: Duration = Duration::from_millis(100);
/// The limit of every wait; only a hang reaches it.
const LONGEST: Duration = Duration::from_secs(20);

/// What the backend sends to a request, by the request's head.
type Reply = Box<dyn Fn(&[u8]) -> Vec<u8> + Send>;

/// The proxy, and the backend behind it.
pub struct Between {
    address: SocketAddr,
    _app: App,
    reply: Arc<Mutex<Reply>>,
    seen: Receiver<Vec<u8>>,
}

/// A request as the backend has read it.
pub struct Request {
    pub method: String,
    pub target: Vec<u8>,
    /// By their names, in lower case.
    pub fields: BTreeMap<String, Vec<Vec<u8>>>,
}

impl Request {
    /// The values of a field.
    pub fn values(&self, name: &str) -> &[Vec<u8>] {
        self.fields.get(name).map(Vec::as_slice).unwrap_or_default()
    }
}

impl Between {
    /// A proxy whose listener has these keys, and its pool these tables, in front of a backend.
    pub fn start(listener: &str, pool: &str) -> Mutex<Between> {
        let backend = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = backend.local_addr().expect("an address");
        let nothing: Reply = Box::new(|_| Vec::new());
        let (reply, (requests, seen)) = (Arc::new(Mutex::new(nothing)), channel());
        let reply_source = Arc::clone(&reply);
        std::thread::spawn(move || {
            backend.incoming().flatten().try_for_each(|stream| serve(stream, &reply_source, &requests))
        });
        let text = format!(
            "[server]\nthreads = 1\n[log]\naccess = \"off\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n{listener}\n\
             [[pools]]\nname = \"app\"\n[pools.ejection]\nconsecutive_failures = 0\n[pools.retry]\nattempts = 1\n\
             [pools.upstream]\nmax_idle_per_thread = 0\n{pool}\n[[pools.backends]]\nname = \"a\"\naddress = \"{address}\"\n"
        );
        let (plan, _) = config::parse(&text, Path::new("fuzz.toml")).unwrap_or_else(|report| panic!("{report}"));
        let app = App::start(plan).unwrap_or_else(|error| panic!("{error}"));
        let address = app.listeners()[0].tcp().expect("a TCP address");
        Mutex::new(Between { address, _app: app, reply, seen })
    }

    /// Sends `sent` as a client, while the backend sends `reply` to every request. Returns what the client received, and
    /// the requests that reached the backend since the last call, after checking both.
    pub fn pass(&mut self, sent: &[u8], reply: &[u8]) -> (Vec<u8>, Vec<Request>) {
        let reply = reply.to_vec();
        self.pass_by(sent, move |_| reply.clone())
    }

    /// The same with a backend whose reply depends on the request's head.
    pub fn pass_by(
        &mut self,
        sent: &[u8],
        reply: impl Fn(&[u8]) -> Vec<u8> + Send + 'static,
    ) -> (Vec<u8>, Vec<Request>) {
        *self.reply.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(reply);
        let mut stream = TcpStream::connect(self.address).expect("a proxy that listens");
        // The proxy may close the connection before the client has sent everything.
        let _ = stream.write_all(sent);
        let mut received = vec![0; 1];
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        match stream.read(&mut received) {
            Ok(length) => received.truncate(length),
            Err(_) => {
                received.clear();
                let _ = stream.shutdown(Shutdown::Write);
            }
        }
        stream.set_read_timeout(Some(LONGEST)).expect("a socket");
        if let Err(error) = stream.read_to_end(&mut received) {
            assert!(!is_timeout(&error), "a client waits in vain, and has {:?}", shown(&received));
        }
        check_responses(&received);
        let seen = self.seen.try_iter().map(|request| read(&request)).collect();
        (received, seen)
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Reads one request and sends the reply. `None` once the receiver is dropped.
fn serve(mut stream: TcpStream, reply_source: &Mutex<Reply>, requests: &Sender<Vec<u8>>) -> Option<()> {
    stream.set_read_timeout(Some(LONGEST)).ok();
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    let end = loop {
        if let Some(end) = end_of_head(&request) {
            break end;
        }
        match stream.read(&mut buffer) {
            Ok(length) if length > 0 => request.extend_from_slice(&buffer[..length]),
            // It was given up before it was sent.
            _ => return Some(()),
        }
    };
    let head = request[..end].to_ascii_lowercase();
    let sent_on = requests.send(request[..end].to_vec()).ok();
    // The whole body is read: closing the socket before would reset the connection and lose the reply.
    let has_body = [&b"\r\ncontent-length:"[..], b"\r\ntransfer-encoding:"].iter().any(|name| finds(&head, name));
    let is_whole =
        |request: &[u8]| !has_body || request.ends_with(b"0\r\n\r\n") || body_is_whole(&head, &request[end..]);
    while !is_whole(&request) {
        match stream.read(&mut buffer) {
            Ok(length) if length > 0 => request.extend_from_slice(&buffer[..length]),
            _ => return sent_on,
        }
    }
    let reply = reply_source.lock().unwrap_or_else(PoisonError::into_inner)(&request[..end]);
    let _ = stream.write_all(&reply);
    sent_on
}

fn finds(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

fn body_is_whole(head: &[u8], body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head);
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    length.is_some_and(|length| body.len() >= length)
}

fn end_of_head(message: &[u8]) -> Option<usize> {
    message.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// The lines of a head, without their ends: no other byte of a line may end one for any reader.
fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let head = head.strip_suffix(b"\r\n\r\n").expect("the end of a head");
    let mut rest = Some(head);
    std::iter::from_fn(move || {
        let all = rest?;
        let (line, after) = match all.windows(2).position(|window| window == b"\r\n") {
            Some(at) => (&all[..at], Some(&all[at + 2..])),
            None => (all, None),
        };
        rest = after;
        assert!(!line.iter().any(|byte| b"\r\n\0".contains(byte)), "an end within a line: {}", shown(line));
        Some(line)
    })
}

/// Fields by name. RFC 9110 §5.1: a name is a token, and its colon follows directly.
fn fields<'l>(lines: impl Iterator<Item = &'l [u8]>) -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut fields = BTreeMap::<String, Vec<Vec<u8>>>::new();
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.unwrap_or_else(|| panic!("a field without a colon: {}", shown(line))));
        assert!(!name.is_empty() && name.iter().all(is_of_token), "a field's name: {}", shown(line));
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        fields.entry(name).or_default().push(value[1..].trim_ascii().to_vec());
    }
    fields
}

fn is_of_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

/// What must hold of every request that a backend reads.
fn read(head: &[u8]) -> Request {
    let mut lines = lines(head);
    let first = lines.next().expect("a request line");
    let mut words = first.splitn(3, |byte| *byte == b' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let method = method.filter(|method| !method.is_empty() && method.iter().all(is_of_token));
    let method = String::from_utf8_lossy(method.expect("a method")).into_owned();
    let target = target.expect("a target").to_vec();
    assert_eq!(version, Some(&b"HTTP/1.1"[..]), "{}", shown(first));
    let is_proper = target.starts_with(b"/") || (target == b"*" && method == "OPTIONS");
    assert!(is_proper && !target.contains(&b'#'), "no proper target: {}", shown(first));
    assert!(!target.iter().any(|byte| *byte <= b' ' || *byte == 0x7f), "a blank in a target: {}", shown(first));

    let request = Request { method, target, fields: fields(lines) };
    let count = |name: &str| request.values(name).len();
    assert!(count("host") <= 1 && count("content-length") <= 1 && count("transfer-encoding") <= 1, "{}", shown(head));
    assert!(count("content-length") + count("transfer-encoding") <= 1, "two ways to frame it: {}", shown(head));
    let is_chunked = |coding: &Vec<u8>| coding.eq_ignore_ascii_case(b"chunked");
    assert!(request.values("transfer-encoding").iter().all(is_chunked), "{}", shown(head));
    for name in ["keep-alive", "proxy-connection", "http2-settings"] {
        assert_eq!(count(name), 0, "{name} is of the hop: {}", shown(head));
    }
    // What Linchpin itself asks has no client.
    if request.target != b"/.well-known/linchpin/session" {
        assert!(count("x-forwarded-for") > 0 && count("x-forwarded-proto") == 1, "{}", shown(head));
        let proto = &request.values("x-forwarded-proto")[0];
        assert!([&b"http"[..], b"https"].contains(&proto.as_slice()), "{}", shown(head));
    }
    request
}

/// Checks all that a client receives on a connection: responses, of which the last may be incomplete.
fn check_responses(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let Some(end) = end_of_head(bytes) else { panic!("a head that ends nowhere: {}", shown(bytes)) };
        let (head, rest) = bytes.split_at(end);
        let mut lines = lines(head);
        let first = lines.next().expect("a status line");
        let status = first.strip_prefix(b"HTTP/1.1 ").or(first.strip_prefix(b"HTTP/1.0 "));
        let status = status.and_then(|rest| std::str::from_utf8(rest.get(..3)?).ok()?.parse::<u16>().ok());
        let status = status.unwrap_or_else(|| panic!("no status: {}", shown(first)));
        assert!((100..1000).contains(&status) && status != 101, "{}", shown(first));
        let fields = fields(lines);
        let values = |name: &str| fields.get(name).map(Vec::as_slice).unwrap_or_default();
        let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
        assert!(lengths.len() + codings.len() <= 1, "two ways to frame it: {}", shown(head));
        for name in ["keep-alive", "proxy-connection", "te", "upgrade"] {
            assert!(values(name).is_empty(), "{name} is of the hop: {}", shown(head));
        }
        let length = lengths.first().map(|length| {
            let length = std::str::from_utf8(length).ok().filter(|length| !length.starts_with('+'));
            length
                .and_then(|length| length.parse::<usize>().ok())
                .unwrap_or_else(|| panic!("no length: {}", shown(head)))
        });
        let is_bare = status < 200 || status == 204 || status == 304;
        bytes = match (length, codings.first()) {
            _ if is_bare => rest,
            (Some(length), _) => rest.get(length..).unwrap_or_default(),
            (None, Some(coding)) => {
                assert_eq!(coding.as_slice(), b"chunked", "{}", shown(head));
                behind_chunks(rest)
            }
            (None, None) => &[],
        };
    }
}

/// Returns the bytes behind a chunked body; none, if the body is incomplete.
fn behind_chunks(mut bytes: &[u8]) -> &[u8] {
    loop {
        let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") else { return &[] };
        let size = std::str::from_utf8(&bytes[..end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.unwrap_or_else(|| panic!("no size of a chunk: {}", shown(&bytes[..end])));
        bytes = &bytes[end + 2..];
        if size == 0 {
            return match bytes {
                [b'\r', b'\n', rest @ ..] => rest,
                trailers => end_of_head(trailers).map_or(&[], |end| {
                    fields(lines(&trailers[..end]));
                    &trailers[end..]
                }),
            };
        }
        match bytes.get(size..) {
            Some([b'\r', b'\n', rest @ ..]) => bytes = rest,
            Some([] | [b'\r']) | None => return &[],
            Some(other) => panic!("a chunk that doesn't end: {}", shown(other)),
        }
    }
}
