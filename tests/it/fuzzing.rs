//! The checks of the fuzz targets, without a fuzzer: on their seeds, which contain each past finding, on mutations of
//! those, and on random input.

#[path = "../../fuzz/properties/between.rs"]
mod between;
#[path = "../../fuzz/properties/client.rs"]
mod client;
#[path = "../../fuzz/properties/config.rs"]
mod config;
#[path = "../../fuzz/properties/cookie.rs"]
mod cookie;
#[path = "../../fuzz/properties/copy_answer.rs"]
mod copy_answer;
#[path = "../../fuzz/properties/copy_fields.rs"]
mod copy_fields;
#[path = "../../fuzz/properties/forwarded.rs"]
mod forwarded;
#[path = "../../fuzz/properties/haproxy.rs"]
mod haproxy;
#[path = "../../fuzz/properties/imported.rs"]
mod imported;
#[path = "../../fuzz/properties/learned.rs"]
mod learned;
#[path = "../../fuzz/properties/nginx.rs"]
mod nginx;
#[path = "../../fuzz/properties/proxy_header.rs"]
mod proxy_header;
#[path = "../../fuzz/properties/response.rs"]
mod response;
#[path = "../../fuzz/properties/seal.rs"]
mod seal;
#[path = "../../fuzz/properties/target.rs"]
mod target;
#[path = "../../fuzz/properties/traefik.rs"]
mod traefik;

use std::fs;

use proptest::prelude::*;
use proptest::sample::Index;

use super::support::repository::{files, path};

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let seeds: Vec<_> =
        files(&format!("fuzz/seeds/{target}")).iter().map(|file| fs::read(path(file)).unwrap()).collect();
    assert!(!seeds.is_empty());
    seeds
}

/// A seed in which a piece is replaced by a piece of another seed, or by any bytes.
fn mutated(target: &str) -> impl Strategy<Value = Vec<u8>> {
    let seeds = seeds(target);
    let piece = prop_oneof![
        (prop::sample::select(seeds.clone()), any::<Index>(), 0..40_usize).prop_map(|(seed, at, length)| {
            let at = at.index(seed.len());
            seed[at..(at + length).min(seed.len())].to_vec()
        }),
        prop::collection::vec(any::<u8>(), 0..10),
    ];
    (prop::sample::select(seeds), any::<Index>(), 0..20_usize, piece).prop_map(|(mut seed, at, length, piece)| {
        let at = at.index(seed.len());
        let end = (at + length).min(seed.len());
        seed.splice(at..end, piece);
        seed
    })
}

type Property = fn(&[u8]);

const ALL: [(&str, Property); 14] = [
    ("client", client::holds),
    ("config", config::holds),
    ("cookie", cookie::holds),
    ("copy_answer", copy_answer::holds),
    ("copy_fields", copy_fields::holds),
    ("forwarded", forwarded::holds),
    ("haproxy", haproxy::holds),
    ("learned", learned::holds),
    ("nginx", nginx::holds),
    ("proxy_header", proxy_header::holds),
    ("response", response::holds),
    ("seal", seal::holds),
    ("target", target::holds),
    ("traefik", traefik::holds),
];

#[test]
fn every_seed_passes() {
    for (target, holds) in ALL {
        seeds(target).iter().for_each(|seed| holds(seed));
    }
}

#[test]
fn every_target_is_fuzzed_and_checked_here() {
    let names: Vec<_> = ALL.iter().map(|(target, _)| format!("fuzz/targets/{target}.rs")).collect();
    let mut targets: Vec<_> = files("fuzz/targets").into_iter().collect();
    targets.sort();
    assert_eq!(targets, names);
}

proptest! {
    #[test]
    fn tokens_that_nobody_sealed_do_not_open(seed in mutated("seal"), chance in prop::collection::vec(any::<u8>(), 0..300)) {
        seal::holds(&seed);
        seal::holds(&chance);
    }

    #[test]
    fn the_http_1_1_client_reads_of_a_response_what_hypers_client_reads_or_refuses_it(
        seed in mutated("client"), other in mutated("response"), chance in "HTTP/1\\.[01] 200 X\r\n([a-c]: ?[^a]{0,5}\r?\n){0,3}\r?\n.{0,9}"
    ) {
        client::holds(&seed);
        client::holds(&other);
        client::holds(chance.as_bytes());
    }

    #[test]
    fn the_routing_cookie_goes_and_all_others_stay(seed in mutated("cookie"), chance in "[ab@$=; \"\n]{0,40}") {
        cookie::holds(&seed);
        cookie::holds(chance.as_bytes());
    }

    #[test]
    fn a_configuration_is_a_plan_or_errors_in_their_places(seed in mutated("config")) {
        config::holds(&seed);
    }

    #[test]
    fn session_ids_are_learned_from_responses_alone(seed in mutated("learned")) {
        learned::holds(&seed);
    }

    #[test]
    fn what_is_imported_is_refused_or_becomes_a_file_that_says_what_was_lost(
        of_haproxy in mutated("haproxy"), of_nginx in mutated("nginx"), of_traefik in mutated("traefik")
    ) {
        haproxy::holds(&of_haproxy);
        nginx::holds(&of_nginx);
        traefik::holds(&of_traefik);
    }

    #[test]
    fn a_client_gets_a_response_whatever_its_backend_sends(seed in mutated("response")) {
        response::holds(&seed);
    }

    #[test]
    fn what_a_backend_says_of_its_session_is_read_as_it_stands(
        seed in mutated("copy_fields"), chance in "([01]|[sdwv](:[a-zA-Z0-9+/]{0,40}={0,2}:|\\?[01])(;(term|seq|ttl)=[0-9]{1,2}){0,3}|)(\n){1,2}"
    ) {
        copy_fields::holds(&seed);
        copy_fields::holds(chance.as_bytes());
    }

    #[test]
    fn whatever_a_backend_answers_to_a_copy_the_client_gets_a_response(seed in mutated("copy_answer")) {
        copy_answer::holds(&seed);
    }

    #[test]
    fn a_target_is_proper_or_refused(seed in mutated("target")) {
        target::holds(&seed);
    }

    #[test]
    fn the_peer_address_is_the_last_hop_of_a_chain_of_proxies(seed in mutated("forwarded")) {
        forwarded::holds(&seed);
    }

    #[test]
    fn no_connection_is_served_without_a_required_proxy_header(seed in mutated("proxy_header")) {
        proxy_header::holds(&seed);
    }
}
