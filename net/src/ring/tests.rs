use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use super::*;

const CONFIG: Config = Config { submission_count: 64, buffer_count: 8, buffer_bytes: 1_024 };
const LIMIT: Duration = Duration::from_secs(20);

/// A ring with a listener on a free port.
struct World {
    ring: DataRing,
    port: u16,
    started: Instant,
}

impl World {
    fn new() -> Self {
        Self::with(&CONFIG)
    }

    fn with(config: &Config) -> Self {
        let bell = Arc::new(Doorbell::new().unwrap());
        let mut ring = DataRing::new(config, bell).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        ring.listen(listener);
        Self { ring, port, started: Instant::now() }
    }

    fn connect(&mut self) -> (TcpStream, ConnectionId) {
        let client = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        let Event::Accepted(socket) = self.next() else { panic!("a client connects") };
        let id = self.ring.adopt(socket);
        (client, id)
    }

    fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.ring.next_event() {
                return event;
            }
            self.ring.turn(Wait::AtMost(Duration::from_millis(100))).unwrap();
            assert!(self.started.elapsed() < LIMIT, "an event is overdue");
        }
    }

    /// The next `count` bytes, whoever sent them.
    fn receive(&mut self, count: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < count {
            match self.next() {
                Event::Received(received) => {
                    all.extend_from_slice(self.ring.bytes(&received));
                    self.ring.recycle(received);
                }
                Event::Sent(..) => {}
                other => panic!("bytes, not {other:?}"),
            }
        }
        all
    }
}

#[test]
fn bytes_go_in_and_out_in_order() {
    let mut world = World::new();
    let (mut client, id) = world.connect();
    client.write_all(b"hello").unwrap();
    assert_eq!(world.receive(5), b"hello");
    world.ring.send(id, b"good ".to_vec());
    assert!(world.ring.is_sending(id));
    assert!(matches!(world.next(), Event::Sent(of, empty) if of == id && empty.is_empty()));
    world.ring.send(id, b"bye".to_vec());
    world.ring.turn(Wait::No).unwrap();
    let mut answer = [0; 8];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"good bye");
}

#[test]
fn an_answer_larger_than_the_socket_buffers_arrives_whole() {
    let mut world = World::new();
    let (mut client, id) = world.connect();
    let answer: Vec<u8> = (0..32_u32 << 20).map(|i| (i % 251) as u8).collect();
    let expected = answer.clone();
    world.ring.send(id, answer);
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; expected.len()];
        client.read_exact(&mut got).unwrap();
        assert!(got == expected, "every byte is in its place");
        client
    });
    assert!(matches!(world.next(), Event::Sent(of, _) if of == id));
    drop(reader.join().unwrap());
}

#[test]
fn more_input_than_there_are_buffers_leaves_nobody_deaf() {
    let mut world = World::new();
    let mut clients: Vec<_> = (0..40).map(|_| world.connect()).collect();
    // Eight buffers of 1 KiB, forty clients with 4 KiB each: the buffers run out.
    for (client, _) in &mut clients {
        client.write_all(&[7; 4_096]).unwrap();
    }
    assert_eq!(world.receive(40 * 4_096), vec![7; 40 * 4_096]);
    for (client, _) in &mut clients {
        client.write_all(&[9; 10]).unwrap();
    }
    assert_eq!(world.receive(400), vec![9; 400]);
}

/// Has each of `count` clients send 100 bytes, and takes in events until the buffers have run out.
/// Returns the clients, and the events whose buffers are still out.
fn starve(world: &mut World, count: usize) -> (Vec<TcpStream>, Vec<Received>) {
    let mut clients: Vec<_> = (0..count).map(|_| world.connect().0).collect();
    for client in &mut clients {
        client.write_all(&[7; 100]).unwrap();
    }
    let buffer_count = usize::from(CONFIG.buffer_count);
    let mut lent = Vec::new();
    while lent.len() < buffer_count || world.ring.starved.len() < count - buffer_count {
        world.ring.turn(Wait::AtMost(Duration::from_millis(100))).unwrap();
        while let Some(event) = world.ring.next_event() {
            let Event::Received(received) = event else { panic!("bytes, not {event:?}") };
            lent.push(received);
        }
        assert!(world.started.elapsed() < LIMIT, "the buffers run out");
    }
    (clients, lent)
}

