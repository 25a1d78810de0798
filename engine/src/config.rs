//! All that a node can be told.
//!
//! A TOML file, `GRIDKV_*` variables and flags set the same options, flags last; each value is text
//! that [`Config::set`] checks, so all three say the same when something is wrong. An option that
//! does not exist is an error.

mod cluster;
mod text;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use gridkv_cluster::topology::endpoint::Endpoint;
use gridkv_storage::disk::SyncMethod;
use gridkv_storage::{Durability, Eviction};

pub use self::cluster::{ClusterConfig, ClusterSecurity};
use self::text::{
    address, cpu_list, durability, duration, endpoint, eviction, expected, idle, join, number,
    one_of, or_word, segment, size,
};

/// What a core does when it has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// It sleeps; waking it takes some microseconds, on a virtual machine up to 50.
    Park,
    /// It looks for work this long before it sleeps.
    Spin(Duration),
    /// It never sleeps: fastest answers, a whole processor.
    Poll,
}

/// Which processors the cores run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cores {
    /// As many as the process may use.
    All,
    /// This many of those.
    Count(usize),
    /// These, by number.
    Cpus(Vec<usize>),
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// All options, checked. [`Config::default`] is what the program runs with when told nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where Redis clients connect; `None` for no listener (the embedded engine's default).
    pub listen: Option<SocketAddr>,
    /// Where clients of a cluster are told to reach this node; `None` for the address at which a client
    /// has reached it. A host name is told as it is.
    pub announce: Option<Endpoint>,
    /// Where metrics and health are served.
    pub admin: Option<SocketAddr>,
    /// Which processors the cores run on.
    pub cores: Cores,
    /// Number of shards; `None` for one a core.
    pub shards: Option<u16>,
    /// Storage backend, by name.
    pub storage: String,
    /// Where a storage backend that is on disk keeps its files.
    pub data: PathBuf,
    /// When a write counts as done, for a storage backend that is on disk.
    pub durability: Durability,
    /// Bound on the memory of the records that such a backend keeps in memory, for the node.
    pub cache: u64,
    /// Size of a file of its log, for a directory that is new: a power of two.
    pub segment: u32,
    /// How a write is made durable; `None` for what is quicker on the disk at hand.
    pub sync: Option<SyncMethod>,
    /// Bound on the memory of records and index; `None` for no bound.
    pub max_memory: Option<u64>,
    /// What happens at the bound.
    pub eviction: Eviction,
    /// Longest value in bytes.
    pub max_value: usize,
    /// What a core does when it has nothing to do.
    pub idle: Idle,
    /// Most clients at a time.
    pub max_clients: usize,
    /// How long a client may be silent; zero for ever.
    pub client_timeout: Duration,
    /// How long a client may leave its answers unread before it is disconnected.
    pub output_timeout: Duration,
    /// Most bytes of answers that wait for one client; one that needs more is disconnected.
    pub output_limit: usize,
    /// Most bytes of unfinished requests that a core holds for all of its clients.
    pub input_limit: usize,
    /// Most bytes of requests that wait in a core, for a disk, other cores or replicas, and of replies
    /// that its clients have not taken: beyond as many of the one or the other, no further request is
    /// begun.
    pub waiting_limit: usize,
    /// Password that clients must give; empty for none.
    pub password: String,
    /// Whether `DEBUG` is answered.
    pub debug_commands: bool,
    /// Commands slower than this are noted in the slow log; `None` for none.
    pub slowlog_threshold: Option<Duration>,
    /// How many the slow log holds, per core.
    pub slowlog_len: usize,
    /// The cluster.
    pub cluster: ClusterConfig,
    /// Which messages are logged: a level, or `target=level` pairs with commas.
    pub log: String,
    /// Form of the log.
    pub log_format: LogFormat,
}

