//! What is asked of a target.

use clap::{Args, ValueEnum};

use super::positive;
use crate::keys::{Distribution, KeyBuffer};
use crate::workload::{ValueSizes, Workload};

/// What to ask.
#[derive(Clone, Debug, Args)]
pub struct WorkloadOptions {
    /// How many keys there are.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// Bytes of each key: `key:` and digits.
    #[arg(long, value_name = "BYTES", default_value_t = 16, value_parser = positive)]
    pub key_size: usize,
    /// Bytes of each value, as in `64`, or `16-1024` for sizes drawn evenly from a range.
    #[arg(long, value_name = "BYTES", default_value = "64", value_parser = value_sizes)]
    pub value_size: ValueSizes,
    /// The share of reads; the other requests write.
    #[arg(long, default_value_t = 0.5, value_parser = share)]
    pub reads: f64,
    /// The same, as in `get=0.95,set=0.05`.
    #[arg(long, value_parser = mix, conflicts_with = "reads")]
    pub mix: Option<f64>,
    /// How requests spread over keys.
    #[arg(long, value_enum, default_value_t = DistributionName::Uniform)]
    pub distribution: DistributionName,
    /// The exponent of --distribution zipfian.
    #[arg(long, default_value_t = 0.99, value_parser = zipf_theta)]
    pub zipf_theta: f64,
    /// What all randomness derives from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// How requests spread over keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DistributionName {
    /// Every key alike.
    Uniform,
    /// A few keys often.
    Zipfian,
}

impl WorkloadOptions {
    /// The workload they describe.
    ///
    /// # Errors
    ///
    /// A sentence, when they contradict each other.
    pub fn workload(&self) -> Result<Workload, String> {
        let key_count_max = KeyBuffer::key_count_max(self.key_size);
        if self.keys > key_count_max {
            return Err(format!(
                "--key-size {} has digits for {key_count_max} keys, not for {}",
                self.key_size, self.keys
            ));
        }
        Ok(Workload {
            key_count: self.keys,
            key_bytes: self.key_size,
            value_sizes: self.value_size,
            reads: self.mix.unwrap_or(self.reads),
            distribution: match self.distribution {
                DistributionName::Uniform => Distribution::Uniform,
                DistributionName::Zipfian => Distribution::Zipfian { theta: self.zipf_theta },
            },
            seed: self.seed,
        })
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
}

fn zipf_theta(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(theta) if theta > 0.0 && theta < 1.0 => Ok(theta),
        _ => Err("expected a number above 0 and below 1".to_owned()),
    }
}

fn value_sizes(text: &str) -> Result<ValueSizes, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(bytes_min), Ok(bytes_max)) if bytes_min <= bytes_max => {
            Ok(ValueSizes { bytes_min, bytes_max })
        }
        _ => Err("expected bytes as in 64 or 16-1024".to_owned()),
    }
}

/// The share of reads in a mix.
fn mix(text: &str) -> Result<f64, String> {
    let (mut get, mut set) = (0.0, 0.0);
    for part in text.split(',') {
        let (name, weight) = part.split_once('=').ok_or("expected get=SHARE,set=SHARE")?;
        let weight = share(weight)?;
        match name {
            "get" => get += weight,
            "set" => set += weight,
            _ => return Err(format!("unknown operation {name:?}: there are get and set")),
        }
    }
    let sum: f64 = get + set;
    if (sum - 1.0).abs() > 1e-6 {
        return Err(format!("shares add up to {sum}, not to 1"));
    }
    Ok(get.min(1.0))
}