#[test]
fn no_more_receives_are_armed_again_than_there_are_buffers() {
    let mut world = World::new();
    let (_clients, mut lent) = starve(&mut world, 40);
    world.ring.arm_starved();
    assert_eq!(world.ring.starved.len(), 32, "without a buffer none is armed");
    for received in lent.drain(..3) {
        world.ring.recycle(received);
    }
    assert!(world.ring.has_work());
    let before = world.ring.uring.submission().len();
    world.ring.arm_starved();
    assert_eq!(world.ring.uring.submission().len(), before + 3);
    assert_eq!(world.ring.starved.len(), 29);
    for received in lent {
        world.ring.recycle(received);
    }
    assert_eq!(world.receive(32 * 100), vec![7; 32 * 100]);
}

#[test]
fn a_buffer_named_with_an_error_goes_back_and_the_ring_goes_on() {
    let mut world = World::new();
    let (mut client, id) = world.connect();
    client.write_all(b"first").unwrap();
    // The kernel takes the buffers in their order: this is the first. It is given back below, as if the
    // kernel had named it with an error.
    let Event::Received(_) = world.next() else { panic!("bytes") };
    let (has_buffer, has_more) = (1, 2);
    let flags = has_buffer | has_more;
    assert_eq!(cqueue::buffer_select(flags), Some(0));
    assert!(cqueue::more(flags));
    assert!(world.ring.on_receive(id, -libc::ECONNRESET, flags).is_none());
    // What was dropped was never recycled: one buffer less.
    assert_eq!(world.ring.buffers.free_count(), usize::from(CONFIG.buffer_count) - 1);
    client.write_all(&[5; 20_000]).unwrap();
    assert_eq!(world.receive(20_000), vec![5; 20_000]);
}

#[test]
#[should_panic(expected = "goes back to the ring that lent it")]
fn a_buffer_of_one_ring_is_not_taken_back_by_another() {
    let mut world = World::new();
    let (mut client, _) = world.connect();
    client.write_all(b"hello").unwrap();
    let Event::Received(received) = world.next() else { panic!("bytes") };
    World::new().ring.recycle(received);
}

#[test]
#[should_panic(expected = "is read from the ring that lent it")]
fn a_buffer_of_one_ring_is_not_read_from_another() {
    let mut world = World::new();
    let (mut client, _) = world.connect();
    client.write_all(b"hello").unwrap();
    let Event::Received(received) = world.next() else { panic!("bytes") };
    let _ = World::new().ring.bytes(&received);
}

#[test]
fn completions_for_which_the_queue_had_no_room_are_fetched_without_waiting() {
    let mut world = World::new();
    world.ring.turn(Wait::No).unwrap();
    // Eight completions fit for each submission.
    let count = u64::from(CONFIG.submission_count) * 10;
    for token in 0..count {
        let data = (token << OPERATION_BITS) | Operation::Foreign as u64;
        let entry = opcode::Nop::new().build().user_data(data);
        // SAFETY: the entry points to nothing.
        while unsafe { world.ring.uring.submission().push(&entry) }.is_err() {
            world.ring.uring.submit().unwrap();
        }
        world.ring.foreign_count += 1;
    }
    world.ring.uring.submit().unwrap();
    assert!(world.ring.uring.submission().cq_overflow(), "the test is about an overflow");
    let mut tokens = Vec::new();
    // Each turn fetches as many as fit.
    while world.ring.has_work() {
        world.ring.turn(Wait::No).unwrap();
        while let Some(event) = world.ring.next_event() {
            if let Event::Completed(completed) = event {
                tokens.push(completed.token());
            }
        }
    }
    assert_eq!(tokens, (0..count).collect::<Vec<_>>());
}

#[test]
fn a_paused_connection_is_not_read_until_it_is_resumed() {
    let mut world = World::new();
    let (mut client, id) = world.connect();
    world.ring.pause(id);
    // The cancellation and the end of the receive are on their way; let them pass.
    for _ in 0..3 {
        world.ring.turn(Wait::AtMost(Duration::from_millis(1))).unwrap();
        assert!(world.ring.next_event().is_none());
    }
    client.write_all(b"later").unwrap();
    for _ in 0..3 {
        world.ring.turn(Wait::AtMost(Duration::from_millis(1))).unwrap();
        assert!(world.ring.next_event().is_none());
    }
    world.ring.resume(id);
    assert_eq!(world.receive(5), b"later");
}

