//! Which processors a node may use, and whether the kernel under it will do.

use std::collections::BTreeSet;
use std::fs;

use crate::config::Cores;
use crate::error::OpenError;

/// The oldest kernel with all that the data ring needs.
const KERNEL_MIN: (u32, u32) = (6, 1);

/// Kernels with an io_uring that is known to be bad.
const KERNELS_BAD: [(u32, u32, u32); 2] = [(6, 1, 141), (6, 15, 4)];

/// Refuses a kernel that is too old, and warns of one that is known to be bad.
pub(crate) fn check_kernel() -> Result<(), OpenError> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let Some((major, minor, patch)) = parse_release(&release) else { return Ok(()) };
    if (major, minor) < KERNEL_MIN {
        return Err(OpenError::KernelTooOld { found: release });
    }
    if KERNELS_BAD.contains(&(major, minor, patch)) {
        tracing::warn!(%release, "this kernel's io_uring is known to be bad: upgrade it");
    }
    Ok(())
}

/// `6.1.141-generic` as its numbers.
fn parse_release(release: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = release.split(|it: char| !it.is_ascii_digit()).map(str::parse::<u32>);
    let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some((major, minor, numbers.next().and_then(Result::ok).unwrap_or(0)))
}

/// The processors to run on, one for each core: of those that the process may use, distinct
/// physical cores first.
pub(crate) fn choose(cores: &Cores) -> Result<Vec<usize>, OpenError> {
    let allowed = allowed();
    let refuse = |option, problem| Err(OpenError::Option { option, problem });
    match cores {
        Cores::All => Ok(allowed),
        Cores::Count(count) if *count > allowed.len() => {
            let known = allowed.len();
            refuse("cores", format!("{count} asked for, but the process may use only {known}"))
        }
        Cores::Count(count) => Ok(allowed[..*count].to_vec()),
        Cores::Cpus(cpus) => match cpus.iter().find(|cpu| !allowed.contains(cpu)) {
            Some(cpu) => {
                let mut known = allowed.clone();
                known.sort_unstable();
                refuse("cpus", format!("the process may not use processor {cpu}, only {known:?}"))
            }
            None => Ok(cpus.clone()),
        },
    }
}

/// The processors that the process may use (its affinity mask, so its cpuset too).
fn allowed() -> Vec<usize> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    let cpus: Vec<usize> = ids.into_iter().map(|core| core.id).collect();
    spread(&cpus, physical_core)
}

/// The physical core of a processor, by package and number; the processor itself where unknown.
fn physical_core(cpu: usize) -> (usize, usize) {
    let read = |name: &str| {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/{name}");
        fs::read_to_string(path).ok()?.trim().parse::<usize>().ok()
    };
    match (read("physical_package_id"), read("core_id")) {
        (Some(package), Some(core)) => (package, core),
        _ => (usize::MAX, cpu),
    }
}

/// Processors in the order to use them: one of each physical core, then their siblings.
fn spread(cpus: &[usize], physical: impl Fn(usize) -> (usize, usize)) -> Vec<usize> {
    let mut seen = BTreeSet::new();
    let (mut first, siblings): (Vec<_>, Vec<_>) =
        cpus.iter().copied().partition(|cpu| seen.insert(physical(*cpu)));
    first.extend(siblings);
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn physical_cores_come_before_siblings() {
        // Processors 0 and 1 are siblings, 2 and 3 too.
        assert_eq!(spread(&[0, 1, 2, 3], |cpu| (0, cpu / 2)), [0, 2, 1, 3]);
        assert_eq!(spread(&[0, 1, 2, 3], |cpu| (0, cpu)), [0, 1, 2, 3]);
        assert_eq!(spread(&[0, 1, 2, 3], |cpu| (cpu % 2, 0)), [0, 1, 2, 3]);
    }

    #[test]
    fn a_kernel_release_is_read_with_whatever_follows_it() {
        assert_eq!(parse_release("6.18.44-fc-v769"), Some((6, 18, 44)));
        assert_eq!(parse_release("6.1"), Some((6, 1, 0)));
        assert_eq!(parse_release("unknown"), None);
    }

    #[test]
    fn more_cores_than_there_are_is_refused_by_name() {
        let error = choose(&Cores::Count(100_000)).unwrap_err();
        assert!(error.to_string().starts_with("cores: 100000 asked for"), "{error}");
        let error = choose(&Cores::Cpus(vec![65_000])).unwrap_err();
        assert!(error.to_string().starts_with("cpus: "), "{error}");
    }
}
