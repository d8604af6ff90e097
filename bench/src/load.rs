//! Owns: a run of the load: warm-up, the driver's signal, the measured requests, one JSON report.
//! Invariant: every run is bounded: it sends no request after its deadline, and stops waiting shortly after.
//! Must not know: which proxy it loads, or what the proxy costs.

mod client;
mod http2;
mod response;
mod websocket;
mod wire;

use std::error::Error;
use std::io::{self, BufRead, ErrorKind, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use serde::Serialize;

use self::client::{Client, Manner, Secure};

/// How long a run waits for its last responses.
const GRACE: Duration = Duration::from_secs(5);
/// How many idle clients are on their first request at the same time.
const OPENING: usize = 16;
/// What a single client asks for before idle clients come, so that one-time costs are not counted as theirs.
const IDLE_WARM_UP: u64 = 200;
const SCRATCH: usize = 256 * 1024;

/// What clients do.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// Keep-alive; each client sends its cookie back.
    Hit,
    /// Keep-alive; no request has a cookie, so each is a new client's.
    New,
    /// A connection for each request; each client sends its cookie back.
    Connect,
    /// Each client makes one request and then keeps its connection, silent.
    Idle,
}

/// What load to make.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The proxy's address.
    #[arg(long)]
    target: SocketAddr,
    /// What clients do.
    #[arg(long, value_enum)]
    mode: Mode,
    /// What they ask for.
    #[arg(long, default_value = "/66")]
    path: String,
    /// The expected length of the body.
    #[arg(long, default_value_t = 66)]
    body: usize,
    /// How many of them there are.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// How long to send requests; idle clients make one each instead.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// How many requests to send, by new clients, instead of going on for a time.
    #[arg(long)]
    requests: Option<u64>,
    /// How long to send requests that do not count.
    #[arg(long, default_value_t = 0.3)]
    warm_up: f64,
    /// Require a cookie of the proxy, and that it is kept to.
    #[arg(long)]
    sticky: bool,
    /// Send messages of `body` bytes through WebSockets.
    #[arg(long)]
    websocket: bool,
    /// Speak TLS, and trust this certificate.
    #[arg(long, value_name = "CERTIFICATE")]
    tls: Option<PathBuf>,
    /// Shake hands in full on every connection, rather than resume a session.
    #[arg(long)]
    full: bool,
    /// How many sockets to serve between two looks at which of them are ready: few keep the proxy's own batches small.
    #[arg(long, default_value_t = 1024)]
    batch: usize,
    /// Speak HTTP/2 in TLS, with so many requests at once on each client's connection.
    #[arg(long, requires = "tls")]
    streams: Option<usize>,
}

/// What a run found; printed as one line of JSON.
#[derive(Debug, Default, Serialize)]
struct Report {
    requests: u64,
    errors: u64,
    first_error: Option<String>,
    seconds: f64,
    p50_us: f64,
    p99_us: f64,
}

/// Warms up, prints `ready`, waits for a line on standard input, runs, prints the report, and keeps its connections
/// until standard input ends, so that the driver can look at the proxy right before and right after; then prints how
/// many of them the proxy has kept.
pub(crate) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    if let (Some(streams), Some(authority)) = (args.streams, &args.tls) {
        return http2::run(args, streams, authority);
    }
    let manner = || Manner {
        target: args.target,
        path: args.path.clone(),
        body: args.body,
        returning: args.mode != Mode::New,
        connect: args.mode == Mode::Connect,
        sticky: args.sticky,
        websocket: args.websocket,
        tls: args.tls.clone().map(|authority| Secure { authority, resumes: !args.full }),
    };
    let mut load = Load::new(manner(), args.clients, args.batch)?;
    let goal = if args.mode == Mode::Idle {
        Load::new(manner(), 1, args.batch)?.drive(Goal::Each(IDLE_WARM_UP))?;
        Goal::Each(1)
    } else if let Some(requests) = args.requests {
        Goal::Each(requests.div_ceil(args.clients as u64))
    } else {
        load.drive(Goal::Time(Duration::from_secs_f64(args.warm_up)))?;
        Goal::Time(Duration::from_secs_f64(args.seconds))
    };
    let mut lines = io::stdin().lock().lines();
    print_line("ready")?;
    lines.next().transpose()?;
    print_line(&serde_json::to_string(&load.drive(goal)?)?)?;
    for line in lines {
        line?;
    }
    print_line(&load.count_connected()?.to_string())?;
    Ok(())
}

