//! What must be the same when a run goes on, and the typed list of what is not.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

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

    pub(crate) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(setting, _)| *setting)
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

/// Of hyper-parameters, the fields that differ: a vocabulary among them would fill the screen.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.setting.name();
        let parsed = |text: &str| serde_json::from_str::<Value>(text).ok();
        match (parsed(&self.saved), parsed(&self.current)) {
            (Some(saved @ Value::Object(_)), Some(current @ Value::Object(_))) => {
                let mut fields = Vec::new();
                compare(String::new(), &saved, &current, &mut fields);
                if fields.is_empty() {
                    // They differ in how they are written, as 0 and -0 do.
                    return write!(f, "{name}: was {}, is now {}", short(Some(&saved)), short(Some(&current)));
                }
                let more = fields.len().saturating_sub(MOST_FIELDS);
                fields.truncate(MOST_FIELDS);
                write!(f, "{name}: {}", fields.join(", "))?;
                if more > 0 { write!(f, ", and {more} more") } else { Ok(()) }
            }
            _ => {
                let [saved, current] =
                    [&self.saved, &self.current].map(|text| if text == "null" { "none" } else { text });
                write!(f, "{name}: was {saved}, is now {current}")
            }
        }
    }
}

/// How many differing fields are told.
const MOST_FIELDS: usize = 4;
/// How many characters of a value are told.
const MOST_CHARACTERS: usize = 60;

/// Adds what differs at or below this place.
fn compare(place: String, saved: &Value, current: &Value, fields: &mut Vec<String>) {
    match (saved, current) {
        (Value::Object(before), Value::Object(after)) => {
            let added = after.keys().filter(|key| !before.contains_key(*key));
            for key in before.keys().chain(added) {
                let dot = if place.is_empty() { "" } else { "." };
                let [old, new] = [before, after].map(|fields| fields.get(key));
                match (old, new) {
                    (Some(old), Some(new)) => compare(format!("{place}{dot}{key}"), old, new, fields),
                    _ => fields.push(format!("{place}{dot}{key} was {}, is now {}", short(old), short(new))),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (old, new)) in before.iter().zip(after).enumerate() {
                compare(format!("{place}[{index}]"), old, new, fields);
            }
        }
        _ if saved == current => {}
        _ => fields.push(format!("{place} was {}, is now {}", short(Some(saved)), short(Some(current)))),
    }
}

/// A value in one short line.
fn short(value: Option<&Value>) -> String {
    let Some(value) = value else { return "not there".to_owned() };
    let mut text = value.to_string();
    if let Some((end, _)) = text.char_indices().nth(MOST_CHARACTERS) {
        text.truncate(end);
        text.push_str("...");
        if let Value::Array(values) = value {
            text.push_str(&format!(" ({} values)", values.len()));
        }
    }
    text
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
    fn of_hyper_parameters_only_what_differs_is_told() {
        let told = |saved: &str, current: &str| {
            let (saved, current) = (saved.to_owned(), current.to_owned());
            Difference { setting: Setting::HyperParameters, saved, current }.to_string()
        };
        let (was, is) =
            (r#"{"rate":0.1,"net":{"sizes":[8,4],"same":1}}"#, r#"{"rate":0.1,"net":{"sizes":[8,5],"same":1}}"#);
        assert_eq!(told(was, is), "hyper_parameters: net.sizes[1] was 4, is now 5");
        assert_eq!(told(r#"{"a":1}"#, r#"{"a":1,"b":"x"}"#), "hyper_parameters: b was not there, is now \"x\"");
        assert_eq!(told(r#"{"a":[1,2]}"#, r#"{"a":[1]}"#), "hyper_parameters: a was [1,2], is now [1]");
        assert_eq!(told("3", "4"), "hyper_parameters: was 3, is now 4");
        assert!(told(r#"{"a":0.0}"#, r#"{"a":-0.0}"#).contains("is now"));

        let words = |count: usize| serde_json::json!({ "words": vec!["wört"; count] }).to_string();
        let message = told(&words(50_000), &words(49_999));
        assert!(message.len() < 250 && message.contains("(50000 values)"), "{message}");
        let others = serde_json::json!({ "words": vec!["other"; 50_000] }).to_string();
        assert!(told(&words(50_000), &others).ends_with(", and 49996 more"));
    }

    #[test]
    fn threads_are_only_reported() {
        check(&differences(&saved("1", "2"), &saved("1", "4")), |_| false).unwrap();
    }
}
