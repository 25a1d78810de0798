//! What a failing seed fails with still when less goes on: its features are turned off one by one, and
//! what is left gets shorter and has fewer keys and clients, as long as the same does not hold.
//!
//! Each kind of fault draws from a stream of its own, so that the others stay as they were.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::options::Options;

/// How often a failing seed is run again.
const TRY_COUNT_MAX: usize = 80;

/// Something that a run can be without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is named as what it turns off in the options")]
pub enum Feature {
    Crash,
    Bounce,
    Erase,
    Pause,
    Partition,
    Reset,
    HalfOpen,
    Stall,
    Deaf,
    Jump,
    WildJump,
    Disk,
    SlowDisk,
    Flush,
    Expiry,
    Held,
    Loss,
    Damage,
    Weak,
    Early,
    Hasty,
    Clocks,
    Cores,
    Mail,
    Keeps,
}

impl Feature {
    const ALL: [Self; 25] = [
        Self::Crash,
        Self::Bounce,
        Self::Erase,
        Self::Pause,
        Self::Partition,
        Self::Reset,
        Self::HalfOpen,
        Self::Stall,
        Self::Deaf,
        Self::Jump,
        Self::WildJump,
        Self::Disk,
        Self::SlowDisk,
        Self::Flush,
        Self::Expiry,
        Self::Held,
        Self::Loss,
        Self::Damage,
        Self::Weak,
        Self::Early,
        Self::Hasty,
        Self::Clocks,
        Self::Cores,
        Self::Mail,
        Self::Keeps,
    ];

    /// The name on a command line.
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    fn turn_off(self, options: &mut Options) {
        let (faults, network) = (&mut options.faults, &mut options.network);
        match self {
            Self::Crash => faults.crash = None,
            Self::Bounce => faults.bounce = None,
            Self::Erase => faults.erase = None,
            Self::Pause => faults.pause = None,
            Self::Partition => faults.partition = None,
            Self::Reset => faults.reset = None,
            Self::HalfOpen => faults.half_open = None,
            Self::Stall => faults.stall = None,
            Self::Deaf => faults.deaf = None,
            Self::Jump => faults.jump = None,
            Self::WildJump => faults.wild_jump = None,
            Self::Disk => faults.disk = None,
            Self::SlowDisk => faults.slow_disk = None,
            Self::Flush => faults.flush = None,
            Self::Expiry => options.has_expiry = false,
            Self::Held => network.held_permille = 0,
            Self::Loss => (network.loss_permille, network.twice_permille) = (0, 0),
            Self::Damage => network.damage_per_100k = 0,
            Self::Weak => options.weak_percent = 0,
            Self::Early => options.is_troubled_early = false,
            Self::Hasty => options.is_hasty = false,
            Self::Clocks => (options.clock_spread, options.drift_ppm) = (Duration::ZERO, 0),
            Self::Cores => options.layouts.iter_mut().for_each(|it| (it.shards, it.cores) = (1, 1)),
            Self::Keeps => (options.keep_fails_percent, options.keep_slow_percent) = (0, 0),
            Self::Mail => (options.mail.delay_max, options.mail.capacity) = (Duration::ZERO, 1_024),
        }
    }
}

/// How a run is less than what its seed makes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reduction {
    /// What it is without.
    pub without: BTreeSet<Feature>,
    /// How long things go wrong, in milliseconds.
    pub trouble_ms: Option<u64>,
    /// Keys.
    pub key_count: Option<usize>,
    /// Clients.
    pub client_count: Option<usize>,
}

impl Reduction {
    /// The options of a seed, as far as they are left.
    #[must_use]
    pub fn options(&self, seed: u64) -> Options {
        let mut options = Options::draw(seed);
        self.without.iter().for_each(|feature| feature.turn_off(&mut options));
        options.trouble = self.trouble_ms.map_or(options.trouble, Duration::from_millis);
        options.key_count = self.key_count.unwrap_or(options.key_count);
        options.client_count = self.client_count.unwrap_or(options.client_count);
        options
    }

