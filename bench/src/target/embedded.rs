//! The engine from outside of its cores: threads of the process that call its API.

use std::collections::BTreeSet;

use futures_lite::future::block_on;
use futures_util::future::join_all;
use gridkv::{Batch, BatchResult, Error, Expiry, Handle, SetOptions};

use super::callers::{Calls, OwnedRequest, call};
use super::engine::EngineSlot;
use super::{Failure, Measurement, Preparation, Target};
use crate::options::{CallStyle, MeasureOptions};
use crate::proc::online_cpus;
use crate::record::Answer;
use crate::workload::{Operation, Workload};

/// The target `embedded`.
pub struct EmbeddedTarget {
    slot: EngineSlot,
}

impl EmbeddedTarget {
    /// An engine to be opened by [`Target::prepare`].
    #[must_use]
    pub fn new(workload: Workload, options: MeasureOptions) -> Self {
        Self { slot: EngineSlot::new(workload, options) }
    }
}

impl Target for EmbeddedTarget {
    fn prepare(&mut self) -> Result<Preparation, Failure> {
        let (workload, style) = (&self.slot.workload, self.slot.options.engine.calls);
        let refused = workload.mix.parts().iter().find(|it| !is_offered(it.0, style));
        if let Some((operation, _)) = refused {
            let what = if style == CallStyle::Batch { "its batches have" } else { "its API has" };
            return Err(Failure::Unfit {
                target: "embedded".to_owned(),
                why: format!("{what} no {}", workload.name_of(*operation)),
            });
        }
        self.slot.prepare()
    }

    fn measure(&mut self) -> Result<Measurement, Failure> {
        let (workload, options) = (self.slot.workload.clone(), self.slot.options.clone());
        let engine = self.slot.engine()?;
        let engine_cpus: BTreeSet<usize> = engine.cpus().iter().copied().collect();
        let cpus = match &options.client_cpus {
            Some(list) => list.0.clone(),
            None => &online_cpus() - &engine_cpus,
        };
        let calls = |_| -> Box<dyn Calls> {
            let (style, handle) = (options.engine.calls, engine.handle.clone());
            Box::new(EngineCalls { style, handle })
        };
        let calls = (0..options.threads).map(calls).collect();
        let mut measurement = call(calls, &workload, &options, &cpus)?;
        measurement.engine_cpus = engine.cpus().to_vec();
        if let Some(server) = &mut measurement.server {
            server.pinned_cpus = engine_cpus;
        }
        Ok(measurement)
    }

    fn rest(&mut self) {
        self.slot.rest();
    }
}

/// Whether the engine's API has `operation`.
fn is_offered(operation: Operation, style: CallStyle) -> bool {
    match operation {
        Operation::Get
        | Operation::Set
        | Operation::Insert
        | Operation::Delete
        | Operation::Increment
        | Operation::Scan => true,
        Operation::ReadModifyWrite | Operation::Exists => style != CallStyle::Batch,
        Operation::Append | Operation::Command(_) => false,
    }
}

/// How requests become calls.
struct EngineCalls {
    style: CallStyle,
    handle: Handle,
}

impl Calls for EngineCalls {
    fn make(&mut self, requests: &mut [OwnedRequest]) -> Vec<Result<Answer, String>> {
        match self.style {
            CallStyle::Blocking => requests
                .iter_mut()
                .map(|it| block_on(one(&self.handle, it)).map_err(|error| error.to_string()))
                .collect(),
            CallStyle::Async => {
                let answers = join_all(requests.iter_mut().map(|it| one(&self.handle, it)));
                let answers = block_on(answers).into_iter();
                answers.map(|it| it.map_err(|error| error.to_string())).collect()
            }
            CallStyle::Batch => self.batch(requests),
        }
    }
}

