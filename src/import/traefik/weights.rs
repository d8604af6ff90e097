//! Owns: the weights of backends, from those of services and of their servers.
//! Invariant: each service keeps its share, however many servers it has.
//! Must not know: the other settings of a server.

use super::super::node::{Map, Node};

/// A load balancer that is all or part of a pool.
pub(super) struct Part<'n> {
    pub(super) path: String,
    pub(super) balancer: &'n Map,
    pub(super) weight: u64,
    pub(super) is_fallback: bool,
}

/// Returns the weight of each server, so that each part has its share; `None` if all are equal.
pub(super) fn weights(parts: &[Part<'_>], is_weighted: bool) -> Vec<Vec<Option<u64>>> {
    let own: Vec<Vec<u64>> = parts.iter().map(|part| servers_weights(part.balancer)).collect();
    let sums: Vec<u64> = own.iter().map(|weights| weights.iter().sum::<u64>().max(1)).collect();
    let multiple = if is_weighted { sums.iter().try_fold(1, |multiple, sum| lcm(multiple, *sum)) } else { None };
    let mut all: Vec<Vec<u64>> = match multiple {
        Some(multiple) => {
            let share = |weight: u64, part: &Part<'_>, sum: u64| {
                weight.saturating_mul(part.weight).saturating_mul(multiple / sum)
            };
            let parts = parts.iter().zip(&own).zip(&sums);
            parts.map(|((part, own), sum)| own.iter().map(|weight| share(*weight, part, *sum)).collect()).collect()
        }
        None => own,
    };
    let divisor = all.iter().flatten().fold(0, |divisor, weight| gcd(divisor, *weight)).max(1);
    let most = all.iter().flatten().max().copied().unwrap_or(1) / divisor;
    for weight in all.iter_mut().flatten() {
        *weight /= divisor;
        if most > 1000 && *weight > 0 {
            *weight = (u128::from(*weight) * 1000 / u128::from(most)).max(1).try_into().unwrap_or(1000);
        }
    }
    let is_plain = all.iter().flatten().all(|weight| *weight == 1);
    all.into_iter().map(|weights| weights.into_iter().map(|weight| (!is_plain).then_some(weight)).collect()).collect()
}

fn servers_weights(balancer: &Map) -> Vec<u64> {
    let weight = |server: &Node| server.map()?.take("weight")?.text()?.parse::<u64>().ok();
    let servers = balancer.all().find(|(key, ..)| key.eq_ignore_ascii_case("servers")).map(|(_, _, node)| node.list());
    servers.unwrap_or_default().iter().map(|server| weight(server).unwrap_or(1).min(1_000_000)).collect()
}

fn gcd(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { gcd(other, one % other) }
}

fn lcm(one: u64, other: u64) -> Option<u64> {
    (one / gcd(one, other).max(1)).checked_mul(other).filter(|lcm| *lcm <= 1_000_000_000)
}
