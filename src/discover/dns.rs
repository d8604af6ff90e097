//! Owns: asking the DNS.
//! Invariant: every question has its time; no answer at all is told from an answer that there is nothing.
//! Must not know: what is made of the answers; when to ask again.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hickory_resolver::Resolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::{RuntimeProvider, TokioRuntimeProvider};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::time::timeout;

use super::answer::{self, SrvRecord};
use super::backend::DiscoveredBackend;
use super::settings::{Dns, Records};
use super::targets::{Addresses, Targets};
use super::trust::LookupResult;
use crate::reason;

/// How long a server may take to answer; each question is put twice.
const ONE: Duration = Duration::from_secs(2);
/// How long all the questions of one look may take together.
const ALL: Duration = Duration::from_secs(30);
/// For how long it holds that there is nothing, if nobody says.
const NOTHING: u32 = 5;
/// Targets of services that are asked for at most.
const MOST_TARGETS: usize = 10_000;

/// Asks for one name, again and again.
pub(super) struct DnsQuerier<'a> {
    dns: &'a Dns,
    pool: &'a str,
    /// Made anew after a failure: the system's settings may have changed by then. And after a look for which
    /// it has connected, see [`Sockets`].
    resolver: Option<Resolver<Sockets>>,
    sockets: Sockets,
    /// The hosts of services.
    targets: Targets,
}

impl<'a> DnsQuerier<'a> {
    pub(super) fn new(dns: &'a Dns, pool: &'a str) -> DnsQuerier<'a> {
        DnsQuerier { dns, pool, resolver: None, sockets: Sockets::default(), targets: Targets::default() }
    }

    /// One look.
    pub(super) async fn query(&mut self) -> LookupResult {
        let answer = match self.resolver() {
            Ok(resolver) => timeout(ALL, find(&resolver, self.dns, self.pool, &mut self.targets)).await,
            Err(error) => Ok(Err(format!("no resolver: {error}"))),
        };
        if self.sockets.has_connected.swap(false, Ordering::Relaxed) {
            self.resolver = None;
        }
        match answer {
            Ok(Ok(result)) => result,
            Ok(Err(why)) => self.failed(why),
            Err(_) => self.failed("no answer in time".into()),
        }
    }

    fn failed(&mut self, why: String) -> LookupResult {
        self.resolver = None;
        LookupResult::Failed(why)
    }

    /// It is cheap to clone.
    fn resolver(&mut self) -> Result<Resolver<Sockets>, NetError> {
        let resolver = match &self.resolver {
            Some(resolver) => resolver.clone(),
            None => build(self.dns, self.sockets.clone())?,
        };
        Ok(self.resolver.insert(resolver).clone())
    }
}

/// What a resolver asks through. It keeps a connection over TCP and may prefer it from then on; but who is at
/// the other end may go on answering with what it knew when the connection was made, as a child of dnsmasq does,
/// or see to nobody else meanwhile. So none outlives a look.
#[derive(Clone, Default)]
struct Sockets {
    tokio: TokioRuntimeProvider,
    has_connected: Arc<AtomicBool>,
}

impl RuntimeProvider for Sockets {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = <TokioRuntimeProvider as RuntimeProvider>::Timer;
    type Udp = <TokioRuntimeProvider as RuntimeProvider>::Udp;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        self.tokio.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        local: Option<SocketAddr>,
        limit: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Tcp>>>> {
        self.has_connected.store(true, Ordering::Relaxed);
        self.tokio.connect_tcp(server, local, limit)
    }

