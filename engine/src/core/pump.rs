//! The loop of a core.
//!
//! One turn: submit and reap in one system call, serve what has arrived, take in the mailbox, let the
//! stores write what is new, post what other cores are owed, queue one send a connection. With nothing left to do the core sleeps:
//! in its data ring, which costs no further call; or, while tasks run, in the executor, which the
//! data ring's activity and the bell wake.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_lite::FutureExt;
use glommio::io::PollableFd;
use glommio::timer::Timer;
use gridkv_net::ring::Wait;

use super::mailbox::{Mailbox, Message};
use super::turns::{Phase, Watch};
use super::{Core, wall_time};
use crate::config::Idle;

/// How often timers are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Most messages taken in a turn, and most requests of other cores in them: a message more than that
/// is not begun.
const MESSAGE_COUNT_MAX: usize = 256;
const REQUEST_COUNT_MAX: usize = 1_024;

/// Most messages that are put off while as much is parked as may be.
const PUT_OFF_COUNT_MAX: usize = 1_024;

/// How long what is under way may take to end when the node quits, and how often it is looked at.
const FINISH_LIMIT: Duration = Duration::from_secs(1);
const FINISH_STEP: Duration = Duration::from_millis(1);

/// Index slots looked at for expired records: after each tick, of those in one go, and in a turn while
/// there are many. All of what is found may have to be freed.
const EXPIRY_BUDGET_TICK: usize = 16 << 10;
const EXPIRY_BUDGET_PIECE: usize = 256;
const EXPIRY_BUDGET_TURN: usize = 256;

/// No piece more is looked at in a turn that has taken so long already.
const EXPIRY_TIME_TURN: Duration = Duration::from_micros(500);

/// The loop's own state.
struct Pump<'a> {
    core: &'a mut Core,
    mailbox: &'a Mailbox,
    /// Messages about keys that came while as much was parked as may be: they go first when there is
    /// room. What else comes is taken in: answers make room, and a core that waits can be asked how it is.
    put_off: VecDeque<Message>,
    activity: PollableFd<File>,
    bell: PollableFd<File>,
    next_tick: Instant,
    /// When the latest turn ended.
    ended_at: Instant,
    /// Since when there has been nothing to do.
    idle_since: Option<Instant>,
    many_expired: bool,
    /// Of the slots to look at after the latest tick, those that were not.
    expiry_left: usize,
    is_stopping: bool,
}

/// What wakes a core that sleeps in its executor.
pub(crate) struct Alarms {
    /// Of the data ring: something has happened on a socket.
    pub(crate) activity: OwnedFd,
    /// Of the bell: there is mail.
    pub(crate) bell: OwnedFd,
}

/// Runs a core until its node quits.
///
/// # Panics
///
/// When an invariant of the core does not hold, or the kernel has lost its ring. The caller ends
/// the core.
pub(crate) async fn run(core: &mut Core, mailbox: &Mailbox, alarms: Alarms) {
    let pollable = |alarm| PollableFd::new(File::from(alarm)).expect("called within an executor");
    let next_tick = core.world.now + TICK;
    let mut pump = Pump {
        core,
        mailbox,
        put_off: VecDeque::new(),
        activity: pollable(alarms.activity),
        bell: pollable(alarms.bell),
        next_tick,
        ended_at: next_tick,
        idle_since: None,
        many_expired: false,
        expiry_left: 0,
        is_stopping: false,
    };
    let mut wait = Wait::No;
    while !pump.core.world.node.quit.load(Ordering::Acquire) {
        let is_busy = pump.turn(wait);
        if pump.core.world.tasks.are_running() {
            pump.run_tasks(is_busy).await;
            wait = Wait::No;
        } else {
            wait = pump.choose_wait(is_busy);
        }
    }
    let world = &pump.core.world;
    world.node.ports[world.id].set_closing();
    pump.finish();
}

