//! Owns: the plan of a rebalance: how many sessions move from which backend to which one, and the budget for that.
//! Invariant: pure; no backend gives below the mean or takes above it (rounded up); no minute exceeds the budget.
//! Must not know: which sessions move; clocks, threads, or what carries the plan out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// `[pools.rebalance]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The most sessions that move in a minute.
    pub sessions_per_minute: u32,
    /// The load that a backend may have, in percent of the mean, 100 or more; as far below the mean, it gets sessions.
    pub factor: u32,
    /// For how long a session must be idle to be moved.
    pub idle: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { sessions_per_minute: 60, factor: 125, idle: Duration::from_secs(30) }
    }
}

/// What the plan needs to know of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Its sessions.
    pub sessions: u64,
    /// Its share of the pool's sessions, in any unit; 0 if it takes no part: it neither gives nor takes.
    pub weight: u64,
    /// How many more sessions it accepts.
    pub room: u64,
}

/// Sessions to move, by positions in the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// The backend that they leave.
    pub from: usize,
    /// The backend that gets them.
    pub to: usize,
    /// How many.
    pub sessions: u64,
}

/// Plans at most `budget` moves, from the fullest backends to the emptiest, until each has between 1 / `factor` and
/// `factor`, in percent, of its part of the sessions.
pub fn plan(loads: &[Load], factor: u32, budget: u64) -> Vec<Transfer> {
    let part = Part::of(loads, factor);
    let mut members: Vec<_> = loads.iter().enumerate().filter(|(_, load)| load.weight > 0).collect();
    // By sessions / weight, multiplied out.
    let product = |one: &Load, other: &Load| u128::from(one.sessions) * u128::from(other.weight);
    members.sort_by(|(_, a), (_, b)| product(b, a).cmp(&product(a, b)));
    let mut sessions: Vec<_> = loads.iter().map(|load| load.sessions).collect();
    let (mut left, mut transfers) = (budget, Vec::<Transfer>::new());
    let mut shift = |may_give: &dyn Fn(&Load) -> u64, may_take: &dyn Fn(&Load) -> u64| {
        let mut takers = members.iter().rev().peekable();
        for (from, giver) in &members {
            while left > 0
                && let Some((to, taker)) = takers.peek()
            {
                let spare = sessions[*from].saturating_sub(may_give(giver));
                let room = may_take(taker).min(taker.sessions.saturating_add(taker.room)).saturating_sub(sessions[*to]);
                let moved = spare.min(room).min(left);
                sessions[*from] -= moved;
                sessions[*to] += moved;
                left -= moved;
                if moved > 0 {
                    transfers.push(Transfer { from: *from, to: *to, sessions: moved });
                }
                if moved == spare {
                    break;
                }
                takers.next();
            }
        }
    };
    shift(&|load| part.most(load), &|load| part.mean(load));
    shift(&|load| part.mean(load), &|load| part.least(load));
    transfers
}

/// The part of the pool's sessions that each backend should have.
struct Part {
    sessions: u128,
    weights: u128,
    factor: u128,
}

impl Part {
    fn of(loads: &[Load], factor: u32) -> Part {
        let taking_part = || loads.iter().filter(|load| load.weight > 0);
        Part {
            sessions: taking_part().map(|load| u128::from(load.sessions)).sum(),
            weights: taking_part().map(|load| u128::from(load.weight)).sum::<u128>().max(1),
            factor: u128::from(factor.max(100)),
        }
    }

    /// Returns the mean for a backend, rounded up.
    fn mean(&self, load: &Load) -> u64 {
        narrow((self.sessions * u128::from(load.weight)).div_ceil(self.weights))
    }

    /// Returns the most that a backend may keep.
    fn most(&self, load: &Load) -> u64 {
        narrow(self.sessions * u128::from(load.weight) * self.factor / (self.weights * 100)).max(self.mean(load))
    }

    /// Returns the least that a backend should have.
    fn least(&self, load: &Load) -> u64 {
        narrow(self.sessions * u128::from(load.weight) * 100 / (self.weights * self.factor))
    }
}

/// Narrows a number of sessions, which is no more than all sessions times a factor.
fn narrow(sessions: u128) -> u64 {
    u64::try_from(sessions).unwrap_or(u64::MAX)
}

/// How many sessions may move now, so that no minute has more moves than it may.
#[derive(Debug, Default)]
pub struct Budget {
    /// When how many sessions moved, in the order of time.
    spent: VecDeque<(Instant, u64)>,
}

impl Budget {
    const WINDOW: Duration = Duration::from_secs(60);

    /// Returns how many sessions may move in the second that begins at `now`: a sixtieth of the minute's, unless so many
    /// have moved in the last minute.
    pub fn allowance(&mut self, now: Instant, sessions_per_minute: u32) -> u64 {
        while self.spent.pop_front_if(|(at, _)| now.saturating_duration_since(*at) >= Self::WINDOW).is_some() {}
        let spent: u64 = self.spent.iter().map(|(_, sessions)| sessions).sum();
        let per_second = u64::from(sessions_per_minute.div_ceil(60));
        u64::from(sessions_per_minute).saturating_sub(spent).min(per_second)
    }

