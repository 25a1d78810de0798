//! Nobody is told that a key is not there while a crash could bring it back: on the backend that
//! nodes use, over a disk that takes its time.

use gridkv_net::resp::Value;
use gridkv_tests::client::{Client, bulk, ok};
use gridkv_tests::gated::Gate;
use gridkv_tests::node::{Node, SHAPES, Shape, builder, with};
use gridkv_tests::until;

/// Commands that show that `k` is not there, with what they reply then. Each is asked on a connection
/// of its own, and changes nothing for the others. (The beginning of an array, as of MGET, leaves before
/// what is in it.)
fn questions() -> Vec<(&'static [&'static str], Value)> {
    vec![
        (&["GET", "k"], Value::Null),
        (&["EXISTS", "k"], Value::Integer(0)),
        (&["DEL", "k"], Value::Integer(0)),
        (&["GETDEL", "k"], Value::Null),
        (&["STRLEN", "k"], Value::Integer(0)),
        (&["TTL", "k"], Value::Integer(-2)),
        (&["TYPE", "k"], Value::Simple(b"none".to_vec())),
        (&["EXPIRE", "k", "100"], Value::Integer(0)),
        (&["SET", "k", "x", "XX"], Value::Null),
        (&["RENAME", "k", "other"], Value::Error(b"ERR no such key".to_vec())),
        (&["COPY", "k", "other"], Value::Integer(0)),
    ]
}

impl Drop for Rig {
    /// A node that is shut down waits for its disk.
    fn drop(&mut self) {
        self.gate.open();
    }
}

struct Rig {
    node: Node,
    gate: Gate,
    _data: tempfile::TempDir,
}

impl Rig {
    fn start(shape: Shape) -> Self {
        let data = tempfile::tempdir().expect("a place for data");
        let gate = Gate::default();
        let builder = builder(shape).data(data.path().join("data"));
        let builder = with(builder, "segment", "1MiB");
        Self { node: Node::open(gate.install(builder)), gate, _data: data }
    }

    fn pass_a_turn(&self) {
        let mut clients: Vec<Client> = (0..4).map(|_| self.node.connect()).collect();
        for _ in 0..3 {
            for client in &mut clients {
                assert_eq!(client.ask("PING"), Value::Simple(b"PONG".to_vec()));
            }
        }
    }

    /// Has `deletion` remove `k`, and asks about it before that is durable.
    fn check(&self, deletion: &[&str], reply: &Value) {
        let (mut writer, mut other) = (self.node.connect(), self.node.connect());
        assert_eq!(other.call(&["SET", "k", "value"]), ok());
        assert_eq!(other.call(&["SET", "untouched", "value"]), ok());
        self.gate.shut();
        writer.send(deletion);
        // What tells of all keys does not wait.
        let left = Value::Integer(i64::from(deletion[0] != "FLUSHALL"));
        until("the deletion is applied", || other.ask("DBSIZE") == left);
        let mut asked: Vec<_> = questions()
            .into_iter()
            .map(|(question, reply)| {
                let mut client = self.node.connect();
                client.send(question);
                (question, client, reply)
            })
            .collect();
        self.pass_a_turn();
        assert!(writer.hears_nothing());
        for (question, client, _) in &mut asked {
            assert!(client.hears_nothing(), "{question:?} is answered too early");
        }
        if deletion[0] == "DEL" {
            assert_eq!(other.call(&["GET", "untouched"]), bulk("value"));
            assert_eq!(other.call(&["GET", "never there"]), Value::Null);
        }
        self.gate.open();
        assert_eq!(writer.reply(), *reply);
        for (question, mut client, reply) in asked {
            assert_eq!(client.reply(), reply, "{question:?}");
        }
    }
}

#[test]
fn an_absence_is_shown_when_the_deletion_is_durable() {
    for shape in SHAPES {
        let rig = Rig::start(shape);
        rig.check(&["DEL", "k"], &Value::Integer(1));
        rig.check(&["GETDEL", "k"], &bulk("value"));
        rig.check(&["FLUSHALL"], &ok());
    }
}
