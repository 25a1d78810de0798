//! What happens to which node, and when: `5s:kill:2`, `9s:restart:2`, `12s:pause:3:2s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What is done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is killed: `SIGKILL`.
    Kill,
    /// It is asked to end: `SIGTERM`.
    Stop,
    /// It is started again, with its data.
    Restart,
    /// It is held: `SIGSTOP`.
    Pause,
    /// It goes on: `SIGCONT`.
    Resume,
}

impl Action {
    const NAMED: [(&'static str, Self); 5] = [
        ("kill", Self::Kill),
        ("stop", Self::Stop),
        ("restart", Self::Restart),
        ("pause", Self::Pause),
        ("resume", Self::Resume),
    ];

    fn name(self) -> &'static str {
        Self::NAMED.iter().find(|it| it.1 == self).map_or("", |it| it.0)
    }
}

/// Something that is done to a node at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// From the begin of the measurement on.
    pub at: Duration,
    /// The node's number, from 1 on.
    pub node: usize,
    /// What.
    pub action: Action,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} node {}", self.action.name(), self.node)
    }
}

/// One option: an event, or a pause and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    events: Vec<Event>,
}

const EXPECTED: &str = "expected TIME:WHAT:NODE, as in 5s:kill:2, 9s:restart:2, 5s:stop:1, \
                        5s:pause:3 and 7s:resume:3, or 5s:pause:3:2s";

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let (head, length) = match parts[..] {
            [at, what, node] => ((at, what, node), None),
            [at, what, node, length] => ((at, what, node), Some(length)),
            _ => return Err(EXPECTED.to_owned()),
        };
        let time = |text| humantime::parse_duration(text).map_err(|_| EXPECTED.to_owned());
        let at = time(head.0)?;
        let named = Action::NAMED.iter().find(|it| it.0 == head.1);
        let action = named.ok_or_else(|| format!("unknown fault {:?}: {EXPECTED}", head.1))?.1;
        let node = head.2.parse().map_err(|_| EXPECTED.to_owned())?;
        let mut events = vec![Event { at, node, action }];
        match (action, length) {
            (_, None) => {}
            (Action::Pause, Some(length)) => {
                events.push(Event { at: at + time(length)?, node, action: Action::Resume });
            }
            _ => return Err(EXPECTED.to_owned()),
        }
        Ok(Self { events })
    }
}

/// All events of a run, the next one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// The next one last.
    left: Vec<Event>,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Paused,
    Gone,
}

impl Faults {
    /// The events of a run of `duration` on `node_count` nodes.
    ///
    /// # Errors
    ///
    /// A sentence, when one of them cannot happen.
    pub fn new(faults: &[Fault], node_count: usize, duration: Duration) -> Result<Self, String> {
        let mut events: Vec<Event> =
            faults.iter().flat_map(|it| it.events.iter().copied()).collect();
        events.sort_by_key(|it| it.at);
        let mut states = vec![State::Running; node_count];
        for event in &events {
            let state = event.node.checked_sub(1).and_then(|index| states.get_mut(index));
            let Some(state) = state else {
                return Err(format!(
                    "--fault: there are nodes 1 to {node_count}, not {}",
                    event.node
                ));
            };
            if event.at >= duration {
                return Err(format!(
                    "--fault: {event} at {} s is not within the {} s that are measured",
                    event.at.as_secs_f64(),
                    duration.as_secs_f64()
                ));
            }
            *state = match (event.action, *state) {
                (Action::Kill | Action::Stop, State::Running | State::Paused) => State::Gone,
                (Action::Restart, State::Running | State::Gone) => State::Running,
                (Action::Pause, State::Running) => State::Paused,
                (Action::Resume, State::Paused) => State::Running,
                (_, state) => {
                    return Err(format!(
                        "--fault: cannot {event} at {} s, when it is {}",
                        event.at.as_secs_f64(),
                        match state {
                            State::Running => "running",
                            State::Paused => "paused",
                            State::Gone => "gone",
                        }
                    ));
                }
            };
        }
        events.reverse();
        Ok(Self { left: events })
    }

    /// The next event, if its time has come.
    pub fn next_due(&mut self, elapsed: Duration) -> Option<Event> {
        self.left.pop_if(|event| event.at <= elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(line: &str) -> Result<Faults, String> {
        let all: Result<Vec<Fault>, String> = line.split(' ').map(str::parse).collect();
        Faults::new(&all?, 3, Duration::from_secs(10))
    }

    #[test]
    fn events_come_in_order_when_they_are_due() {
        let mut faults = faults("7s:restart:2 500ms:kill:2 1s:pause:3:2s").unwrap();
        assert_eq!(faults.next_due(Duration::from_millis(499)), None);
        let mut due = |seconds| {
            let event = faults.next_due(Duration::from_secs(seconds))?;
            Some(event.to_string())
        };
        assert_eq!(due(2).as_deref(), Some("kill node 2"));
        assert_eq!(due(2).as_deref(), Some("pause node 3"));
        assert_eq!(due(2), None);
        assert_eq!(due(9).as_deref(), Some("resume node 3"));
        assert_eq!(due(9).as_deref(), Some("restart node 2"));
        assert_eq!(due(9), None);
    }

    #[test]
    fn what_cannot_happen_is_refused() {
        for (line, expected) in [
            ("5s:kill:4", "there are nodes 1 to 3, not 4"),
            ("5s:kill:0", "there are nodes 1 to 3, not 0"),
            ("12s:kill:1", "kill node 1 at 12 s is not within the 10 s"),
            ("1s:kill:1 2s:kill:1", "cannot kill node 1 at 2 s, when it is gone"),
            ("1s:resume:1", "when it is running"),
            ("1s:pause:1 2s:restart:1", "when it is paused"),
            ("9s:pause:1:2s", "resume node 1 at 11 s"),
            ("1s:melt:1", "unknown fault \"melt\""),
            ("1s:kill:1:2s", "expected TIME:WHAT:NODE"),
            ("x:kill:1", "expected TIME:WHAT:NODE"),
            ("kill", "expected TIME:WHAT:NODE"),
        ] {
            let error = faults(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
