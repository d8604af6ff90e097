//! Owns: DNS queries.
//! Invariant: every query has a time limit; a failed query is never taken for an answer without records.
//! Must not know: what becomes of the answers, or when to query again.

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

/// The time limit of one attempt; each query has two attempts.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// The time limit of all the queries of one look together.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);
/// The time to live of an answer without records, in seconds, if the answer has none (RFC 2308).
const NEGATIVE_TTL: u32 = 5;
/// The number of SRV records that are looked into at most.
const MAX_TARGETS: usize = 10_000;

/// Queries one name, again and again.
pub(super) struct DnsQuerier<'a> {
    dns: &'a Dns,
    pool: &'a str,
    /// Rebuilt after a failure, since the system's settings may have changed by then; and after a look that used TCP,
    /// see [`Sockets`].
    resolver: Option<Resolver<Sockets>>,
    sockets: Sockets,
    /// The addresses of the hosts that SRV records name.
    targets: Targets,
}

impl<'a> DnsQuerier<'a> {
    pub(super) fn new(dns: &'a Dns, pool: &'a str) -> DnsQuerier<'a> {
        DnsQuerier { dns, pool, resolver: None, sockets: Sockets::default(), targets: Targets::default() }
    }

    /// Queries the name once, and all targets whose addresses are not known.
    pub(super) async fn query(&mut self) -> LookupResult {
        let answer = match self.resolver() {
            Ok(resolver) => timeout(LOOK_TIMEOUT, look_up(&resolver, self.dns, self.pool, &mut self.targets)).await,
            Err(error) => Ok(Err(format!("no resolver: {error}"))),
        };
        if self.sockets.has_connected.swap(false, Ordering::Relaxed) {
            self.resolver = None;
        }
        match answer {
            Ok(Ok(result)) => result,
            Ok(Err(why)) => self.failed(why),
            Err(_) => self.failed(reason::DNS_TIMED_OUT.into()),
        }
    }

    fn failed(&mut self, why: String) -> LookupResult {
        self.resolver = None;
        LookupResult::Failed(why)
    }

    /// Returns a clone of the resolver, which is cheap, and builds one if there is none.
    fn resolver(&mut self) -> Result<Resolver<Sockets>, NetError> {
        let resolver = match &self.resolver {
            Some(resolver) => resolver.clone(),
            None => build(self.dns, self.sockets.clone())?,
        };
        Ok(self.resolver.insert(resolver).clone())
    }
}

/// The sockets of a resolver. It keeps a TCP connection and may prefer it from then on. But the server at the other end
/// may go on answering with what it knew when the connection was made, as a child of dnsmasq does, or serve no other
/// client meanwhile. So no connection outlives a look: this records that there was one.
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
        options.timeout = QUERY_TIMEOUT;
        options.attempts = 2;
        // The caller knows how long an answer holds; a cached one would look younger than it is.
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

async fn look_up(
    resolver: &Resolver<Sockets>,
    dns: &Dns,
    pool: &str,
    targets: &mut Targets,
) -> Result<LookupResult, String> {
    let name = dns.name.as_str();
    let (found, ttl) = match dns.records {
        Records::A => backends_at(dns, pool, addresses(resolver, name, RecordType::A).await?),
        Records::Aaaa => backends_at(dns, pool, addresses(resolver, name, RecordType::AAAA).await?),
        Records::Both => {
            let mut both = addresses(resolver, name, RecordType::A).await?;
            let more = addresses(resolver, name, RecordType::AAAA).await?;
            if !more.ips.is_empty() {
                both.ttl = if both.ips.is_empty() { more.ttl } else { both.ttl.min(more.ttl) };
                both.ips.extend(more.ips);
            }
            backends_at(dns, pool, both)
        }
        Records::Srv => services(resolver, dns, targets).await?,
    };
    Ok(LookupResult::Answer(found, Duration::from_secs(ttl.into())))
}

fn backends_at(dns: &Dns, pool: &str, addresses: Addresses) -> (Vec<DiscoveredBackend>, u32) {
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

/// Queries SRV records and the addresses of their targets. A target without addresses, or an unknown one, is no
/// backend; a target whose query fails makes the whole look fail.
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
    let records: Vec<_> = records.take(MAX_TARGETS).collect();
    let hosts: Vec<_> = records.iter().map(|(_, target)| target.clone()).collect();
    let resolver = resolver.clone();
    targets.resolve(&hosts, |host| addresses_of_target(resolver.clone(), host)).await?;
    let mut services = Vec::new();
    for (srv, target) in records {
        let Addresses { ips: addresses, ttl: holds } = targets.get(&target);
        if !addresses.is_empty() {
            ttl = ttl.min(holds);
        }
        services.push(SrvRecord { priority: srv.priority, weight: srv.weight, port: srv.port, target, addresses });
    }
    Ok((answer::from_srv_records(dns, &services), ttl))
}

/// Queries the addresses of a target: the IPv4 addresses if it has any, or else those of IPv6.
async fn addresses_of_target(resolver: Resolver<Sockets>, target: String) -> Result<Addresses, String> {
    let mut negative_ttl = NEGATIVE_TTL;
    for kind in [RecordType::A, RecordType::AAAA] {
        match records(&resolver, &target, kind).await {
            Ok((found, ttl)) if !found.is_empty() => {
                return Ok(Addresses { ips: found.iter().filter_map(RData::ip_addr).collect(), ttl });
            }
            Ok((_, ttl)) => negative_ttl = negative_ttl.min(ttl),
            Err(error) if error.is_nx_domain() => break,
            Err(error) => return Err(format!("{target}: {}", reason::of_dns(&error))),
        }
    }
    Ok(Addresses { ips: Vec::new(), ttl: negative_ttl })
}

/// Queries the records of one type, and returns their time to live in seconds. A name without records of that type has
/// an empty answer; a name that does not exist (NXDOMAIN) is an error.
async fn records(resolver: &Resolver<Sockets>, name: &str, kind: RecordType) -> Result<(Vec<RData>, u32), NetError> {
    match resolver.lookup(name, kind).await {
        Ok(lookup) => {
            let ttl = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or(NEGATIVE_TTL);
            let data = lookup.answers().iter().map(|record| record.data.clone());
            Ok((data.filter(|data| data.record_type() == kind).collect(), ttl))
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) if none.response_code == ResponseCode::NoError => {
            Ok((Vec::new(), none.negative_ttl.unwrap_or(NEGATIVE_TTL)))
        }
        Err(error) => Err(error),
    }
}
