//! What is asked of a target.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{positive, share};
use crate::keys::{Distribution, KeyBuffer};
use crate::workload::{
    CommandTemplate, Mix, Operation, PRESET_NAMES, Preset, ROW_BYTES, Sizes, Workload,
};

/// Bytes of a value, unless a workload or an option says otherwise.
const VALUE_BYTES: usize = 64;

/// What to ask.
#[derive(Clone, Debug, Args)]
pub struct WorkloadOptions {
    /// A workload by name: ycsb-a (half reads, half writes), ycsb-b (95 % reads), ycsb-c (reads),
    /// ycsb-d (reads of the latest, insertions), ycsb-e (scans, insertions), ycsb-f (reads,
    /// read-modify-writes), with values of 1000 B. Other options go before what it says.
    #[arg(long, value_name = "NAME", value_parser = preset)]
    pub workload: Option<Preset>,
    /// How many keys there are.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=1 << 48))]
    pub keys: u64,
    /// Bytes of each key, `key:` and digits: as in `16`, or a distribution as of --value-size.
    #[arg(long, value_name = "BYTES", default_value = "16", value_parser = key_sizes)]
    pub key_size: Sizes,
    /// Bytes of each value: `64`; `16-1024` for sizes drawn evenly from a range; `64:90,4096:10` for
    /// some sizes with their shares; `lognormal:MEDIAN:SIGMA:MAX`. Default: 64.
    #[arg(long, value_name = "BYTES")]
    pub value_size: Option<Sizes>,
    /// Draw every byte of every value for it alone, so that neither compression nor deduplication
    /// finds anything. Default: values are cut from a pool of 1 MiB of random bytes.
    #[arg(long)]
    pub distinct: bool,
    /// The share of reads; the other requests write. Default: 0.5.
    #[arg(long, value_parser = share)]
    pub reads: Option<f64>,
    /// Shares of operations, as in `get=0.95,set=0.05` or `get=90,incr=5,push=5`: get, set, insert,
    /// scan, rmw (read-modify-write), del, exists, incr, append, and those of --command.
    #[arg(long, value_name = "NAME=SHARE,...", conflicts_with = "reads")]
    pub mix: Option<String>,
    /// A command of your own for --mix, as in `push=LPUSH {key} {value}`. May be repeated.
    #[arg(long = "command", value_name = "NAME=COMMAND", value_parser = CommandTemplate::parse)]
    pub own_commands: Vec<CommandTemplate>,
    /// How requests spread over keys. Default: uniform.
    #[arg(long, value_enum)]
    pub distribution: Option<DistributionName>,
    /// The exponent of --distribution zipfian and latest.
    #[arg(long, default_value_t = 0.99, value_parser = inner_share)]
    pub zipf_theta: f64,
    /// --distribution hotspot and exponential: the share of the keys that are hot or young.
    #[arg(long, default_value_t = 0.2, value_parser = inner_share)]
    pub hot_keys: f64,
    /// --distribution hotspot and exponential: the share of the requests that go to them.
    #[arg(long, default_value_t = 0.8, value_parser = inner_share)]
    pub hot_requests: f64,
    /// Rows of a scan, each number alike, as in `10` or `1-100`.
    #[arg(long, value_name = "COUNT", default_value = "1-100", value_parser = rows)]
    pub scan_rows: (u32, u32),
    /// How long what is written lives, as in `60s` or `30s-90s`. Default: for ever.
    #[arg(long, value_name = "TIME", value_parser = times)]
    pub ttl: Option<TimeRange>,
    /// What all randomness derives from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// A time, or from one time to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRange(pub Duration, pub Duration);

/// How requests spread over keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DistributionName {
    /// Every key alike.
    Uniform,
    /// A few keys often, scattered over all.
    Zipfian,
    /// The newest keys often, by the same law.
    Latest,
    /// Some of the keys often, evenly.
    Hotspot,
    /// The newest keys often, with exponentially fewer requests for older ones.
    Exponential,
}