fn print_line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// When clients have done enough.
#[derive(Clone, Copy)]
enum Goal {
    Time(Duration),
    /// So many requests each, only a few clients at the same time.
    Each(u64),
}

/// The clients of a run and the one loop that moves them.
struct Load {
    poll: Poll,
    manner: Manner,
    clients: Vec<Client>,
    batch: usize,
    scratch: Vec<u8>,
}

impl Load {
    fn new(manner: Manner, clients: usize, batch: usize) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            poll: Poll::new()?,
            batch,
            clients: (0..clients).map(|index| Client::new(Token(index), &manner)).collect::<Result<_, _>>()?,
            manner,
            scratch: vec![0; SCRATCH],
        })
    }

    /// Lets the clients send requests until the goal is reached, and waits for every response.
    fn drive(&mut self, goal: Goal) -> io::Result<Report> {
        let started = Instant::now();
        let (deadline, quota, window) = match goal {
            Goal::Time(time) => (started + time, u64::MAX, self.clients.len()),
            Goal::Each(quota) => (started + 24 * GRACE, quota, OPENING),
        };
        let mut tally = Tally::default();
        let mut done = vec![0; self.clients.len()];
        let mut waiting = 0..self.clients.len();
        let mut active = 0;
        for index in waiting.by_ref().take(window) {
            active += u64::from(self.begin(index, &mut tally));
        }
        let mut events = Events::with_capacity(self.batch);
        while active > 0 && Instant::now() < deadline + GRACE {
            wait(&mut self.poll, &mut events, GRACE)?;
            for event in &events {
                let index = event.token().0;
                let client = &mut self.clients[index];
                match client.on_event(event, &self.manner, &mut self.scratch) {
                    Ok(None) => continue,
                    Ok(Some(took)) => tally.took.push(took),
                    Err(error) => {
                        tally.fail(&*error);
                        client.hang_up();
                    }
                }
                done[index] += 1;
                let next = if done[index] < quota { Some(index) } else { waiting.next() };
                let goes_on = Instant::now() < deadline && next.is_some_and(|next| self.begin(next, &mut tally));
                active -= u64::from(!goes_on);
            }
        }
        tally.errors += active;
        Ok(tally.report(started.elapsed()))
    }

    /// Whether the client has a request in flight.
    fn begin(&mut self, index: usize, tally: &mut Tally) -> bool {
        let begun = self.clients[index].begin(&self.manner, self.poll.registry());
        if let Err(error) = &begun {
            tally.fail(&**error);
            self.clients[index].hang_up();
        }
        begun.is_ok()
    }

    /// How many clients the proxy has not hung up on, now that they have been silent.
    fn count_connected(&mut self) -> io::Result<usize> {
        let mut events = Events::with_capacity(self.clients.len());
        wait(&mut self.poll, &mut events, Duration::ZERO)?;
        for event in &events {
            if event.is_read_closed() {
                self.clients[event.token().0].hang_up();
            }
        }
        Ok(self.clients.iter().filter(|client| client.is_connected()).count())
    }
}

fn wait(poll: &mut Poll, events: &mut Events, time: Duration) -> io::Result<()> {
    match poll.poll(events, Some(time)) {
        Err(error) if error.kind() != ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// What has been counted so far.
#[derive(Default)]
struct Tally {
    took: Vec<Duration>,
    errors: u64,
    first_error: Option<String>,
}

impl Tally {
    fn fail(&mut self, error: &dyn Error) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    fn report(mut self, elapsed: Duration) -> Report {
        self.took.sort_unstable();
        Report {
            requests: self.took.len() as u64,
            errors: self.errors,
            seconds: elapsed.as_secs_f64(),
            p50_us: self.quantile_us(0.50),
            p99_us: self.quantile_us(0.99),
            first_error: self.first_error,
        }
    }

    /// Of the sorted times.
    fn quantile_us(&self, quantile: f64) -> f64 {
        let rank = (quantile * self.took.len() as f64) as usize;
        let took = self.took.get(rank).or(self.took.last());
        took.map_or(0.0, |took| took.as_nanos() as f64 / 1000.0)
    }
}
