//! Whole clusters on a simulated network: one story each.

use super::super::simulation::{Happening, Options, Simulation, join};
use super::super::*;

const SECOND: Duration = Duration::from_secs(1);

fn all_see(simulation: &Simulation, other: usize, state: State) -> bool {
    simulation.running().all(|node| simulation.sees(node, other) == Some(state))
}

fn deaths(happenings: &[Happening]) -> usize {
    let dead =
        |it: &&Happening| matches!(it.output, Output::Changed(it) if it.state == State::Dead);
    happenings.iter().filter(dead).count()
}

fn conflicts(happenings: &[Happening]) -> Vec<(usize, SocketAddr)> {
    let conflicts = happenings.iter().filter_map(|it| match it.output {
        Output::Conflict { address } => Some((it.node, address)),
        _ => None,
    });
    conflicts.collect()
}

fn agrees(simulation: &mut Simulation, time_max: Duration) -> Duration {
    simulation.run_until(time_max, Simulation::is_agreed).expect("they agree in time")
}

#[test]
fn a_killed_node_of_three_is_declared_dead_within_three_seconds() {
    let mut worst = Duration::ZERO;
    for seed in 0..300 {
        let mut simulation = Simulation::cluster(Options::lan(seed), 3);
        simulation.run_for(SECOND * 5 + Duration::from_millis(seed * 37));
        simulation.kill(2);
        let known = simulation.run_until(SECOND * 3, |it| all_see(it, 2, State::Dead));
        worst = worst.max(known.unwrap_or_else(|| panic!("seed {seed}: undetected")));
    }
    assert!(worst > SECOND, "{worst:?} leaves no time to refute");
}

#[test]
fn an_idle_cluster_sends_probes_and_an_exchange_now_and_then() {
    let mut simulation = Simulation::cluster(Options::lan(1), 3);
    simulation.run_for(SECOND * 5);
    let before = simulation.stats();
    simulation.run_for(SECOND * 60);
    let after = simulation.stats();
    let probes = after.probe_count - before.probe_count;
    assert!(probes <= 3 * 60_000 / 350 + 3);
    // A ping and an ack each, and not one datagram more.
    let datagrams = after.datagram_out_count - before.datagram_out_count;
    assert!(datagrams <= 2 * probes + 3);
    let exchanges = after.exchange_out_count - before.exchange_out_count;
    assert!((6..=2 * 3 * 60 / 5).contains(&exchanges), "{exchanges} exchanges");
}

#[test]
fn one_joins_through_any_member() {
    let mut simulation = Simulation::cluster(Options::lan(2), 5);
    for seed in 0..5 {
        let node = simulation.add();
        simulation.input(node, Input::Join(&[Simulation::address(seed)]));
        assert!(agrees(&mut simulation, SECOND * 2) < SECOND);
    }
    assert_eq!(deaths(&simulation.take_happenings()), 0);
}

#[test]
fn the_order_in_which_nodes_start_does_not_matter() {
    let mut simulation = Simulation::new(Options::lan(3));
    // The seed of both starts an hour after them.
    for _ in 0..2 {
        let node = simulation.add();
        simulation.input(node, Input::Join(&[Simulation::address(2)]));
    }
    simulation.run_for(SECOND * 3_600);
    assert!(simulation.stats().exchange_out_count < 2 * 3_600);
    simulation.add();
    agrees(&mut simulation, Config::lan().seed_retry_max * 2);
}

#[test]
fn halves_that_were_started_apart_find_together() {
    let mut simulation = Simulation::new(Options::lan(4));
    let seeds: Vec<SocketAddr> = (0..4).map(Simulation::address).collect();
    for node in 0..4 {
        simulation.add();
        simulation.set_side(node, u8::from(node >= 2));
        simulation.input(node, Input::Join(&seeds));
    }
    simulation.run_for(SECOND * 30);
    assert_eq!(simulation.sees(0, 1), Some(State::Alive));
    assert_eq!(simulation.sees(0, 2), None);
    simulation.heal();
    agrees(&mut simulation, Config::lan().seed_recheck_interval * 2);
}