impl Pump<'_> {
    /// One turn. Whether there is more to do at once.
    fn turn(&mut self, wait: Wait) -> bool {
        self.core.submit_io();
        let Core { world, server } = &mut *self.core;
        let turned = server.ring.turn(wait);
        let bell = world.node.ports[world.id].bell();
        bell.wake_up();
        turned.expect("the kernel knows the ring");
        world.counters.turns += 1;
        world.now = Instant::now();
        let turns = Rc::clone(&world.turns);
        if wait == Wait::No {
            turns.note(Phase::Kernel, world.now.saturating_duration_since(self.ended_at));
        }
        let mut watch = Watch::start(world.now);
        world.shards.set_now(wall_time());
        let has_served = server.handle_events(world);
        let has_served = server.serve_ready(world) || has_served;
        watch.lap(&turns, Phase::Clients, has_served);
        let taken = self.take_messages();
        let has_done = self.take_done();
        watch.lap(&turns, Phase::Mailbox, taken.count > 0 || has_done);
        let has_ticked = self.run_timers();
        watch.lap(&turns, Phase::Timers, has_ticked);
        // The stores come between: what peers have sent is written with what clients have, and what
        // is durable by now is answered in the same frame.
        let has_turned = self.core.turn_cluster();
        watch.lap(&turns, Phase::Cluster, has_turned);
        let has_run = self.core.turn_stores();
        watch.lap(&turns, Phase::Stores, has_run || self.core.world.shards.have_logs());
        let has_turned = self.core.turn_cluster() || has_turned;
        watch.lap(&turns, Phase::Cluster, has_turned);
        let Core { world, server } = &mut *self.core;
        server.wake_if_room(world);
        let node = &world.node;
        let is_behind = world.links.post(|core, message| node.ports[core].try_post(message));
        server.flush(world);
        self.ended_at = watch.end(&turns, Phase::Replies);
        if self.is_stopping
            && server.is_drained()
            && !world.tasks.are_running()
            && world.is_settled()
            && self.put_off.is_empty()
        {
            world.node.ports[world.id].set_drained();
        }
        has_run
            || has_turned
            || is_behind
            || taken.has_more
            || self.expiry_left > 0
            || server.has_work()
            || world.tasks.have_done()
    }

    /// Ends the core in order: what was posted before the node quit is still done, and answered when
    /// it is durable; then the stores are closed.
    fn finish(&mut self) {
        while self.take_messages().count > 0 {}
        let deadline = Instant::now() + FINISH_LIMIT;
        let is_over = |pump: &Self| pump.core.world.is_settled() && pump.put_off.is_empty();
        while !is_over(self) && Instant::now() < deadline {
            self.turn(Wait::AtMost(FINISH_STEP));
        }
        self.core.finish_io();
        for shard in self.core.world.shards.iter_mut() {
            shard.close();
        }
        self.core.release_decided();
        let Core { world, server } = &mut *self.core;
        server.flush(world);
        server.ring.turn(Wait::No).expect("the kernel knows the ring");
    }

    /// How the next turn may wait. Says that the core sleeps, if it may.
    fn choose_wait(&mut self, is_busy: bool) -> Wait {
        if is_busy || self.has_mail() {
            self.idle_since = None;
            return Wait::No;
        }
        let limit = self.sleep_max();
        let Core { world, server } = &mut *self.core;
        match world.settings.idle {
            Idle::Poll => return Wait::No,
            Idle::Spin(duration) => {
                if server.ring.has_work() {
                    self.idle_since = None;
                    return Wait::No;
                }
                let since = *self.idle_since.get_or_insert(world.now);
                if world.now.saturating_duration_since(since) < duration {
                    std::hint::spin_loop();
                    return Wait::No;
                }
                self.idle_since = None;
            }
            Idle::Park => {}
        }
        let bell = world.node.ports[world.id].bell();
        bell.fall_asleep();
        if self.has_mail() {
            let world = &self.core.world;
            world.node.ports[world.id].bell().wake_up();
            return Wait::No;
        }
        self.core.world.counters.sleeps += 1;
        Wait::AtMost(limit)
    }

    /// Whether there are messages that may be taken in.
    fn has_mail(&self) -> bool {
        let may_go_on = !self.put_off.is_empty() && !self.core.world.parking.is_full();
        may_go_on || (!self.mailbox.receiver.is_empty() && self.put_off.len() < PUT_OFF_COUNT_MAX)
    }

    /// How long the core may sleep if nothing happens, counted from the beginning of the turn.
    fn sleep_max(&self) -> Duration {
        let world = &self.core.world;
        let until_tick = self.next_tick.saturating_duration_since(world.now);
        world.store_sleep_max().map_or(until_tick, |limit| limit.min(until_tick))
    }

    /// Lets tasks run, and sleeps in the executor if there is nothing else to do.
    async fn run_tasks(&mut self, is_busy: bool) {
        let limit = self.sleep_max();
        self.core.submit_io();
        let Core { world, server } = &mut *self.core;
        // What this turn has queued goes out before the core sleeps.
        server.ring.turn(Wait::No).expect("the kernel knows the ring");
        server.ring.notify(true);
        world.node.ports[world.id].bell().fall_asleep();
        let has_mail = self.has_mail();
        let Core { world, server } = &mut *self.core;
        let must_stay = is_busy || has_mail || server.ring.has_work() || world.tasks.have_done();
        if must_stay {
            glommio::executor().yield_task_queue_now().await;
        } else {
            let limit = async {
                Timer::new(limit).await;
            };
            let activity = async {
                // Fails only without an executor; then the limit ends the sleep.
                let _ = self.activity.readable().await;
            };
            let mail = async {
                // As above.
                let _ = self.bell.readable().await;
            };
            activity.or(mail).or(limit).await;
        }
        let Core { world, server } = &mut *self.core;
        world.node.ports[world.id].bell().wake_up();
        server.ring.notify(false);
        let mut count = [0; 8];
        // Empty unless the ring was active.
        let _ = rustix::io::read(self.activity.get_ref(), &mut count);
    }

    /// Takes in messages, a bounded number with a bounded number of requests.
    fn take_messages(&mut self) -> Taken {
        let (mut taken, mut requests) = (0, 0);
        let is_enough =
            |taken, requests| taken >= MESSAGE_COUNT_MAX || requests >= REQUEST_COUNT_MAX;
        while !is_enough(taken, requests)
            && !self.core.world.parking.is_full()
            && let Some(message) = self.put_off.pop_front()
        {
            taken += 1;
            requests += request_count(&message);
            self.take_message(message);
        }
        while !is_enough(taken, requests) && self.put_off.len() < PUT_OFF_COUNT_MAX {
            let Ok(message) = self.mailbox.receiver.try_recv() else { break };
            taken += 1;
            let must_wait = self.core.world.parking.is_full() || !self.put_off.is_empty();
            if must_wait && is_about_keys(&message) {
                self.put_off.push_back(message);
            } else {
                requests += request_count(&message);
                self.take_message(message);
            }
        }
        if taken > 0 {
            let world = &self.core.world;
            world.node.ports[world.id].made_room();
        }
        Taken { count: taken, has_more: is_enough(taken, requests) }
    }

    fn take_message(&mut self, message: Message) {
        let Core { world, server } = &mut *self.core;
        match message {
            Message::Job(job) => self.core.start_job(job),
            Message::Call(call) | Message::Items(call) => call(self.core),
            Message::Requests(batch) => world.serve(&batch),
            Message::Answers(batch) => {
                for (waiter, part, bytes) in world.links.take_answers(&batch) {
                    server.deliver(world, waiter, part, bytes);
                }
                server.wake_stalled(world);
            }
            Message::Adopt(socket, address) => server.adopt(world, socket, address),
            Message::AdoptPeer(socket, address, target) => {
                self.core.adopt_peer(socket, address, target);
            }
            Message::Told(told) => self.core.on_told(*told),
            Message::CoreStopped(core) => {
                let waiters = world.links.give_up(core);
                server.give_up(world, waiters);
                server.wake_stalled(world);
            }
            Message::Stop => {
                self.is_stopping = true;
                server.stop();
            }
        }
    }

    /// Hands out the replies of tasks that have ended. Whether there were any.
    fn take_done(&mut self) -> bool {
        let Core { world, server } = &mut *self.core;
        if !world.tasks.have_done() {
            return false;
        }
        for (waiter, reply) in world.tasks.take_done() {
            server.deliver_pieces(world, waiter, reply);
        }
        true
    }

    /// Does what is done from time to time. Whether there was anything.
    fn run_timers(&mut self) -> bool {
        let Core { world, server } = &mut *self.core;
        if world.now >= self.next_tick {
            self.next_tick = world.now + TICK;
            world.turns.tick(world.now);
            server.accept_again();
            server.check_timeouts(world);
            self.expiry_left = EXPIRY_BUDGET_TICK;
            true
        } else if self.expiry_left > 0 {
            self.many_expired = false;
            // Most slots have nothing to collect, and looking at all of them takes less than a turn may.
            loop {
                self.expiry_left = self.expiry_left.saturating_sub(EXPIRY_BUDGET_PIECE);
                let collected = world.collect_expired(EXPIRY_BUDGET_PIECE);
                self.many_expired |= collected >= EXPIRY_BUDGET_PIECE / 16;
                // A core that is busy does one piece a turn, so that this comes to its end.
                if self.expiry_left == 0 || world.now.elapsed() >= EXPIRY_TIME_TURN {
                    break true;
                }
            }
        } else if self.many_expired {
            let collected = world.collect_expired(EXPIRY_BUDGET_TURN);
            self.many_expired = collected >= EXPIRY_BUDGET_TURN / 16;
            true
        } else {
            false
        }
    }
}

/// What was taken out of the mailbox.
struct Taken {
    count: usize,
    /// There may be more.
    has_more: bool,
}

/// How many requests a message consists of.
fn request_count(message: &Message) -> usize {
    if let Message::Requests(batch) = message { batch.count() } else { 0 }
}

/// Whether what a message asks for may have to be parked.
fn is_about_keys(message: &Message) -> bool {
    match message {
        Message::Job(job) => !job.tokens().is_empty(),
        Message::Requests(_) | Message::Items(_) => true,
        _ => false,
    }
}
