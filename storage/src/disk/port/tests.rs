use super::*;
use crate::disk::zeroed;

/// A port, the inbox of a disk, and a file of 64 KiB.
struct World {
    port: IoPort,
    inbox: Inbox,
    file: Rc<OwnedFd>,
}

impl World {
    fn new() -> Self {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 16).unwrap();
        let file = Rc::new(OwnedFd::from(file));
        Self { port: IoPort::new(), inbox: Inbox::default(), file }
    }

    fn start(&self, tag: u64, work: Work) {
        self.port.start(&self.inbox, tag, work);
    }

    fn write(&self, len: usize, durable: Option<SyncMethod>) -> Work {
        let descriptor = Rc::clone(&self.file);
        Work::Write { descriptor, offset: 0, buffer: zeroed(len), durable }
    }

    fn read(&self, len: usize) -> Work {
        let descriptor = Rc::clone(&self.file);
        Work::Read { descriptor, offset: 0, buffer: zeroed(len) }
    }

    fn next(&self) -> Submission {
        self.port.next_submission().unwrap()
    }

    /// Tells of an end, and what the disk hears of it.
    fn complete(&self, token: u64, result: i32) -> Option<Ended> {
        // SAFETY: no ring has the operation; none of those told here as done has opened anything.
        unsafe { self.port.complete(token, result) };
        self.inbox.borrow_mut().pop_front()
    }
}

#[test]
fn a_ring_of_the_callers_carries_out_what_the_port_hands_out() {
    let world = World::new();
    let mut buffer = zeroed(8192);
    buffer.fill(7);
    let descriptor = Rc::clone(&world.file);
    let durable = Some(SyncMethod::Fdatasync);
    world.start(1, Work::Write { descriptor, offset: 4096, buffer, durable });
    let mut uring = IoUring::new(8).unwrap();
    let mut submission_count = 0;
    while let Some(Submission { entry, token }) = world.port.next_submission() {
        // SAFETY: the port keeps what the entry points to until it is told of the end.
        unsafe { uring.submission().push(&entry.user_data(token << 8)).unwrap() };
        assert_eq!(world.port.in_flight(), 1);
        uring.submit_and_wait(1).unwrap();
        let completion = uring.completion().next().unwrap();
        // SAFETY: the ring has just named the end of the operation.
        unsafe { world.port.complete(completion.user_data() >> 8, completion.result()) };
        submission_count += 1;
    }
    assert_eq!(submission_count, 2, "a write and a sync behind it");
    let ended = world.inbox.borrow_mut().pop_front().unwrap();
    ended.result.unwrap();
    assert_eq!(ended.tag, 1);
    let mut bytes = [0; 8192];
    rustix::io::pread(&world.file, &mut bytes, 4096).unwrap();
    assert_eq!(bytes, [7; 8192]);
}

#[test]
fn what_was_done_in_part_goes_on_where_a_sector_begins() {
    let world = World::new();
    world.start(1, world.write(8192, None));
    let first = world.next();
    assert!(world.port.next_submission().is_none());
    assert!(world.complete(first.token, 1000).is_none());
    assert!(world.port.has_submissions());
    let second = world.next();
    assert!(world.complete(second.token, 8192 - 512).unwrap().result.is_ok());
}

#[test]
fn interruptions_are_tried_again_and_failures_are_not() {
    let world = World::new();
    world.start(1, world.read(4096));
    for errno in [libc::EINTR, libc::EAGAIN] {
        let token = world.next().token;
        assert!(world.complete(token, -errno).is_none());
    }
    let token = world.next().token;
    let ended = world.complete(token, -libc::EIO).unwrap();
    assert_eq!(ended.result.unwrap_err().raw_os_error(), Some(libc::EIO));
    assert!(!world.port.has_submissions());
}

#[test]
fn a_sync_that_fails_behind_its_write_fails_the_write() {
    let world = World::new();
    world.start(1, world.write(4096, Some(SyncMethod::Fdatasync)));
    let token = world.next().token;
    assert!(world.complete(token, 4096).is_none());
    let token = world.next().token;
    let ended = world.complete(token, -libc::EIO).unwrap();
    assert!(ended.result.is_err());
    assert!(!world.port.has_submissions());
}

#[test]
fn nothing_moved_is_an_end_and_not_a_loop() {
    let world = World::new();
    world.start(1, world.read(4096));
    let token = world.next().token;
    let ended = world.complete(token, 0).unwrap();
    assert_eq!(ended.result.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    world.start(2, world.write(4096, None));
    let token = world.next().token;
    let ended = world.complete(token, 100).unwrap();
    assert_eq!(ended.result.unwrap_err().kind(), io::ErrorKind::WriteZero);
}

#[test]
fn a_dropped_port_frees_nothing_that_the_kernel_may_use() {
    let world = World::new();
    world.start(1, world.read(4096));
    world.start(2, world.read(4096));
    let file = Rc::downgrade(&world.file);
    let _with_the_kernel = world.next();
    drop(world);
    assert_eq!(file.strong_count(), 1, "the one in flight holds its file, the other is gone");
}

#[test]
#[should_panic(expected = "an operation ends once")]
fn a_token_is_told_of_once() {
    let world = World::new();
    world.start(1, world.read(4096));
    let token = world.next().token;
    world.complete(token, 4096);
    world.start(2, world.read(4096));
    let next = world.next();
    assert_ne!(token, next.token, "a slot used again has another token");
    world.complete(token, 4096);
}

#[test]
fn more_work_than_the_ports_ring_holds_is_carried_out() {
    let world = World::new();
    for tag in 0..500 {
        world.start(tag, world.read(4096));
    }
    while world.inbox.borrow().len() < 500 {
        world.port.drive(true).unwrap();
    }
    assert!(world.inbox.borrow().iter().all(|it| it.result.is_ok()));
    assert!(world.port.drive(true).is_err(), "there is nothing left to wait for");
    world.port.drive(false).unwrap();
    world.port.stop_driving();
    world.port.stop_driving();
}