impl Default for Config {
    fn default() -> Self {
        let mut config = Self {
            listen: None,
            announce: None,
            admin: None,
            cores: Cores::All,
            shards: None,
            storage: String::new(),
            data: PathBuf::new(),
            durability: Durability::Commit,
            cache: 0,
            segment: 0,
            sync: None,
            max_memory: None,
            eviction: Eviction::Refuse,
            max_value: 0,
            idle: Idle::Park,
            max_clients: 0,
            client_timeout: Duration::ZERO,
            output_timeout: Duration::ZERO,
            output_limit: 0,
            input_limit: 0,
            waiting_limit: 0,
            password: String::new(),
            debug_commands: false,
            slowlog_threshold: None,
            slowlog_len: 0,
            cluster: ClusterConfig::empty(),
            log: String::new(),
            log_format: LogFormat::Human,
        };
        for option in OPTIONS {
            config.set(option.name, option.default).expect("the defaults are valid");
        }
        config
    }
}

/// Whether the backend of that name is one of the built-in ones that keep files in the node's data
/// directory.
pub(crate) fn is_on_disk(storage: &str) -> bool {
    ["file", "lsm"].contains(&storage)
}

/// One option, for help texts and listings.
#[derive(Clone, Copy, Debug)]
pub struct OptionInfo {
    /// Its name in the file; with `-` for `_` the flag, in capitals after `GRIDKV_` the variable.
    pub name: &'static str,
    /// What a value looks like.
    pub value: &'static str,
    /// Its default, as text.
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
}

