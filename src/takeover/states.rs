//! Owns: how far a takeover has come on each side, and what a side does at each event.
//! Invariant: pure; from the first message to the last, at least one of two living processes accepts connections.
//! Must not know: sockets, messages' contents, time.

/// How far the old process has come with one successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldState {
    /// It sends its sockets and its state, and goes on as ever.
    Offering,
    /// The new process may accept connections. Both may do so from now on.
    Committed,
    /// It accepts no more connections, and would do so again if the new process failed early.
    Paused,
    /// It accepts no more connections, and ends once those that it has end.
    Leaving,
    /// The successor is gone, or was refused: this process accepts connections.
    Alone,
}

/// What happens to the old process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldEvent {
    /// The new process has built everything.
    Prepared,
    /// It accepts connections.
    Accepting,
    /// It has served for long enough to be trusted with everything.
    Settled,
    /// The connection to it has ended, or it gave up.
    Lost,
    /// It was asked to stop, and serves what has begun.
    Ending,
    /// This process was asked to stop.
    Stopping,
}

/// What the old process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldAction {
    /// Nothing.
    Nothing,
    /// Allow the new process to accept connections.
    Commit,
    /// Stop accepting connections, and keep the sockets.
    Pause,
    /// Accept connections again.
    Resume,
    /// Leave the sockets to the new process as they are.
    Leave,
    /// Stop as the new process does: serve who waits at the sockets, and close them.
    Stop,
    /// Tell the new process that it gets nothing.
    Refuse,
    /// Forget the new process.
    Forget,
}

impl OldState {
    /// Takes in an event; returns what to do.
    pub fn next(&mut self, event: OldEvent) -> OldAction {
        let (state, action) = match (*self, event) {
            (OldState::Offering, OldEvent::Prepared) => (OldState::Committed, OldAction::Commit),
            (OldState::Committed, OldEvent::Accepting) => (OldState::Paused, OldAction::Pause),
            (OldState::Paused, OldEvent::Settled) => (OldState::Leaving, OldAction::Leave),
            (OldState::Paused, OldEvent::Lost) => (OldState::Alone, OldAction::Resume),
            // Both have the sockets: the one that closes them last must have emptied their queues.
            (OldState::Paused, OldEvent::Ending) => (OldState::Alone, OldAction::Stop),
            (OldState::Leaving, OldEvent::Ending) => (OldState::Leaving, OldAction::Stop),
            (state @ OldState::Paused, OldEvent::Stopping | OldEvent::Prepared | OldEvent::Accepting) => {
                (state, OldAction::Nothing)
            }
            // Until the new process is there, its end changes nothing.
            (OldState::Offering | OldState::Committed, OldEvent::Lost) => (OldState::Alone, OldAction::Forget),
            (OldState::Offering, OldEvent::Stopping) => (OldState::Alone, OldAction::Refuse),
            // Once it was allowed to accept connections, this process waits for it or for its end.
            (state @ OldState::Committed, OldEvent::Stopping) => (state, OldAction::Nothing),
            (state @ (OldState::Leaving | OldState::Alone), _) => (state, OldAction::Nothing),
            // A message that does not fit: this process no longer understands the other one.
            (OldState::Offering, OldEvent::Accepting | OldEvent::Settled | OldEvent::Ending)
            | (OldState::Committed, OldEvent::Prepared | OldEvent::Settled | OldEvent::Ending) => {
                (OldState::Alone, OldAction::Forget)
            }
        };
        *self = state;
        action
    }

    /// Returns whether the old process accepts connections.
    pub fn accepts(self) -> bool {
        !matches!(self, OldState::Paused | OldState::Leaving)
    }
}

/// How far the new process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewState {
    /// It receives sockets and state, and builds its parts.
    Receiving,
    /// The old process has ended before it had sent everything: this one accepts connections once it has built its parts.
    Orphaned,
    /// It has told the old process that it is prepared.
    Prepared,
    /// It accepts connections, and the old process would do so again if this one failed.
    Accepting,
    /// It accepts connections, and has the sockets for itself.
    Settled,
    /// It ends, and leaves everything to the old process.
    GivenUp,
}

/// What happens to the new process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewEvent {
    /// It has built everything, and has all that was sent.
    Built,
    /// The old process allows it to accept connections.
    Committed,
    /// The old process refuses.
    Refused,
    /// This process has served for long enough.
    Proven,
    /// This process can no longer serve all its clients.
    Failed,
    /// The connection to the old process has ended.
    Lost,
}

/// What the new process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewAction {
    /// Nothing.
    Nothing,
    /// Say that it is prepared.
    Prepare,
    /// Accept connections, and say so.
    Accept,
    /// Accept connections: nobody else does.
    AcceptAlone,
    /// Say that this process keeps what it has.
    Settle,
    /// Give everything back to the old process, and end.
    GiveBack,
    /// End.
    GiveUp,
}

