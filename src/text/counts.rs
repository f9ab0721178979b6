//! How often tokens occur.

use std::collections::HashMap;

/// Counts of tokens, from which a [`Vocabulary`](crate::text::Vocabulary) takes the frequent ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenCounts {
    counts: HashMap<String, u64>,
    min_count: u64,
    max_size: Option<usize>,
}

impl TokenCounts {
    /// Nothing counted yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one occurrence.
    pub fn add(&mut self, token: &str) {
        self.add_many(token, 1);
    }

    /// Counts the occurrences in one text after the other.
    pub fn add_all<S: AsRef<str>>(&mut self, tokens: impl IntoIterator<Item = S>) {
        tokens.into_iter().for_each(|token| self.add(token.as_ref()));
    }

    /// Adds the counts of another part of the data.
    pub fn merge(&mut self, other: &Self) {
        other.counts.iter().for_each(|(token, &count)| self.add_many(token, count));
    }

    fn add_many(&mut self, token: &str, count: u64) {
        match self.counts.get_mut(token) {
            Some(known) => *known = known.saturating_add(count),
            None => {
                self.counts.insert(token.to_owned(), count);
            }
        }
    }

    /// Leaves out tokens that occur less often; 0 and 1 keep all.
    #[must_use]
    pub fn min_count(mut self, min_count: u64) -> Self {
        self.min_count = min_count;
        self
    }

    /// Keeps no more than this many tokens; special ones and buckets come on top.
    #[must_use]
    pub fn max_size(mut self, max_size: usize) -> Self {
        self.max_size = Some(max_size);
        self
    }

    /// How often the token was counted.
    pub fn count(&self, token: &str) -> u64 {
        self.counts.get(token).copied().unwrap_or(0)
    }

    /// The number of different tokens, whatever the limits.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The tokens within the limits: the most frequent first, equally frequent ones by their UTF-8 bytes, so that the order
    /// is that of the data and of nothing else.
    pub fn tokens(&self) -> Vec<&str> {
        let frequent = self.counts.iter().filter(|&(_, &count)| count >= self.min_count);
        let mut tokens: Vec<(&str, u64)> = frequent.map(|(token, &count)| (token.as_str(), count)).collect();
        tokens.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        tokens.truncate(self.max_size.unwrap_or(usize::MAX));
        tokens.into_iter().map(|(token, _)| token).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(text: &str) -> TokenCounts {
        let mut counts = TokenCounts::new();
        counts.add_all(text.split(' '));
        counts
    }

    #[test]
    fn frequent_first_and_ties_by_bytes() {
        let counts = counted("b a c b é Z c b");
        assert_eq!(counts.tokens(), ["b", "c", "Z", "a", "é"]);
        assert_eq!((counts.count("c"), counts.count("none"), counts.len()), (2, 0, 5));
        assert_eq!(counts.clone().min_count(2).tokens(), ["b", "c"]);
        assert_eq!(counts.clone().max_size(3).tokens(), ["b", "c", "Z"]);
        assert_eq!(counts.clone().min_count(2).max_size(1).tokens(), ["b"]);
        assert!(counts.max_size(0).tokens().is_empty());
    }

    #[test]
    fn parts_merge_to_the_whole() {
        let mut parts = counted("x y x");
        parts.merge(&counted("y z"));
        assert_eq!(parts, counted("x y x y z"));
    }
}
