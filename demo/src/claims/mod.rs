//! What the demo proves: claims, each with what was measured.
//!
//! A claim is a sentence and a function that measures whether it is true. It runs under a deadline; one that fails says why, and
//! the others go on. Claims of one lane follow each other; lanes of one phase run side by side; phases follow each other, because
//! what one does (killing things, load) must not be measured by another. Ports that come and go are such a thing: the userspace
//! datapath of Open vSwitch 3.1 now and then loses a packet of others then, with and without Ladon (2 of 800 at 10 ms, while 14
//! ports without any flow came and went).

mod cluster;
mod connectivity;
mod input;
mod restarts;
mod security;
mod services;
mod tenants;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::say;

use crate::world::World;

/// How long most claims may take.
const DEADLINE: Duration = Duration::from_secs(30);

type Measure = Arc<dyn Fn(&World) -> Result<String> + Send + Sync>;

/// A sentence, and how it is measured.
#[derive(Clone)]
pub struct Claim {
    sentence: String,
    deadline: Duration,
    measure: Measure,
}

/// Claims that follow each other.
pub type Lane = Vec<Claim>;

/// How many claims were true.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
}

impl Claim {
    fn new(sentence: impl Into<String>, measure: impl Fn(&World) -> Result<String> + Send + Sync + 'static) -> Claim {
        Claim { sentence: sentence.into(), deadline: DEADLINE, measure: Arc::new(measure) }
    }

    fn within(mut self, deadline: Duration) -> Claim {
        self.deadline = deadline;
        self
    }

    /// Measures on a thread of its own, which is left behind when it does not come back in time.
    fn judge(&self, world: &Arc<World>) -> Result<String, String> {
        let (sender, receiver) = mpsc::channel();
        let (measure, world) = (self.measure.clone(), world.clone());
        thread::spawn(move || {
            let outcome = match catch_unwind(AssertUnwindSafe(|| measure(&world))) {
                Ok(Ok(measured)) => Ok(measured),
                Ok(Err(error)) => Err(format!("{error:#}")),
                Err(_) => Err("the measurement panicked".to_string()),
            };
            let _ = sender.send(outcome);
        });
        receiver.recv_timeout(self.deadline).unwrap_or_else(|_| Err(format!("no result within {} s", self.deadline.as_secs())))
    }
}

/// All of them, by phase and lane.
pub fn all() -> Vec<Vec<Lane>> {
    vec![
        [connectivity::lanes(), vec![cluster::lane(), services::lane()]].concat(),
        vec![input::lane()],
        vec![services::scaling(), security::lane(), tenants::lane(), cluster::guarded()],
        vec![services::rolling()],
        vec![restarts::lane()],
    ]
}

/// Judges every claim whose sentence contains `only`, one line each.
pub fn prove(world: &Arc<World>, only: &str) -> Tally {
    let (number, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    for phase in all() {
        thread::scope(|scope| {
            for lane in phase {
                let (number, failed) = (&number, &failed);
                scope.spawn(move || {
                    for claim in lane.iter().filter(|claim| claim.sentence.contains(only)) {
                        let started = Instant::now();
                        let outcome = claim.judge(world);
                        failed.fetch_add(usize::from(outcome.is_err()), Ordering::Relaxed);
                        report(number.fetch_add(1, Ordering::Relaxed) + 1, &claim.sentence, &outcome, started.elapsed());
                    }
                });
            }
        });
    }
    let failed = failed.into_inner();
    Tally { passed: number.into_inner() - failed, failed }
}

fn report(number: usize, sentence: &str, outcome: &Result<String, String>, took: Duration) {
    let took = took.as_secs_f32();
    match outcome {
        Ok(measured) => say::answer(&format!("ok   {number:3}  {sentence}: {measured} ({took:.1} s)")),
        Err(why) => say::answer(&format!("FAIL {number:3}  {sentence}: {why} ({took:.1} s)")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn there_are_more_than_forty_claims_and_none_twice() {
        let sentences: Vec<String> = all().into_iter().flatten().flatten().map(|claim| claim.sentence).collect();
        assert!(sentences.len() >= 40, "{}", sentences.len());
        assert_eq!(sentences.iter().collect::<BTreeSet<_>>().len(), sentences.len());
    }
}