#[test]
fn a_partition_heals_by_itself_and_kills_nobody_again() {
    for count in [3, 10, 40] {
        let mut simulation = Simulation::cluster(Options::lan(5), count);
        for node in 0..count {
            simulation.set_side(node, u8::from(node >= count / 2));
        }
        simulation.run_for(SECOND * 120);
        assert_eq!(simulation.sees(0, count - 1), Some(State::Dead));
        assert_eq!(simulation.sees(count - 1, 0), Some(State::Dead));
        simulation.heal();
        simulation.take_happenings();
        // Each of the dead is tried once in so many intervals; one that answers brings the rest.
        agrees(&mut simulation, Config::lan().exchange_interval * 2);
        assert_eq!(deaths(&simulation.take_happenings()), 0, "of {count}");
    }
}

#[test]
fn a_partition_that_outlasts_memory_heals_through_the_seeds() {
    let config = Config { forget_after: SECOND * 30, ..Config::lan() };
    let mut simulation = Simulation::cluster(Options { config, ..Options::lan(6) }, 5);
    simulation.set_side(4, 1);
    simulation.run_for(SECOND * 300);
    assert_eq!(simulation.sees(0, 4), None);
    assert_eq!(simulation.sees(4, 0), None);
    simulation.heal();
    agrees(&mut simulation, SECOND * 10);
}

#[test]
fn a_node_that_forgot_all_and_is_forgotten_comes_back_without_seeds() {
    let config = Config { forget_after: SECOND * 30, ..Config::lan() };
    let mut simulation = Simulation::cluster(Options { config, ..Options::lan(6) }, 5);
    simulation.input(4, Input::Join(&[]));
    for node in 0..4 {
        simulation.input(node, Input::Join(&[Simulation::address(0)]));
    }
    simulation.set_side(4, 1);
    simulation.run_for(SECOND * 300);
    assert_eq!(simulation.sees(0, 4), None);
    simulation.heal();
    agrees(&mut simulation, Config::lan().exchange_interval * 3);
}

#[test]
fn a_node_restarts_at_once_at_its_own_or_another_address() {
    for (seed, address) in [(7, 2), (8, 9)] {
        let mut simulation = Simulation::cluster(Options::lan(seed), 5);
        simulation.run_for(SECOND * 5);
        simulation.kill(2);
        simulation.run_for(Duration::from_millis(300));
        simulation.start(2, Simulation::address(address));
        simulation.input(2, Input::Join(&[Simulation::address(4)]));
        assert!(agrees(&mut simulation, SECOND * 5) < SECOND * 2);
        simulation.run_for(SECOND * 30);
        let happenings = simulation.take_happenings();
        assert_eq!(deaths(&happenings), 0);
        assert_eq!(conflicts(&happenings), []);
        assert!(simulation.is_agreed());
    }
}

#[test]
fn a_node_whose_clock_was_set_back_comes_back_too() {
    for address in [2, 9] {
        let mut simulation = Simulation::cluster(Options::lan(9), 5);
        simulation.run_for(SECOND * 5);
        simulation.kill(2);
        simulation.run_for(SECOND);
        simulation.start_at_wall(2, Simulation::address(address), 1_000);
        simulation.input(2, Input::Join(&[Simulation::address(4)]));
        let is_back = |it: &Simulation| {
            let expected = Simulation::address(address);
            it.running().all(|node| {
                let member = it.swim(node).and_then(|swim| swim.member(MemberId(3)));
                member.is_some_and(|it| it.address == expected && it.state == State::Alive)
            })
        };
        assert!(simulation.run_until(SECOND * 5, is_back).is_some());
        assert_eq!(conflicts(&simulation.take_happenings()), []);
    }
}

#[test]
fn a_node_that_was_asleep_believes_nobody_dead_and_is_taken_back() {
    for seed in 10..20 {
        let mut simulation = Simulation::cluster(Options::lan(seed), 5);
        simulation.run_for(SECOND * 5);
        simulation.pause(1);
        simulation.run_for(SECOND * 30);
        let happenings = simulation.take_happenings();
        assert_eq!(deaths(&happenings), 4, "the others declare it dead");
        simulation.resume(1);
        assert!(agrees(&mut simulation, SECOND * 10) < SECOND * 2);
        simulation.run_for(SECOND * 30);
        assert_eq!(deaths(&simulation.take_happenings()), 0);
        assert!(simulation.is_agreed());
    }
}