    /// What the names of features on a command line, with commas between them, say.
    ///
    /// # Errors
    ///
    /// What is none, and what there is.
    pub fn without(names: &str) -> Result<BTreeSet<Feature>, String> {
        let feature = |name: &str| {
            let found = Feature::ALL.into_iter().find(|it| it.name() == name);
            let all: Vec<String> = Feature::ALL.into_iter().map(Feature::name).collect();
            found.ok_or_else(|| format!("{name} is none of {}", all.join(", ")))
        };
        names.split(',').filter(|name| !name.is_empty()).map(feature).collect()
    }
}

impl fmt::Display for Reduction {
    /// As on a command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.without.iter().map(|it| it.name()).collect();
        if !names.is_empty() {
            write!(f, " --without {}", names.join(","))?;
        }
        let counts = [
            ("trouble-ms", self.trouble_ms),
            ("keys", self.key_count.map(|it| it as u64)),
            ("clients", self.client_count.map(|it| it as u64)),
        ];
        for (name, count) in counts {
            if let Some(count) = count {
                write!(f, " --{name} {count}")?;
            }
        }
        Ok(())
    }
}

/// A failure without its numbers: what it is about.
#[must_use]
pub fn kind_of(reason: &str) -> String {
    let words = reason.split([':', '\n']).next().unwrap_or_default();
    words.chars().filter(|it| !it.is_ascii_digit()).collect()
}

/// The least that fails with the same; `run` runs a seed and tells what it fails with.
pub(super) fn shrink(
    seed: u64,
    (from, reason): (&Reduction, &str),
    run: impl Fn(&Reduction) -> Option<String>,
) -> Reduction {
    let mut least = from.clone();
    let kind = kind_of(reason);
    let mut tries = 0;
    let mut fails = |candidate: &Reduction| {
        tries += 1;
        tries <= TRY_COUNT_MAX && run(candidate).is_some_and(|reason| kind_of(&reason) == kind)
    };
    for feature in Feature::ALL {
        let mut candidate = least.clone();
        candidate.without.insert(feature);
        let is_less =
            format!("{:?}", candidate.options(seed)) != format!("{:?}", least.options(seed));
        if is_less && fails(&candidate) {
            least = candidate;
        }
    }
    loop {
        let options = least.options(seed);
        let millis = u64::try_from(options.trouble.as_millis()).expect("it is short");
        let mut candidates = Vec::new();
        let fewer = |count: usize| {
            [1, count / 2, count - count.min(1)]
                .into_iter()
                .filter(move |it| *it > 0 && *it < count)
        };
        candidates.extend(
            [millis / 2, millis * 3 / 4, millis * 9 / 10]
                .into_iter()
                .filter(|it| *it > 50)
                .map(|it| Reduction { trouble_ms: Some(it), ..least.clone() }),
        );
        candidates.extend(
            fewer(options.key_count).map(|it| Reduction { key_count: Some(it), ..least.clone() }),
        );
        candidates.extend(
            fewer(options.client_count)
                .map(|it| Reduction { client_count: Some(it), ..least.clone() }),
        );
        let Some(next) = candidates.into_iter().find(|it| fails(it)) else { return least };
        least = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failure_does_not_need_is_left_out() {
        let needs = |it: &Reduction| {
            let options = it.options(5);
            let is_long = options.trouble >= Duration::from_millis(700);
            let fails = is_long && !it.without.contains(&Feature::Mail) && options.key_count > 2;
            fails.then(|| "key-7 is gone: 3".to_owned())
        };
        let from = Reduction::default();
        assert!(needs(&from).is_some(), "{:?}", from.options(5));
        let least = shrink(5, (&from, "key-1 is gone: 2"), needs);
        assert!(!least.without.contains(&Feature::Mail));
        let options = least.options(5);
        assert_eq!((options.key_count, options.client_count), (3, 1));
        assert!(options.trouble < Duration::from_millis(1_000), "{options:?}");
        assert!(options.faults.crash.is_none() && options.faults.partition.is_none());
    }

    #[test]
    fn a_command_line_says_the_same() {
        let without = Reduction::without("flush,weak").unwrap();
        let reduction = Reduction { without, trouble_ms: Some(70), ..Reduction::default() };
        assert_eq!(reduction.to_string(), " --without flush,weak --trouble-ms 70");
        assert!(Reduction::without("rain").is_err());
    }
}
