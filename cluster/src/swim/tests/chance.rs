//! Chance: damaged bytes for one machine, and any faults for a cluster, after which it has to mend.

use proptest::prelude::*;

use super::super::simulation::{Options, Simulation};
use super::*;

/// A cluster under faults, and what is needed to end them.
struct Trouble {
    simulation: Simulation,
    rng: fastrand::Rng,
    seeds: Vec<SocketAddr>,
    is_paused: Vec<bool>,
}

impl Trouble {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let count = rng.usize(3..=9);
        let forget_after = SECOND * *rng.choice(&[20, 3_600]).unwrap();
        let config = Config { forget_after, is_lifeguard: rng.u32(0..4) > 0, ..Config::lan() };
        let simulation = Simulation::cluster(Options { config, ..Options::lan(seed) }, count);
        let seeds = (0..count).map(Simulation::address).collect();
        Self { simulation, rng, seeds, is_paused: vec![false; count] }
    }

    fn count(&self) -> usize {
        self.seeds.len()
    }

    /// Starts a node: at its own address or another, with the right time or a clock set back.
    fn start(&mut self, node: usize) {
        let address = if self.rng.u32(0..4) == 0 {
            Simulation::address(node + 100 * self.rng.usize(1..5))
        } else {
            Simulation::address(node)
        };
        if self.rng.u32(0..4) == 0 {
            let wall_ms = 1_700_000_000_000 - self.rng.u64(..1_000);
            self.simulation.start_at_wall(node, address, wall_ms);
        } else {
            self.simulation.start(node, address);
        }
        self.simulation.input(node, Input::Join(&self.seeds));
    }

    fn fault(&mut self) {
        let node = self.rng.usize(..self.count());
        let is_running = self.simulation.swim(node).is_some();
        match self.rng.u32(0..9) {
            0 | 1 if is_running => self.kill(node),
            2 if is_running && !self.is_paused[node] => {
                self.simulation.input(node, Input::Leave);
                self.simulation.run_for(Duration::from_millis(self.rng.u64(..1_000)));
                self.kill(node);
            }
            0..=3 if !is_running => self.start(node),
            4 if is_running && !self.is_paused[node] => {
                self.simulation.pause(node);
                self.is_paused[node] = true;
            }
            4 | 5 if self.is_paused[node] => self.resume(node),
            6 => self.simulation.set_side(node, self.rng.u8(0..2)),
            7 => self.simulation.set_loss(self.rng.u32(0..40)),
            _ => {}
        }
    }

    fn kill(&mut self, node: usize) {
        self.simulation.kill(node);
        self.is_paused[node] = false;
    }

    fn resume(&mut self, node: usize) {
        self.simulation.resume(node);
        self.is_paused[node] = false;
    }

    /// Ends all faults. Somebody runs at the address of some seed, as everywhere.
    fn end(&mut self) {
        self.simulation.heal();
        self.simulation.set_loss(0);
        for node in 0..self.count() {
            if self.is_paused[node] {
                self.resume(node);
            }
            let is_at_home = self.simulation.own(node).address == Simulation::address(node);
            if node == 0 && !is_at_home && self.simulation.swim(node).is_some() {
                self.kill(node);
            }
            if self.simulation.swim(node).is_none() {
                self.simulation.start(node, Simulation::address(node));
                self.simulation.input(node, Input::Join(&self.seeds));
            }
        }
    }
}

/// Faults of all kinds for two minutes, then none: the cluster agrees, and is quiet.
fn a_cluster_mends_after_faults(seed: u64) {
    let mut trouble = Trouble::new(seed);
    for _ in 0..40 {
        let time = Duration::from_millis(trouble.rng.u64(10..6_000));
        trouble.simulation.run_for(time);
        trouble.fault();
    }
    trouble.end();
    let simulation = &mut trouble.simulation;
    let agreed = simulation.run_until(SECOND * 120, Simulation::is_agreed);
    assert!(agreed.is_some(), "seed {seed}: no agreement after the faults stopped");
    simulation.run_for(SECOND * 20);
    simulation.take_happenings();
    let before = simulation.stats();
    simulation.run_for(SECOND * 20);
    assert!(simulation.is_agreed(), "seed {seed}: agreement does not last");
    assert_eq!(simulation.take_happenings(), [], "seed {seed}");
    let after = simulation.stats();
    let probes = after.probe_count - before.probe_count;
    let datagrams = after.datagram_out_count - before.datagram_out_count;
    // Besides probes: the dead that may still be remembered under this name or another.
    assert!(datagrams <= 2 * probes + 40, "seed {seed}: {datagrams} for {probes} probes");
}

#[test]
fn a_cluster_mends_after_any_faults() {
    for seed in 0..300 {
        a_cluster_mends_after_faults(seed);
    }
}

/// A machine that knows one member, and all that can be seen of it.
fn known(swim: &Swim) -> (Vec<Member>, u32, Option<Instant>) {
    (swim.members().copied().collect(), swim.local_health(), swim.poll_timeout())
}

proptest! {
    #[test]
    fn bytes_that_are_no_packet_change_nothing(bytes: Vec<u8>) {
        let mut swim = alone(Config::lan());
        datagram(&mut swim, AT, &packet(member(2, State::Alive, 0), Body::Gossip, &[]));
        let before = known(&swim);
        prop_assert_eq!(datagram(&mut swim, AT, &bytes), []);
        swim.handle(AT, Input::Exchange { bytes: &bytes });
        prop_assert_eq!(swim.poll_output(), None);
        prop_assert_eq!(known(&swim), before);
        prop_assert_eq!(swim.stats().bad_packet_count, 2);
    }

    #[test]
    fn a_packet_with_any_content_is_survived(
        kind in 0_u8..9,
        claims in prop::collection::vec((1_u64..6, 0_u8..4, 0_u32..3, 999_u64..1_002), 0..20),
        damage: prop::sample::Index,
        byte: u8,
    ) {
        let mut swim = alone(Config::lan());
        let states = [State::Alive, State::Suspect, State::Dead, State::Left];
        let mut now = AT;
        for chunk in claims.chunks(4) {
            let claims: Vec<Member> = chunk
                .iter()
                .map(|&(id, state, incarnation, run)| {
                    Member { run, ..member(id, states[usize::from(state)], incarnation) }
                })
                .collect();
            let mut bytes = packet(member(2, State::Alive, 0), Body::Gossip, &claims);
            bytes[1] = kind;
            datagram(&mut swim, now, &bytes);
            swim.handle(now, Input::Exchange { bytes: &bytes });
            outputs(&mut swim);
            let at = damage.index(bytes.len());
            bytes[at] = byte;
            datagram(&mut swim, now, &bytes);
            now = swim.poll_timeout().map_or(now, |it| it.max(now));
            swim.handle(now, Input::Timeout);
            outputs(&mut swim);
        }
    }
}