const fn option(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> OptionInfo {
    OptionInfo { name, value, default, help }
}

/// All options there are.
pub const OPTIONS: &[OptionInfo] = &[
    option("listen", "ADDR|off", "127.0.0.1:7379", "where Redis clients connect"),
    option(
        "announce",
        "HOST:PORT|auto",
        "auto",
        "where clients of a cluster are told to connect (auto: where they have reached the node)",
    ),
    option(
        "admin",
        "ADDR|off",
        "127.0.0.1:7381",
        "where /metrics, /healthz and /readyz are served",
    ),
    option("cores", "N|all", "all", "how many processors to use, one core each"),
    option("cpus", "LIST|any", "any", "which processors to use, such as 0,2-3 (instead of cores)"),
    option("shards", "N|cores", "cores", "how many shards to divide the keys into"),
    option("storage", "NAME", "file", "storage backend: file (on disk) or memory (volatile)"),
    option(
        "data",
        "DIR",
        "./gridkv-data",
        "where a storage backend on disk keeps its files; one node at a time",
    ),
    option(
        "durability",
        "commit|interval:TIME|none",
        "commit",
        "when a write is answered: on disk, or at once and on disk that much later, or whenever",
    ),
    option("cache", "SIZE", "512MiB", "memory for records of a storage backend on disk"),
    option("segment", "SIZE", "64MiB", "size of a new log's files, a power of two, 1MiB to 64MiB"),
    option("sync", "auto|fdatasync|dsync", "auto", "how to make a write durable (auto: measured)"),
    option("max_memory", "SIZE|none", "none", "bound on the memory of records and index"),
    option(
        "eviction",
        "noeviction|lfu",
        "noeviction",
        "at the bound: refuse writes, or evict seldom used records",
    ),
    option("max_value", "SIZE", "16MiB", "longest value, at most 512MiB"),
    option("idle", "park|spin:TIME|poll", "park", "what a core does when it has nothing to do"),
    option("max_clients", "N", "10000", "most clients at a time"),
    option(
        "client_timeout",
        "TIME",
        "0s",
        "disconnect clients that are silent for so long (0s: never)",
    ),
    option(
        "output_timeout",
        "TIME",
        "60s",
        "disconnect clients that leave answers unread for so long",
    ),
    option("output_limit", "SIZE", "256MiB", "most bytes of answers waiting for one client"),
    option("input_limit", "SIZE", "256MiB", "most bytes of unfinished requests held by one core"),
    option(
        "waiting_limit",
        "SIZE",
        "256MiB",
        "most bytes of begun requests, and of unread answers, that wait in one core",
    ),
    option("password", "TEXT", "", "password that clients must give (empty: none)"),
    option("debug_commands", "true|false", "false", "whether DEBUG is answered"),
    option(
        "slowlog_threshold",
        "TIME|off",
        "10ms",
        "commands slower than this are noted in the slow log",
    ),
    option("slowlog_len", "N", "128", "how many commands the slow log of a core holds"),
    option("cluster", "ADDR|off", "off", "where other nodes reach this one (TCP and UDP)"),
    option(
        "cluster_announce",
        "HOST:PORT|auto",
        "auto",
        "where other nodes are told to reach this one, such as through NAT (auto: as in cluster)",
    ),
    option(
        "join",
        "HOST:PORT,...",
        "",
        "members of the cluster to join (empty: form one, once); names are resolved each time",
    ),
    option(
        "bootstrap",
        "true|false",
        "false",
        "form a cluster at once: otherwise a new node listens first whether one is alive",
    ),
    option("cluster_name", "NAME", "gridkv", "the cluster's name; nodes of another are refused"),
    option("node_id", "NAME", "", "what this node is called (empty: made of its identity)"),
    option("zone", "NAME", "", "replicas are kept in different zones where there are as many"),
    option("replicas", "N", "3", "copies of each key, as the node that forms the cluster is told"),
    option("write_quorum", "N|majority", "majority", "replicas that a write at quorum waits for"),
    option("read_quorum", "N|majority", "majority", "replicas that a read at quorum asks"),
    option("virtual_nodes", "N", "128", "places of this node on the ring of tokens: its weight"),
    option("request_timeout", "TIME", "1s", "how long an operation may wait for replicas"),
    option("max_clock_drift", "TIME", "500ms", "how far ahead another node's clock may be"),
    option("sync_log", "SIZE", "16MiB", "latest writes that a peer which was away is fed from"),
    option("probe_interval", "TIME", "350ms", "how often a member is probed"),
    option("probe_timeout", "TIME", "150ms", "how long before others are asked to probe it"),
    option("exchange_interval", "TIME", "10s", "how often the list of members is exchanged"),
    option("forget_after", "TIME", "1h", "how long dead members are remembered"),
    option("cluster_security", "off|sign", "off", "whether nodes prove who they are"),
    option("trusted_keys", "KEY,...", "", "public keys of the nodes that are trusted (sign)"),
    option("cluster_key", "KEY", "", "public key that has signed the nodes' keys (sign)"),
    option("log", "LEVEL", "info", "what is logged: error, warn, info, debug, trace"),
    option("log_format", "human|json", "human", "form of the log"),
];

/// An option was not understood. Nothing was set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No option of that name.
    #[error("unknown option `{name}` in {source_name}: the options are {known}")]
    Unknown {
        /// The name.
        name: String,
        /// Where it stood.
        source_name: String,
        /// The names there are.
        known: String,
    },
    /// The value is not one the option can have.
    #[error("{source_name}: `{name} = {value}` is not valid: {expected}")]
    Invalid {
        /// The option.
        name: String,
        /// The value.
        value: String,
        /// What it must be.
        expected: String,
        /// Where it stood.
        source_name: String,
    },
    /// The file could not be read as TOML.
    #[error("{source_name}: {problem}")]
    File {
        /// The file.
        source_name: String,
        /// What is wrong, with the line.
        problem: String,
    },
}

impl Config {
    /// The embedded engine's default: the program's, without listeners.
    #[must_use]
    pub fn embedded() -> Self {
        Self { listen: None, admin: None, ..Self::default() }
    }