impl EngineCalls {
    fn batch(&self, requests: &mut [OwnedRequest]) -> Vec<Result<Answer, String>> {
        let lengths: Vec<usize> = requests.iter().map(|it| it.rows.len().max(1)).collect();
        let batch = requests.iter_mut().fold(self.handle.batch(), add);
        let mut results = batch.run_blocking().into_iter();
        let answer = |length| {
            // Of a scan, the first row's answer, or the first refusal.
            let mut first = Ok(Answer::Done);
            for (index, result) in results.by_ref().take(length).enumerate() {
                let result = result.map(answer_of).map_err(|error| error.to_string());
                if index == 0 || (result.is_err() && first.is_ok()) {
                    first = result;
                }
            }
            first
        };
        lengths.into_iter().map(answer).collect()
    }
}

fn add(batch: Batch, request: &mut OwnedRequest) -> Batch {
    let key = std::mem::take(&mut request.key);
    let value = std::mem::take(&mut request.value);
    match request.operation {
        Operation::Scan => request.rows.drain(..).fold(batch, Batch::get),
        Operation::Delete => batch.delete(key),
        Operation::Increment => batch.increment(key, 1),
        Operation::Set | Operation::Insert => match request.time_to_live {
            None => batch.set(key, value),
            Some(time) => batch.set_with(key, value, expiring(time)),
        },
        Operation::Get
        | Operation::ReadModifyWrite
        | Operation::Exists
        | Operation::Append
        | Operation::Command(_) => batch.get(key),
    }
}

fn answer_of(result: BatchResult) -> Answer {
    match result {
        BatchResult::Value(None) | BatchResult::Deleted(false) => Answer::Missing,
        _ => Answer::Done,
    }
}

async fn one(handle: &Handle, request: &mut OwnedRequest) -> Result<Answer, Error> {
    let key = &request.key;
    let write = async |value| match request.time_to_live {
        None => handle.set(key, value).await.map(|()| Answer::Done),
        Some(time) => handle.set_with(key, value, expiring(time)).await.map(|_| Answer::Done),
    };
    let value = std::mem::take(&mut request.value);
    match request.operation {
        Operation::Get => Ok(found(handle.get(key).await?.is_some())),
        Operation::Set | Operation::Insert => write(value).await,
        Operation::ReadModifyWrite => {
            handle.get(key).await?;
            write(value).await
        }
        Operation::Scan => {
            let rows = join_all(request.rows.iter().map(|row| handle.get(row))).await;
            rows.into_iter().collect::<Result<Vec<_>, Error>>().map(|_| Answer::Done)
        }
        Operation::Delete => Ok(found(handle.delete(key).await?)),
        Operation::Exists => Ok(found(handle.exists(key).await?)),
        Operation::Increment => handle.increment(key, 1).await.map(|_| Answer::Done),
        Operation::Append | Operation::Command(_) => {
            unreachable!("refused when the target was prepared")
        }
    }
}

fn expiring(time: std::time::Duration) -> SetOptions {
    SetOptions { expiry: Expiry::After(time), ..SetOptions::default() }
}

fn found(is_found: bool) -> Answer {
    if is_found { Answer::Done } else { Answer::Missing }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::options::parse_measure;

    fn measure(line: &str) -> Measurement {
        let options = parse_measure("embedded", line);
        let mut target = EmbeddedTarget::new(options.workload.workload().unwrap(), options);
        target.prepare().unwrap();
        target.measure().unwrap()
    }

    #[test]
    fn every_request_is_answered_in_each_style_of_calls() {
        for line in [
            "-n 501 --threads 2",
            "-n 2003 --calls async -P 16",
            "-n 2003 --calls batch -P 16",
            "-n 503 --calls async -P 8 --rate 100000",
        ] {
            let measurement = measure(&format!("{line} --keys 100 --load --warmup 5ms"));
            let count: u64 = line.split(' ').nth(1).unwrap().parse().unwrap();
            assert_eq!(measurement.recorder.completed, count, "{line}");
            assert_eq!(measurement.recorder.all().count(), count);
            assert_eq!(measurement.recorder.missing, 0);
            assert!(measurement.window > Duration::ZERO);
        }
    }

    #[test]
    fn keys_that_were_not_loaded_are_missing() {
        let recorder = measure("-n 100 --keys 100 --reads 1 --warmup 0s").recorder;
        assert_eq!((recorder.completed, recorder.missing), (100, 100));
    }
}
