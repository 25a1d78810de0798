//! Snapshots: BGSAVE, SAVE, LASTSAVE, GRIDKV SNAPSHOT.

use super::node::Task;
use super::{Failure, TaskCall, is_word, text};
use crate::snapshot::{SnapshotError, start};

impl From<SnapshotError> for Failure {
    fn from(error: SnapshotError) -> Self {
        match error {
            // As Redis says it, so that its tools know it.
            SnapshotError::UnderWay => Self::text("ERR Background save already in progress"),
            SnapshotError::Shard(error) => Self::Store(error),
            error => Self::text(format!("ERR {error}")),
        }
    }
}

/// `BGSAVE [SCHEDULE]`: starts a snapshot, named by the time.
pub(super) fn background_save(call: TaskCall) -> Task {
    Box::pin(async move {
        match &call.arguments[1..] {
            [] => {}
            // There is nothing that would have to be waited for.
            [word] if is_word(word, "SCHEDULE") => {}
            _ => return Err(Failure::Syntax),
        }
        // Whoever wants to know what comes of it asks LASTSAVE or INFO.
        drop(start(&call.handle, None)?);
        call.reply(|reply| reply.simple("Background saving started"));
        Ok(())
    })
}

/// `SAVE`: takes a snapshot, named by the time. The client waits, others are served.
pub(super) fn save(call: TaskCall) -> Task {
    Box::pin(async move {
        call.handle.snapshot(None).await?;
        call.reply_ok();
        Ok(())
    })
}

/// `LASTSAVE`: when the last snapshot that succeeded was asked for; before the first, when the node
/// was started.
pub(super) fn last_save(call: TaskCall) -> Task {
    Box::pin(async move {
        let saved_at = call.handle.node().snapshots.figures().saved_at;
        let seconds = i64::try_from(saved_at.as_millis() / 1_000).unwrap_or(i64::MAX);
        call.reply(|reply| reply.integer(seconds));
        Ok(())
    })
}

/// `GRIDKV SNAPSHOT [name]`: takes a snapshot; the reply is its directory.
pub(super) fn snapshot(call: TaskCall) -> Task {
    Box::pin(async move {
        let name = match &call.arguments[2..] {
            [] => None,
            [name] => Some(text(name)),
            _ => return Err(Failure::Arity("gridkv|snapshot".to_owned())),
        };
        let info = call.handle.snapshot(name.as_deref()).await?;
        call.reply(|reply| reply.bulk(info.path.display().to_string().as_bytes()));
        Ok(())
    })
}