impl NewState {
    /// Takes in an event; returns what to do.
    pub fn next(&mut self, event: NewEvent) -> NewAction {
        let (state, action) = match (*self, event) {
            (NewState::Receiving, NewEvent::Built) => (NewState::Prepared, NewAction::Prepare),
            (NewState::Prepared, NewEvent::Committed) => (NewState::Accepting, NewAction::Accept),
            // The old process has died: its sockets live on here, and with them the clients in their queues.
            (NewState::Prepared, NewEvent::Lost) => (NewState::Accepting, NewAction::AcceptAlone),
            // Part of the state is missing, but a process that starts afresh would have none of it.
            (NewState::Receiving, NewEvent::Lost) => (NewState::Orphaned, NewAction::Nothing),
            (NewState::Orphaned, NewEvent::Built) => (NewState::Accepting, NewAction::AcceptAlone),
            (NewState::Receiving | NewState::Prepared, NewEvent::Refused) => (NewState::GivenUp, NewAction::GiveUp),
            // Nobody serves: the supervisor of this process has to start another one.
            (NewState::Orphaned, NewEvent::Refused | NewEvent::Failed) => (NewState::GivenUp, NewAction::GiveUp),
            (NewState::Receiving, NewEvent::Committed) => (NewState::GivenUp, NewAction::GiveUp),
            (NewState::Accepting, NewEvent::Proven) => (NewState::Settled, NewAction::Settle),
            (NewState::Accepting, NewEvent::Failed) => (NewState::GivenUp, NewAction::GiveBack),
            // Nobody is left who could serve instead.
            (NewState::Accepting, NewEvent::Lost) => (NewState::Settled, NewAction::Nothing),
            (state @ NewState::Prepared, NewEvent::Built) => (state, NewAction::Nothing),
            (state @ (NewState::Receiving | NewState::Prepared), NewEvent::Proven | NewEvent::Failed) => {
                (state, NewAction::Nothing)
            }
            (state @ NewState::Accepting, NewEvent::Built | NewEvent::Committed | NewEvent::Refused) => {
                (state, NewAction::Nothing)
            }
            (state @ (NewState::Orphaned | NewState::Settled | NewState::GivenUp), _) => (state, NewAction::Nothing),
        };
        *self = state;
        action
    }