    /// Sets one option from its text.
    ///
    /// # Errors
    ///
    /// What the value must be; the option is unchanged. `None` for an unknown name.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), Option<String>> {
        let text = text.trim();
        match name {
            "listen" => self.listen = address(text)?,
            "announce" => self.announce = or_word(text, "auto", endpoint)?,
            "admin" => self.admin = address(text)?,
            "cores" if text == "all" => {
                if !matches!(self.cores, Cores::Cpus(_)) {
                    self.cores = Cores::All;
                }
            }
            "cores" => self.cores = Cores::Count(number(text, 1, 1_024)?),
            "cpus" if text == "any" => {
                if matches!(self.cores, Cores::Cpus(_)) {
                    self.cores = Cores::All;
                }
            }
            "cpus" => self.cores = Cores::Cpus(cpu_list(text)?),
            "shards" => self.shards = or_word(text, "cores", |text| number(text, 1, 4_096))?,
            "storage" => self.storage = text.to_owned(),
            "data" if text.is_empty() => return expected("a directory is needed"),
            "data" => self.data = PathBuf::from(text),
            "durability" => self.durability = durability(text)?,
            "cache" => self.cache = size(text, 1 << 20, u64::MAX)?,
            "segment" => self.segment = segment(text)?,
            "sync" => {
                let methods = [("fdatasync", SyncMethod::Fdatasync), ("dsync", SyncMethod::Dsync)];
                self.sync = or_word(text, "auto", |text| one_of(text, &methods))?;
            }
            "max_memory" => {
                let least = 1 << 20;
                self.max_memory = or_word(text, "none", |text| size(text, least, u64::MAX))?;
            }
            "eviction" => self.eviction = eviction(text)?,
            "max_value" => self.max_value = size(text, 1, 512 << 20)?,
            "idle" => self.idle = idle(text)?,
            "max_clients" => self.max_clients = number(text, 1, 10_000_000)?,
            "client_timeout" => self.client_timeout = duration(text)?,
            "output_timeout" => self.output_timeout = duration(text)?,
            "output_limit" => self.output_limit = size(text, 64 << 10, u64::MAX)?,
            "input_limit" => self.input_limit = size(text, 1 << 20, u64::MAX)?,
            "waiting_limit" => self.waiting_limit = size(text, 1 << 20, u64::MAX)?,
            "password" => text.clone_into(&mut self.password),
            "debug_commands" => {
                self.debug_commands = one_of(text, &[("true", true), ("false", false)])?;
            }
            "slowlog_threshold" => self.slowlog_threshold = or_word(text, "off", duration)?,
            "slowlog_len" => self.slowlog_len = number(text, 0, 1_000_000)?,
            "log" => text.clone_into(&mut self.log),
            "log_format" => {
                let forms = [("human", LogFormat::Human), ("json", LogFormat::Json)];
                self.log_format = one_of(text, &forms)?;
            }
            name => return self.cluster.set(name, text),
        }
        Ok(())
    }

    /// Sets options from a TOML document; `source_name` is named in errors.
    ///
    /// # Errors
    ///
    /// [`ConfigError`]; options before the faulty one may have been set.
    pub fn set_from_toml(&mut self, document: &str, source_name: &str) -> Result<(), ConfigError> {
        let table = document.parse::<toml::Table>().map_err(|error| ConfigError::File {
            source_name: source_name.to_owned(),
            problem: error.to_string().trim_end().to_owned(),
        })?;
        for (name, value) in table {
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(_) | toml::Value::Boolean(_) | toml::Value::Float(_) => {
                    value.to_string()
                }
                _ => {
                    return Err(ConfigError::Invalid {
                        name,
                        value: value.to_string(),
                        expected: "a string, a number or a boolean is needed".to_owned(),
                        source_name: source_name.to_owned(),
                    });
                }
            };
            self.set_from(&name, &text, source_name)?;
        }
        Ok(())
    }

    /// Sets options from `GRIDKV_*` variables; others are passed over, and so is `GRIDKV_CONFIG`,
    /// which names the file.
    ///
    /// # Errors
    ///
    /// [`ConfigError`]; options before the faulty one may have been set.
    pub fn set_from_environment(
        &mut self,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        // In order of their names, so that the same environment gives the same error.
        for (variable, text) in variables.collect::<BTreeMap<_, _>>() {
            let Some(name) = variable.strip_prefix("GRIDKV_") else { continue };
            if name != "CONFIG" {
                self.set_from(&name.to_ascii_lowercase(), &text, &variable)?;
            }
        }
        Ok(())
    }

    /// Sets one option; `source_name` is named in the error.
    ///
    /// # Errors
    ///
    /// [`ConfigError`]; nothing is set.
    pub fn set_from(
        &mut self,
        name: &str,
        text: &str,
        source_name: &str,
    ) -> Result<(), ConfigError> {
        let source_name = source_name.to_owned();
        self.set(name, text).map_err(|expected| match expected {
            Some(expected) => ConfigError::Invalid {
                name: name.to_owned(),
                value: if name == "password" { "***".to_owned() } else { text.to_owned() },
                expected,
                source_name,
            },
            None => ConfigError::Unknown {
                name: name.to_owned(),
                source_name,
                known: OPTIONS.iter().map(|option| option.name).collect::<Vec<_>>().join(", "),
            },
        })
    }

    /// The text of an option's value, such that [`Config::set`] gives the same value.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        let address = |address: Option<SocketAddr>| {
            address.map_or_else(|| "off".to_owned(), |address| address.to_string())
        };
        let time = |time: Duration| humantime::format_duration(time).to_string();
        let bytes = |bytes: u64| ByteSize::b(bytes).display().iec().to_string().replace(' ', "");
        Some(match name {
            "listen" => address(self.listen),
            "announce" => {
                self.announce.as_ref().map_or_else(|| "auto".to_owned(), Endpoint::to_string)
            }
            "admin" => address(self.admin),
            "cores" => match &self.cores {
                Cores::All | Cores::Cpus(_) => "all".to_owned(),
                Cores::Count(count) => count.to_string(),
            },
            "cpus" => match &self.cores {
                Cores::Cpus(cpus) => join(cpus.iter()),
                Cores::All | Cores::Count(_) => "any".to_owned(),
            },
            "shards" => self.shards.map_or_else(|| "cores".to_owned(), |count| count.to_string()),
            "storage" => self.storage.clone(),
            "data" => self.data.display().to_string(),
            "durability" => match self.durability {
                Durability::Commit => "commit".to_owned(),
                Durability::Interval(duration) => format!("interval:{}", time(duration)),
                Durability::None => "none".to_owned(),
            },
            "cache" => bytes(self.cache),
            "segment" => bytes(u64::from(self.segment)),
            "sync" => match self.sync {
                None => "auto".to_owned(),
                Some(SyncMethod::Fdatasync) => "fdatasync".to_owned(),
                Some(SyncMethod::Dsync) => "dsync".to_owned(),
            },
            "max_memory" => self.max_memory.map_or_else(|| "none".to_owned(), bytes),
            "eviction" => match self.eviction {
                Eviction::Refuse => "noeviction".to_owned(),
                Eviction::Lfu => "lfu".to_owned(),
            },
            "max_value" => bytes(self.max_value as u64),
            "idle" => match self.idle {
                Idle::Park => "park".to_owned(),
                Idle::Spin(duration) => format!("spin:{}", time(duration)),
                Idle::Poll => "poll".to_owned(),
            },
            "max_clients" => self.max_clients.to_string(),
            "client_timeout" => time(self.client_timeout),
            "output_timeout" => time(self.output_timeout),
            "output_limit" => bytes(self.output_limit as u64),
            "input_limit" => bytes(self.input_limit as u64),
            "waiting_limit" => bytes(self.waiting_limit as u64),
            "password" => self.password.clone(),
            "debug_commands" => self.debug_commands.to_string(),
            "slowlog_threshold" => self.slowlog_threshold.map_or_else(|| "off".to_owned(), time),
            "slowlog_len" => self.slowlog_len.to_string(),
            "log" => self.log.clone(),
            "log_format" => match self.log_format {
                LogFormat::Human => "human".to_owned(),
                LogFormat::Json => "json".to_owned(),
            },
            name => return self.cluster.text(name),
        })
    }
}