impl WorkloadOptions {
    /// The workload they describe.
    ///
    /// # Errors
    ///
    /// A sentence, when they contradict each other.
    pub fn workload(&self) -> Result<Workload, String> {
        let key_count_max = KeyBuffer::key_count_max(self.key_size.min());
        if self.keys > key_count_max {
            return Err(format!(
                "--key-size {} has digits for {key_count_max} keys, not for {}",
                self.key_size, self.keys
            ));
        }
        if self.own_commands.len() > 100 {
            return Err("there are more than 100 times --command".to_owned());
        }
        let preset = self.workload.as_ref();
        let mix = match (&self.mix, self.reads, preset) {
            (Some(mix), ..) => self.parse_mix(mix)?,
            (None, Some(reads), _) => Mix::of_reads(reads),
            (None, None, Some(preset)) => preset.mix.clone(),
            (None, None, None) => Mix::of_reads(0.5),
        };
        if let Some(unused) =
            self.own_commands.iter().zip(0..).find(|it| !mix.has(Operation::Command(it.1)))
        {
            return Err(format!("--command {} is not part of --mix", unused.0.name));
        }
        let value_bytes = if preset.is_some() { ROW_BYTES } else { VALUE_BYTES };
        Ok(Workload {
            name: preset.map(|it| it.name),
            key_count: self.keys,
            key_sizes: self.key_size.clone(),
            value_sizes: self.value_size.clone().unwrap_or(Sizes::Fixed(value_bytes)),
            is_distinct: self.distinct,
            mix,
            commands: self.own_commands.clone(),
            distribution: match (self.distribution, preset) {
                (Some(name), _) => self.named(name),
                (None, Some(preset)) => preset.distribution,
                (None, None) => Distribution::Uniform,
            },
            scan_rows: self.scan_rows,
            time_to_live: self.ttl.map(|it| (it.0, it.1)),
            seed: self.seed,
        })
    }

    fn named(&self, name: DistributionName) -> Distribution {
        let (theta, keys, requests) = (self.zipf_theta, self.hot_keys, self.hot_requests);
        match name {
            DistributionName::Uniform => Distribution::Uniform,
            DistributionName::Zipfian => Distribution::Zipfian { theta },
            DistributionName::Latest => Distribution::Latest { theta },
            DistributionName::Hotspot => Distribution::Hotspot { keys, requests },
            DistributionName::Exponential => Distribution::Exponential { keys, requests },
        }
    }

    fn parse_mix(&self, text: &str) -> Result<Mix, String> {
        let mut weights = Vec::new();
        for part in text.split(',') {
            let (name, weight) =
                part.split_once('=').ok_or("--mix: expected NAME=SHARE,NAME=SHARE")?;
            let weight = weight.parse().map_err(|_| format!("--mix: {weight:?} is no share"))?;
            let named = Operation::NAMED.iter().find(|it| it.1 == name).map(|it| it.0);
            let own = || {
                let index = self.own_commands.iter().position(|it| it.name == name)?;
                u8::try_from(index).ok().map(Operation::Command)
            };
            let operation = named.or_else(own).ok_or_else(|| {
                let known = Operation::NAMED.map(|it| it.1).join(", ");
                format!(
                    "--mix: unknown operation {name:?}: there are {known}, and those of --command"
                )
            })?;
            weights.push((operation, weight));
        }
        Mix::new(&weights).map_err(|error| format!("--mix: {error}"))
    }
}

fn preset(text: &str) -> Result<Preset, String> {
    Preset::named(text)
        .ok_or_else(|| format!("unknown workload: there are {}", PRESET_NAMES.join(", ")))
}

fn key_sizes(text: &str) -> Result<Sizes, String> {
    let sizes: Sizes = text.parse()?;
    if sizes.max() > 64 << 10 {
        return Err("a key has at most 65536 bytes".to_owned());
    }
    Ok(sizes)
}

fn inner_share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err("expected a number above 0 and below 1".to_owned()),
    }
}

fn rows(text: &str) -> Result<(u32, u32), String> {
    let (min, max) = text.split_once('-').unwrap_or((text, text));
    match (positive(min), positive(max)) {
        (Ok(min), Ok(max)) if min <= max && max <= 10_000 => Ok((min as u32, max as u32)),
        _ => Err("expected a number of rows as in 10 or 1-100, at most 10000".to_owned()),
    }
}

fn times(text: &str) -> Result<TimeRange, String> {
    let (min, max) = text.split_once('-').unwrap_or((text, text));
    match (humantime::parse_duration(min), humantime::parse_duration(max)) {
        (Ok(min), Ok(max)) if min <= max && min >= Duration::from_millis(1) => {
            Ok(TimeRange(min, max))
        }
        _ => Err("expected a time as in 60s or 30s-90s, of a millisecond at least".to_owned()),
    }
}