#[test]
fn a_short_sleep_is_no_death() {
    let mut simulation = Simulation::cluster(Options::lan(21), 5);
    for _ in 0..20 {
        simulation.run_for(SECOND * 5);
        simulation.pause(1);
        simulation.run_for(Duration::from_millis(900));
        simulation.resume(1);
    }
    assert_eq!(deaths(&simulation.take_happenings()), 0);
}

#[test]
fn newcomers_never_hear_of_the_dead() {
    let mut simulation = Simulation::cluster(Options::lan(22), 6);
    simulation.kill(5);
    simulation.input(4, Input::Leave);
    simulation.run_for(SECOND);
    simulation.kill(4);
    simulation.run_for(SECOND * 10);
    let newcomer = simulation.add();
    simulation.input(newcomer, Input::Join(&[Simulation::address(0)]));
    simulation.run_for(SECOND * 60);
    assert!(simulation.is_agreed());
    assert_eq!(simulation.sees(newcomer, 5), None);
    assert_eq!(simulation.sees(newcomer, 4), None);
}

#[test]
fn one_who_slept_through_a_death_brings_no_ghost() {
    let config = Config { forget_after: SECOND * 20, ..Config::lan() };
    let mut simulation = Simulation::cluster(Options { config, ..Options::lan(23) }, 6);
    simulation.run_for(SECOND * 5);
    simulation.pause(1);
    simulation.kill(5);
    simulation.run_for(SECOND * 60);
    assert_eq!(simulation.sees(0, 5), None, "it is forgotten");
    simulation.take_happenings();
    simulation.resume(1);
    simulation.run_for(SECOND * 60);
    assert!(simulation.is_agreed());
    let is_ghost = |it: &&Happening| matches!(it.output, Output::Changed(member) if member.id == MemberId(6) && it.node != 1);
    assert_eq!(simulation.take_happenings().iter().find(is_ghost), None);
}

#[test]
fn a_leave_is_known_quickly_and_is_no_death() {
    let mut simulation = Simulation::cluster(Options::lan(24), 20);
    simulation.run_for(SECOND * 5);
    simulation.take_happenings();
    simulation.input(7, Input::Leave);
    simulation.run_for(Duration::from_millis(50));
    simulation.kill(7);
    let known = simulation.run_until(SECOND * 5, |it| all_see(it, 7, State::Left));
    assert!(known.expect("all know") < SECOND);
    simulation.run_for(SECOND * 30);
    assert_eq!(deaths(&simulation.take_happenings()), 0);
}

#[test]
fn of_two_processes_with_one_identity_the_later_is_told() {
    for loss_percent in [0, 20] {
        let options = Options { loss_percent, ..Options::lan(25) };
        let mut simulation = Simulation::cluster(options, 4);
        simulation.run_for(SECOND * 5);
        let twin = simulation.add_as(MemberId(3));
        simulation.input(twin, Input::Join(&[Simulation::address(0)]));
        simulation.run_for(SECOND * 15);
        let told = conflicts(&simulation.take_happenings());
        assert!(!told.is_empty());
        assert!(told.iter().all(|it| *it == (twin, Simulation::address(2))), "{told:?}");
        // The driver ends it, and the one that was first is a member again.
        simulation.kill(twin);
        agrees(&mut simulation, SECOND * 30);
    }
}

#[test]
fn two_hundred_nodes_that_start_at_once_agree_soon() {
    let joined = join(Options::lan(26), 200);
    assert!(joined.agreed_after < SECOND * 20, "{joined:?}");
}

#[test]
fn a_tenth_of_all_datagrams_may_be_lost_without_a_death() {
    for seed in 27..32 {
        let mut simulation = Simulation::cluster(Options::lan(seed), 3);
        simulation.set_loss(10);
        simulation.take_happenings();
        simulation.run_for(SECOND * 1_200);
        assert_eq!(deaths(&simulation.take_happenings()), 0, "seed {seed}");
        assert!(simulation.stats().suspicion_count > 0);
    }
}

#[test]
fn one_seed_is_one_story() {
    let run = |seed| {
        let options = Options { loss_percent: 20, ..Options::lan(seed) };
        let mut simulation = Simulation::cluster(options, 10);
        simulation.kill(3);
        simulation.run_for(SECOND * 30);
        simulation.hash()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
