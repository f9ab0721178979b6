//! Patterns over the names of parameters.

/// Whether a name fits a pattern: a prefix (`"critic."`), or, where it has a `*`, a glob over the whole name in which every `*`
/// stands for any text (`"*.bias"`, `"encoder.*.weight"`).
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = pieces.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut pieces = pieces.peekable();
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        // The earliest place leaves the most for the pieces that follow.
        match rest.find(piece) {
            Some(place) => rest = &rest[place + piece.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_globs() {
        for (pattern, name, expected) in [
            ("", "conv1.weight", true),
            ("conv1.", "conv1.weight", true),
            ("conv1.", "conv10.weight", false),
            ("weight", "conv1.weight", false),
            ("*.bias", "conv1.bias", true),
            ("*.bias", "conv1.bias.scale", false),
            ("*", "anything", true),
            ("a*b*c", "a.b.b.c", true),
            ("a*b*c", "a.c.b", false),
            ("a*a", "a", false),
            ("*norm*", "block.norm1.weight", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern:?} {name:?}");
        }
    }
}