#[test]
fn pausing_and_resuming_at_once_loses_nothing() {
    let mut world = World::new();
    let (mut client, id) = world.connect();
    for round in 0..50_u8 {
        world.ring.pause(id);
        client.write_all(&[round]).unwrap();
        world.ring.resume(id);
        assert_eq!(world.receive(1), [round]);
    }
}

#[test]
fn a_client_that_leaves_is_reported_and_its_slot_used_again() {
    let mut world = World::new();
    let (client, id) = world.connect();
    drop(client);
    assert!(matches!(world.next(), Event::Ended(of) if of == id));
    world.ring.close(id);
    assert!(matches!(world.next(), Event::Closed(of) if of == id));
    let (_client, next) = world.connect();
    assert_eq!(next.slot(), id.slot());
    assert_ne!(next, id);
    // What is done in the old name does nothing to the new owner of the slot.
    world.ring.close(id);
    world.ring.send(id, b"astray".to_vec());
    assert!(!world.ring.is_sending(next));
}

#[test]
fn closing_while_a_send_is_stuck_frees_the_connection() {
    let mut world = World::new();
    let (client, id) = world.connect();
    world.ring.send(id, vec![1; 64 << 20]);
    for _ in 0..3 {
        world.ring.turn(Wait::AtMost(Duration::from_millis(1))).unwrap();
    }
    assert!(world.ring.is_sending(id));
    world.ring.close(id);
    assert!(matches!(world.next(), Event::Closed(of) if of == id));
    drop(client);
}

#[test]
fn a_half_closed_client_still_gets_its_answer() {
    let mut world = World::new();
    let (mut client, id) = world.connect();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(world.receive(8), b"question");
    assert!(matches!(world.next(), Event::Ended(of) if of == id));
    world.ring.send(id, b"answer".to_vec());
    assert!(matches!(world.next(), Event::Sent(of, _) if of == id));
    world.ring.close(id);
    assert!(matches!(world.next(), Event::Closed(_)));
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
}

#[test]
fn the_doorbell_ends_a_wait() {
    let mut world = World::new();
    let bell = Arc::clone(&world.ring.doorbell);
    world.ring.turn(Wait::No).unwrap();
    for _ in 0..100 {
        bell.fall_asleep();
        let ringer = Arc::clone(&bell);
        let ringing = std::thread::spawn(move || ringer.ring());
        let before = Instant::now();
        // Without the bell this would last the whole limit.
        world.ring.turn(Wait::AtMost(LIMIT)).unwrap();
        assert!(before.elapsed() < LIMIT);
        bell.wake_up();
        ringing.join().unwrap();
        while world.ring.next_event().is_some() {}
    }
}

