//! What the fuzz targets check, without a fuzzer: on their seeds, which hold what they ever found, on mutations of
//! those, and on chance.

#[path = "../../fuzz/properties/config.rs"]
mod config;
#[path = "../../fuzz/properties/cookie.rs"]
mod cookie;
#[path = "../../fuzz/properties/seal.rs"]
mod seal;

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

/// A seed with a piece of it replaced by one of another's, or by any bytes.
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

#[test]
fn every_seed_holds() {
    seeds("seal").iter().for_each(|seed| seal::holds(seed));
    seeds("cookie").iter().for_each(|seed| cookie::holds(seed));
    seeds("config").iter().for_each(|seed| config::holds(seed));
}

proptest! {
    #[test]
    fn tokens_that_nobody_sealed_do_not_open(seed in mutated("seal"), chance in prop::collection::vec(any::<u8>(), 0..300)) {
        seal::holds(&seed);
        seal::holds(&chance);
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
}
