//! What must be the same when a run goes on, and the typed list of what is not.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// Something about a run that decides its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Setting {
    /// The fields of the model function.
    HyperParameters,
    /// The number of examples in a batch.
    BatchSize,
    /// What the training data set is made of: sources, lengths, stages, a sample of its bytes.
    Data,
    /// The batches of one step. Not looked at in checkpoints that do not know it.
    Accumulate,
    /// Which averages of the weights are kept ([`Builder::ema`](crate::Builder::ema), [`Builder::swa`](crate::Builder::swa)). Not
    /// looked at in checkpoints that do not know it.
    Averages,
    /// The run's seed.
    Seed,
    /// The type of device.
    Device,
    /// The number of threads. Results do not depend on it, so a difference is only reported.
    Threads,
    /// The version of this crate. Reported only.
    Version,
}

impl Setting {
    const ALL: [(Self, &'static str); 9] = [
        (Self::HyperParameters, "hyper_parameters"),
        (Self::BatchSize, "batch_size"),
        (Self::Data, "data"),
        (Self::Accumulate, "accumulate"),
        (Self::Averages, "averages"),
        (Self::Seed, "seed"),
        (Self::Device, "device"),
        (Self::Threads, "threads"),
        (Self::Version, "version"),
    ];

    /// The name under which a checkpoint keeps it.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(setting, _)| *setting == self).map_or("", |(_, name)| name)
    }

    /// Whether a difference in it is refused unless it is allowed.
    pub fn is_checked(self) -> bool {
        !matches!(self, Self::Threads | Self::Version)
    }

    /// Whether it matters only where training goes on.
    pub(crate) fn is_about_training(self) -> bool {
        self.is_about_data() || self == Self::Averages
    }

    /// Whether `continue_with_new_data` allows it.
    pub(crate) fn is_about_data(self) -> bool {
        matches!(self, Self::BatchSize | Self::Accumulate | Self::Data | Self::Device)
    }
}

/// One setting that is not what it was when the checkpoint was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Which setting.
    pub setting: Setting,
    /// Its value in the checkpoint.
    pub saved: String,
    /// Its value now.
    pub current: String,
}

impl Difference {
    /// Whether a place in the saved run's data is none in this one's.
    pub(crate) fn is_other_data(&self) -> bool {
        matches!(self.setting, Setting::BatchSize | Setting::Data)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: was {}, is now {}", self.setting.name(), self.saved, self.current)
    }
}

/// The settings of a run, as a checkpoint keeps them.
pub(crate) type Saved = Vec<(String, String)>;

/// What differs, among the settings that both know.
pub(crate) fn differences(saved: &Saved, current: &Saved) -> Vec<Difference> {
    let find = |list: &Saved, name: &str| list.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    Setting::ALL
        .iter()
        .filter_map(|&(setting, name)| {
            let (saved, current) = (find(saved, name)?, find(current, name)?);
            (saved != current).then_some(Difference { setting, saved, current })
        })
        .collect()
}

/// Refuses the differences that are checked and not allowed, and reports the others.
pub(crate) fn check(differences: &[Difference], is_allowed: impl Fn(Setting) -> bool) -> Result<()> {
    let (refused, reported): (Vec<_>, Vec<_>) =
        differences.iter().partition(|difference| difference.setting.is_checked() && !is_allowed(difference.setting));
    for difference in reported {
        log::warn!("going on with a different setting: {difference}");
    }
    if refused.is_empty() {
        return Ok(());
    }
    let list: Vec<_> = refused.iter().map(|difference| difference.to_string()).collect();
    let mut ways = Vec::new();
    if refused.iter().any(|difference| difference.setting.is_about_data()) {
        ways.push("`Inputs::continue_with_new_data()`".to_owned());
    }
    ways.extend(refused.iter().map(|difference| format!("`Builder::allow(Setting::{:?})`", difference.setting)));
    let message = format!(
        "the run in this directory was saved with other settings ({}); to go on all the same: {}",
        list.join("; "),
        ways.join(", or ")
    );
    Err(Error::new(ErrorKind::Settings, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(seed: &str, threads: &str) -> Saved {
        vec![("seed".into(), seed.into()), ("threads".into(), threads.into())]
    }

    #[test]
    fn a_checked_difference_is_refused_until_allowed() {
        let found = differences(&saved("1", "2"), &saved("3", "2"));
        assert_eq!(found, [Difference { setting: Setting::Seed, saved: "1".into(), current: "3".into() }]);
        let error = check(&found, |_| false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Settings);
        assert!(
            error.to_string().contains("was 1, is now 3") && error.to_string().contains("Setting::Seed"),
            "{error}"
        );
        check(&found, |setting| setting == Setting::Seed).unwrap();
    }

    #[test]
    fn every_item_of_the_list_is_told_by_itself() {
        let (was, is): (Saved, Saved) = Setting::ALL
            .iter()
            .map(|(_, name)| (((*name).to_owned(), "a".to_owned()), ((*name).to_owned(), "b".to_owned())))
            .unzip();
        let found = differences(&was, &is);
        assert_eq!(found.len(), Setting::ALL.len());
        let refused = check(&found, |_| false).unwrap_err().to_string();
        for (setting, name) in Setting::ALL {
            let is_told = refused.contains(&format!("{name}: was a, is now b"));
            assert_eq!(is_told, !matches!(setting, Setting::Threads | Setting::Version), "{name}: {refused}");
            let others = check(&found, |allowed| allowed == setting).unwrap_err().to_string();
            assert!(!others.contains(&format!("{name}: was")), "{name}: {others}");
        }
        check(&found, Setting::is_checked).unwrap();
        // A checkpoint of an older version does not know all of them.
        assert!(differences(&Saved::new(), &is).is_empty());
    }

    #[test]
    fn threads_are_only_reported() {
        check(&differences(&saved("1", "2"), &saved("1", "4")), |_| false).unwrap();
    }
}