    /// Records that sessions have moved, by `now`.
    pub fn spend(&mut self, now: Instant, sessions: u64) {
        if sessions > 0 {
            self.spent.push_back((now, sessions));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn loads(sessions: &[u64]) -> Vec<Load> {
        sessions.iter().map(|sessions| Load { sessions: *sessions, weight: 1, room: u64::MAX }).collect()
    }

    fn after(loads: &[Load], transfers: &[Transfer]) -> Vec<Load> {
        let mut after = loads.to_vec();
        for Transfer { from, to, sessions } in transfers {
            after[*from].sessions -= sessions;
            after[*to].sessions += sessions;
        }
        after
    }

    #[test]
    fn sessions_go_from_the_fullest_to_the_emptiest_until_all_are_within_the_factor() {
        let loads = loads(&[400, 300, 100, 0]);
        let transfers = plan(&loads, 125, 1000);
        // 200 each; up to 250 may stay, and 160 are enough.
        let expected = [(0, 3, 150), (1, 3, 50), (0, 2, 50), (1, 2, 10)];
        assert_eq!(transfers, expected.map(|(from, to, sessions)| Transfer { from, to, sessions }));
        assert_eq!(plan(&after(&loads, &transfers), 125, 1000), []);
        assert_eq!(plan(&loads, 125, 7), [Transfer { from: 0, to: 3, sessions: 7 }], "the budget");
    }

    #[test]
    fn weights_count_and_backends_of_weight_0_take_no_part() {
        let all = [(600, 3, u64::MAX), (600, 1, u64::MAX), (500, 0, u64::MAX), (0, 2, 50)];
        let loads = all.map(|(sessions, weight, room)| Load { sessions, weight, room });
        // A mean of 200 for each unit of weight.
        assert_eq!(plan(&loads, 100, 1000), [Transfer { from: 1, to: 3, sessions: 50 }]);
    }

    #[test]
    fn a_pool_that_is_even_or_empty_is_left_alone() {
        for sessions in [&[][..], &[0], &[0, 0], &[5, 5], &[1, 0], &[1, 1, 0], &[125, 95, 80]] {
            assert_eq!(plan(&loads(sessions), 125, 1000), [], "{sessions:?}");
        }
    }

    #[test]
    fn a_budget_is_spread_over_its_minute_and_renewed_as_the_minute_passes() {
        let (mut budget, begun) = (Budget::default(), Instant::now());
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        for second in 0..30 {
            assert_eq!(budget.allowance(at(second), 30), 1);
            budget.spend(at(second), 1);
        }
        assert_eq!((budget.allowance(at(59), 30), budget.allowance(at(60), 30)), (0, 1));
        assert_eq!(budget.allowance(at(600), 6000), 100);
    }

    fn load() -> impl Strategy<Value = Load> {
        (0u64..2_000, 0u64..5, prop_oneof![Just(u64::MAX), 0u64..100]).prop_map(|(sessions, weight, room)| Load {
            sessions,
            weight,
            room,
        })
    }

    proptest! {
        #[test]
        fn no_plan_overshoots_exceeds_its_budget_or_moves_what_takes_no_part(
            loads in prop::collection::vec(load(), 0..8), factor in 100u32..300, budget in 0u64..3_000
        ) {
            let transfers = plan(&loads, factor, budget);
            prop_assert!(transfers.iter().map(|transfer| transfer.sessions).sum::<u64>() <= budget);
            let after = after(&loads, &transfers);
            let weights: u64 = loads.iter().map(|load| load.weight).sum();
            let sessions: u64 = loads.iter().filter(|load| load.weight > 0).map(|load| load.sessions).sum();
            for (before, after) in loads.iter().zip(&after) {
                let mean = (sessions * after.weight).div_ceil(weights.max(1));
                prop_assert!(after.sessions >= before.sessions.min(mean), "it gives too much: {:?}", transfers);
                prop_assert!(after.sessions <= before.sessions.max(mean), "it takes too much: {:?}", transfers);
                prop_assert!(after.sessions <= before.sessions.saturating_add(before.room));
                prop_assert!(after.weight > 0 || after.sessions == before.sessions);
            }
            prop_assert!(transfers.iter().all(|transfer| transfer.from != transfer.to && transfer.sessions > 0));
        }

        #[test]
        fn plans_that_follow_each_other_end_with_all_loads_within_the_factor(
            sessions in prop::collection::vec(0u64..2_000, 1..8), factor in 100u32..300, budget in 1u64..500
        ) {
            let mut loads = loads(&sessions);
            let mut rounds = 0;
            loop {
                let transfers = plan(&loads, factor, budget);
                if transfers.is_empty() {
                    break;
                }
                loads = after(&loads, &transfers);
                rounds += 1;
                prop_assert!(rounds <= 1 + sessions.iter().sum::<u64>() / budget, "it never ends");
            }
            let total: u64 = sessions.iter().sum();
            let count = sessions.len() as u64;
            let most = (total * u64::from(factor) / (count * 100)).max(total.div_ceil(count));
            prop_assert!(loads.iter().all(|load| load.sessions <= most), "{:?}", loads);
            let least = total * 100 / (count * u64::from(factor));
            let can_give = loads.iter().any(|load| load.sessions > total.div_ceil(count));
            prop_assert!(!can_give || loads.iter().all(|load| load.sessions >= least), "{:?}", loads);
        }

        #[test]
        fn no_minute_has_more_moves_than_the_budget(
            rate in 1u32..500, seconds in prop::collection::vec((1u64..20, any::<bool>()), 1..200)
        ) {
            let (mut budget, mut now, mut moves) = (Budget::default(), Instant::now(), Vec::new());
            for (step, uses_all) in seconds {
                now += Duration::from_secs(step);
                let allowed = budget.allowance(now, rate);
                let moved = if uses_all { allowed } else { allowed / 2 };
                budget.spend(now, moved);
                moves.push((now, moved));
                let of_minute = moves.iter().filter(|(at, _)| now.duration_since(*at) < Budget::WINDOW);
                prop_assert!(of_minute.map(|(_, moved)| moved).sum::<u64>() <= u64::from(rate));
            }
        }
    }
}