#[test]
fn the_activity_descriptor_tells_of_input_only_when_asked() {
    let mut world = World::new();
    let (mut client, _) = world.connect();
    world.ring.turn(Wait::No).unwrap();
    let activity = world.ring.activity().unwrap();
    let readable = |limit| {
        let mut wait = [rustix::event::PollFd::new(&activity, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: limit, tv_nsec: 0 };
        rustix::event::poll(&mut wait, Some(&limit)).unwrap() == 1
    };
    client.write_all(b"a").unwrap();
    assert_eq!(world.receive(1), b"a");
    assert!(!readable(0));
    world.ring.notify(true);
    client.write_all(b"b").unwrap();
    assert!(readable(20));
    assert_eq!(world.receive(1), b"b");
}

#[test]
fn many_rings_leave_no_descriptor_behind() {
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    // Other tests of this process open and close descriptors too, so compare a lower bound over
    // fifty rounds: a leak of one descriptor a round would add up to 50.
    let before = count();
    for _ in 0..50 {
        let mut world = World::new();
        let (client, id) = world.connect();
        world.ring.send(id, vec![1; 1 << 20]);
        world.ring.turn(Wait::No).unwrap();
        drop(world);
        drop(client);
    }
    let after = count();
    assert!(after < before + 50, "{before} descriptors became {after}");
}

/// Bytes in a file without a name, and an operation that reads them.
struct Reading {
    file: std::fs::File,
    buffer: Vec<u8>,
}

impl Reading {
    fn of(bytes: &[u8]) -> Self {
        let name = rustix::fs::memfd_create("reading", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = std::fs::File::from(name);
        file.write_all(bytes).unwrap();
        Self { file, buffer: vec![0; bytes.len()] }
    }

    fn entry(&mut self) -> squeue::Entry {
        let len = u32::try_from(self.buffer.len()).unwrap();
        let file = types::Fd(self.file.as_raw_fd());
        opcode::Read::new(file, self.buffer.as_mut_ptr(), len).offset(0).build()
    }
}

#[test]
fn an_operation_of_the_owners_is_carried_out_among_the_others() {
    let mut world = World::new();
    let (mut client, id) = world.connect();
    let mut readings: Vec<Reading> = (0..200_u8).map(|index| Reading::of(&[index; 64])).collect();
    // More than the ring takes at once, with tokens of all 56 bits.
    for (reading, index) in readings.iter_mut().zip(0_u64..) {
        // SAFETY: the readings outlive the ring's last word about them, which is waited for below.
        unsafe { world.ring.submit(reading.entry(), TOKEN_END - 1 - index) };
    }
    client.write_all(b"hello").unwrap();
    let mut received = 0;
    let mut tokens = std::collections::BTreeSet::new();
    while received < 5 || tokens.len() < 200 {
        match world.next() {
            Event::Completed(completed) => {
                assert_eq!(completed.result(), 64);
                assert!(tokens.insert(completed.token()));
            }
            Event::Received(bytes) => {
                assert_eq!(bytes.connection, id);
                received += world.ring.bytes(&bytes).len();
                world.ring.recycle(bytes);
            }
            other => panic!("bytes or a completion, not {other:?}"),
        }
    }
    assert_eq!(tokens, (0..200).map(|index| TOKEN_END - 1 - index).collect());
    for (reading, index) in readings.iter().zip(0_u8..) {
        assert_eq!(reading.buffer, [index; 64]);
    }
}

#[test]
fn a_failed_operation_of_the_owners_tells_its_error() {
    let mut world = World::new();
    let nowhere = opcode::Fsync::new(types::Fd(-1)).build();
    // SAFETY: the entry points to nothing.
    unsafe { world.ring.submit(nowhere, 7) };
    let Event::Completed(Completed { token: 7, result }) = world.next() else {
        panic!("it is told")
    };
    assert_eq!(result, -libc::EBADF);
}

#[test]
fn a_ring_asleep_is_woken_by_an_operation_of_the_owners() {
    let mut world = World::new();
    for token in 0..100 {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut byte = [0_u8];
        let read = opcode::Read::new(types::Fd(reader.as_raw_fd()), byte.as_mut_ptr(), 1).build();
        // SAFETY: pipe and byte outlive the completion, which is waited for below.
        unsafe { world.ring.submit(read, token) };
        world.ring.turn(Wait::No).unwrap();
        assert!(world.ring.next_event().is_none());
        let writing = std::thread::spawn(move || writer.write_all(b"x").unwrap());
        let before = Instant::now();
        // Without the completion this would last the whole limit.
        world.ring.turn(Wait::AtMost(LIMIT)).unwrap();
        assert!(before.elapsed() < LIMIT);
        let Event::Completed(Completed { token: of, result: 1 }) = world.next() else {
            panic!("a byte")
        };
        assert_eq!((of, byte), (token, *b"x"));
        writing.join().unwrap();
    }
}

#[test]
fn a_ring_that_is_dropped_waits_for_what_it_was_handed() {
    let mut world = World::new();
    let mut reading = Reading::of(&[3; 4_096]);
    // SAFETY: a read of memory ends within the time that dropping waits.
    unsafe { world.ring.submit(reading.entry(), 1) };
    drop(world);
    assert_eq!(reading.buffer, [3; 4_096]);
}

#[test]
#[should_panic(expected = "a token fits")]
fn a_token_of_too_many_bits_is_the_owners_mistake() {
    let mut world = World::new();
    // SAFETY: the entry points to nothing.
    unsafe { world.ring.submit(opcode::Nop::new().build(), TOKEN_END) };
}