    fn bind_udp(
        &self,
        local: SocketAddr,
        server: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Udp>>>> {
        self.tokio.bind_udp(local, server)
    }
}

fn build(dns: &Dns, sockets: Sockets) -> Result<Resolver<Sockets>, NetError> {
    let options = |options: &mut ResolverOpts| {
        options.timeout = ONE;
        options.attempts = 2;
        // Whether an answer still holds is known here; one from a cache would look younger than it is.
        options.cache_size = 0;
        options.num_concurrent_reqs = 1;
    };
    if dns.resolvers.is_empty() {
        let mut builder = Resolver::builder(sockets)?;
        options(builder.options_mut());
        return builder.build();
    }
    let server = |address: &std::net::SocketAddr| {
        let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
        (udp.port, tcp.port) = (address.port(), address.port());
        NameServerConfig::new(address.ip(), true, vec![udp, tcp])
    };
    let servers = dns.resolvers.iter().map(server).collect();
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut builder = Resolver::builder_with_config(config, sockets);
    options(builder.options_mut());
    builder.options_mut().use_hosts_file = ResolveHosts::Never;
    builder.build()
}

async fn find(
    resolver: &Resolver<Sockets>,
    dns: &Dns,
    pool: &str,
    targets: &mut Targets,
) -> Result<LookupResult, String> {
    let name = dns.name.as_str();
    let (found, ttl) = match dns.records {
        Records::A => of(dns, pool, addresses(resolver, name, RecordType::A).await?),
        Records::Aaaa => of(dns, pool, addresses(resolver, name, RecordType::AAAA).await?),
        Records::Both => {
            let mut both = addresses(resolver, name, RecordType::A).await?;
            let more = addresses(resolver, name, RecordType::AAAA).await?;
            if !more.ips.is_empty() {
                both.ttl = if both.ips.is_empty() { more.ttl } else { both.ttl.min(more.ttl) };
                both.ips.extend(more.ips);
            }
            of(dns, pool, both)
        }
        Records::Srv => services(resolver, dns, targets).await?,
    };
    Ok(LookupResult::Answer(found, Duration::from_secs(ttl.into())))
}

fn of(dns: &Dns, pool: &str, addresses: Addresses) -> (Vec<DiscoveredBackend>, u32) {
    (answer::from_addresses(dns, pool, &addresses.ips), addresses.ttl)
}

async fn addresses(resolver: &Resolver<Sockets>, name: &str, kind: RecordType) -> Result<Addresses, String> {
    let (records, ttl) = records(resolver, name, kind).await.map_err(|error| reason::of_dns(&error))?;
    let ip = |data: &RData| match data {
        RData::A(ip) => Some(IpAddr::from(ip.0)),
        RData::AAAA(ip) => Some(IpAddr::from(ip.0)),
        _ => None,
    };
    Ok(Addresses { ips: records.iter().filter_map(ip).collect(), ttl })
}

/// The services, each with the addresses of its target. A target that has none, or is unknown, is no
/// backend; one that can't be asked for leaves the whole answer undecided.
async fn services(
    resolver: &Resolver<Sockets>,
    dns: &Dns,
    targets: &mut Targets,
) -> Result<(Vec<DiscoveredBackend>, u32), String> {
    let (records, mut ttl) =
        records(resolver, &dns.name, RecordType::SRV).await.map_err(|error| reason::of_dns(&error))?;
    let records = records.iter().filter_map(|record| match record {
        RData::SRV(srv) if !srv.target.is_root() => Some((srv, srv.target.to_string())),
        _ => None,
    });
    let records: Vec<_> = records.take(MOST_TARGETS).collect();
    let hosts: Vec<_> = records.iter().map(|(_, target)| target.clone()).collect();
    let resolver = resolver.clone();
    targets.learn(&hosts, |host| addresses_of_target(resolver.clone(), host)).await?;
    let mut services = Vec::new();
    for (srv, target) in records {
        let Addresses { ips: addresses, ttl: holds } = targets.of(&target);
        if !addresses.is_empty() {
            ttl = ttl.min(holds);
        }
        services.push(SrvRecord { priority: srv.priority, weight: srv.weight, port: srv.port, target, addresses });
    }
    Ok((answer::from_srv_records(dns, &services), ttl))
}

/// Of a host that has addresses of both kinds, those of IPv4.
async fn addresses_of_target(resolver: Resolver<Sockets>, target: String) -> Result<Addresses, String> {
    let mut nothing = NOTHING;
    for kind in [RecordType::A, RecordType::AAAA] {
        match records(&resolver, &target, kind).await {
            Ok((found, ttl)) if !found.is_empty() => {
                return Ok(Addresses { ips: found.iter().filter_map(RData::ip_addr).collect(), ttl });
            }
            Ok((_, ttl)) => nothing = nothing.min(ttl),
            Err(error) if error.is_nx_domain() => break,
            Err(error) => return Err(format!("{target}: {}", reason::of_dns(&error))),
        }
    }
    Ok(Addresses { ips: Vec::new(), ttl: nothing })
}

/// The records of one kind, and for how many seconds they hold. None, where the name has none of
/// that kind; that there is no such name is an error.
async fn records(resolver: &Resolver<Sockets>, name: &str, kind: RecordType) -> Result<(Vec<RData>, u32), NetError> {
    match resolver.lookup(name, kind).await {
        Ok(lookup) => {
            let ttl = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or(NOTHING);
            let data = lookup.answers().iter().map(|record| record.data.clone());
            Ok((data.filter(|data| data.record_type() == kind).collect(), ttl))
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) if none.response_code == ResponseCode::NoError => {
            Ok((Vec::new(), none.negative_ttl.unwrap_or(NOTHING)))
        }
        Err(error) => Err(error),
    }
}