impl fmt::Display for Config {
    /// The effective configuration as a TOML file, without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for option in OPTIONS {
            let mut text = self.text(option.name).unwrap_or_default();
            if option.name == "password" && !text.is_empty() {
                "***".clone_into(&mut text);
            }
            // One of the two says nothing: leave it out, so that the listing can be read back.
            let is_by_number = matches!(self.cores, Cores::Cpus(_));
            let silent = if is_by_number { "cores" } else { "cpus" };
            if option.name != silent {
                writeln!(f, "{} = {}  # {}", option.name, toml::Value::from(text), option.help)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_read_back_from_its_own_text() {
        let config = Config::default();
        let mut copy = Config::default();
        for option in OPTIONS {
            let text = config.text(option.name).unwrap();
            copy.set(option.name, &text).unwrap();
        }
        assert_eq!(copy, config);
    }

    #[test]
    fn the_printed_configuration_is_a_file_that_gives_the_same() {
        let mut config = Config::default();
        config.set("cpus", "0,2-3").unwrap();
        config.set("max_memory", "4GiB").unwrap();
        config.set("idle", "spin:50us").unwrap();
        config.set("durability", "interval:100ms").unwrap();
        config.set("segment", "1MiB").unwrap();
        config.set("sync", "dsync").unwrap();
        let mut copy = Config::default();
        copy.set_from_toml(&config.to_string(), "printed").unwrap();
        assert_eq!(copy, config);
    }

    #[test]
    fn an_unknown_option_is_refused_wherever_it_stands() {
        let mut config = Config::default();
        let error = config.set_from_toml("lisen = \"x\"", "file.toml").unwrap_err();
        assert!(error.to_string().starts_with("unknown option `lisen` in file.toml"), "{error}");
        let variables = [("GRIDKV_LISEN".to_owned(), "x".to_owned())];
        let error = config.set_from_environment(variables.into_iter()).unwrap_err();
        assert!(error.to_string().contains("`lisen` in GRIDKV_LISEN"), "{error}");
    }

    #[test]
    fn a_bad_value_is_named_with_what_is_allowed() {
        let bad = [
            ("listen", "nowhere"),
            ("cores", "0"),
            ("cores", "-1"),
            ("cpus", "3-1"),
            ("cpus", "1,1"),
            ("max_memory", "12XB"),
            ("eviction", "lru"),
            ("data", ""),
            ("durability", "interval"),
            ("durability", "interval:0s"),
            ("durability", "always"),
            ("cache", "1KiB"),
            ("segment", "3MiB"),
            ("segment", "512KiB"),
            ("segment", "128MiB"),
            ("segment", "256MiB"),
            ("sync", "fsync"),
            ("idle", "spin"),
            ("idle", "spin:fast"),
            ("client_timeout", "soon"),
            ("debug_commands", "yes"),
            ("announce", "0.0.0.0:7379"),
            ("announce", "[::]:7379"),
            ("announce", ":7379"),
            ("announce", "node-1"),
            ("announce", "node-1:0"),
            ("announce", "off"),
            ("cluster_announce", "0.0.0.0:7380"),
            ("cluster_announce", ""),
            ("cluster", "10.0.0.1:0"),
            ("join", "0.0.0.0:7380"),
            ("join", "10.0.0.1:7380,node 2:7380"),
        ];
        for (name, text) in bad {
            let mut config = Config::default();
            let error = config.set_from(name, text, "test").unwrap_err();
            assert!(matches!(error, ConfigError::Invalid { .. }), "{name} = {text}: {error}");
            assert_eq!(config, Config::default());
        }
    }

    #[test]
    fn numbers_and_booleans_need_no_quotes_in_the_file() {
        let mut config = Config::default();
        config.set_from_toml("cores = 3\ndebug_commands = true\nmax_clients = 7", "f").unwrap();
        assert_eq!(config.cores, Cores::Count(3));
        assert!(config.debug_commands);
        assert_eq!(config.max_clients, 7);
    }
}