    /// Returns whether the new process accepts connections.
    pub fn accepts(self) -> bool {
        matches!(self, NewState::Accepting | NewState::Settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// Two processes and the messages on their way.
    struct Pair {
        old: OldState,
        new: NewState,
        to_old: VecDeque<OldEvent>,
        to_new: VecDeque<NewEvent>,
        is_old_alive: bool,
        is_new_alive: bool,
    }

    #[test]
    fn a_process_whose_old_one_has_died_serves_alone_or_ends() {
        for (event, action) in [
            (NewEvent::Built, NewAction::AcceptAlone),
            (NewEvent::Failed, NewAction::GiveUp),
            (NewEvent::Refused, NewAction::GiveUp),
        ] {
            let mut state = NewState::Receiving;
            assert_eq!(state.next(NewEvent::Lost), NewAction::Nothing);
            assert_eq!((state.next(event), state == NewState::Orphaned), (action, false), "{event:?}");
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Built,
        DeliverToOld,
        DeliverToNew,
        StopOld,
        Prove,
        Fail,
        KillNew,
        KillOld,
    }

    impl Pair {
        fn new() -> Pair {
            let (to_old, to_new) = (VecDeque::new(), VecDeque::new());
            Pair {
                old: OldState::Offering,
                new: NewState::Receiving,
                to_old,
                to_new,
                is_old_alive: true,
                is_new_alive: true,
            }
        }

        fn old_event(&mut self, event: OldEvent) {
            match self.old.next(event) {
                OldAction::Commit => self.to_new.push_back(NewEvent::Committed),
                OldAction::Refuse => self.to_new.push_back(NewEvent::Refused),
                OldAction::Nothing
                | OldAction::Pause
                | OldAction::Resume
                | OldAction::Leave
                | OldAction::Stop
                | OldAction::Forget => {}
            }
        }

        fn new_event(&mut self, event: NewEvent) {
            match self.new.next(event) {
                NewAction::Prepare => self.to_old.push_back(OldEvent::Prepared),
                NewAction::Accept => self.to_old.push_back(OldEvent::Accepting),
                NewAction::GiveUp | NewAction::GiveBack => self.to_old.push_back(OldEvent::Lost),
                NewAction::Settle => self.to_old.push_back(OldEvent::Settled),
                NewAction::Nothing | NewAction::AcceptAlone => {}
            }
        }

        fn step(&mut self, step: Step) {
            match step {
                Step::Built if self.is_new_alive => self.new_event(NewEvent::Built),
                Step::StopOld if self.is_old_alive => self.old_event(OldEvent::Stopping),
                Step::Prove if self.is_new_alive => self.new_event(NewEvent::Proven),
                Step::Fail if self.is_new_alive => self.new_event(NewEvent::Failed),
                Step::DeliverToOld if self.is_old_alive => {
                    if let Some(event) = self.to_old.pop_front() {
                        self.old_event(event);
                    }
                }
                Step::DeliverToNew if self.is_new_alive => {
                    if let Some(event) = self.to_new.pop_front() {
                        self.new_event(event);
                    }
                }
                // Bytes that were sent before a death still arrive, and then the end.
                Step::KillNew if self.is_new_alive => {
                    self.is_new_alive = false;
                    self.to_old.push_back(OldEvent::Lost);
                }
                Step::KillOld if self.is_old_alive => {
                    self.is_old_alive = false;
                    self.to_new.push_back(NewEvent::Lost);
                }
                _ => {}
            }
        }

        fn deliver_all(&mut self) {
            for _ in 0..20 {
                self.step(Step::DeliverToOld);
                self.step(Step::DeliverToNew);
            }
        }
    }

    fn step(kills_old: bool) -> impl Strategy<Value = Step> {
        let steps = vec![
            Step::Built,
            Step::DeliverToOld,
            Step::DeliverToNew,
            Step::StopOld,
            Step::Prove,
            Step::Fail,
            Step::KillNew,
        ];
        let steps = if kills_old { [steps, vec![Step::KillOld]].concat() } else { steps };
        proptest::sample::select(steps)
    }

    proptest! {
        #[test]
        fn a_living_process_always_accepts_connections(steps in proptest::collection::vec(step(false), 0..30)) {
            let mut pair = Pair::new();
            for step in steps {
                pair.step(step);
                let new_serves = pair.new.accepts() && pair.is_new_alive;
                // A new process that dies after it accepted connections takes them along, as any process would.
                let died_serving = pair.new.accepts() && !pair.is_new_alive;
                // One that gives everything back has said so, and the old process accepts once it hears of it.
                let is_reported = pair.to_old.contains(&OldEvent::Lost);
                prop_assert!(pair.old.accepts() || new_serves || died_serving || is_reported, "{:?} {:?}", pair.old, pair.new);
            }
        }

        #[test]
        fn a_new_process_that_fails_or_dies_early_gives_everything_back(steps in proptest::collection::vec(step(false), 0..30)) {
            let mut pair = Pair::new();
            for step in steps {
                let was_settled = pair.new == NewState::Settled;
                pair.step(step);
                let has_failed = !pair.is_new_alive || pair.new == NewState::GivenUp;
                if has_failed && !was_settled && pair.new != NewState::Settled {
                    pair.deliver_all();
                    prop_assert_eq!(pair.old, OldState::Alone);
                }
            }
        }

        #[test]
        fn the_old_process_gives_its_sockets_away_only_to_one_that_has_settled(steps in proptest::collection::vec(step(true), 0..40)) {
            let mut pair = Pair::new();
            for step in steps {
                pair.step(step);
                prop_assert!(pair.old != OldState::Leaving || pair.new == NewState::Settled);
            }
        }

        #[test]
        fn a_new_process_that_dies_before_it_accepts_leaves_the_old_one_as_it_was(steps in proptest::collection::vec(step(false), 0..30)) {
            let mut pair = Pair::new();
            for step in steps {
                pair.step(step);
                if !pair.is_new_alive && !pair.new.accepts() {
                    pair.deliver_all();
                    prop_assert_eq!(pair.old, OldState::Alone);
                    prop_assert!(pair.old.accepts());
                }
            }
        }

        #[test]
        fn in_the_end_one_of_them_accepts_and_the_other_does_not(steps in proptest::collection::vec(step(true), 0..30)) {
            let mut pair = Pair::new();
            steps.into_iter().for_each(|step| pair.step(step));
            pair.step(Step::Built);
            pair.deliver_all();
            if pair.is_new_alive && pair.is_old_alive {
                prop_assert!(pair.old.accepts() != pair.new.accepts(), "{:?} {:?}", pair.old, pair.new);
            }
            // One that was not told to give up serves once it can, however much the other one had sent.
            if pair.is_new_alive && !pair.is_old_alive && pair.new != NewState::GivenUp {
                pair.step(Step::Built);
                prop_assert!(pair.new.accepts(), "{:?}", pair.new);
            }
        }
    }
}
