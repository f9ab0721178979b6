//! What is between the columns of a line.

/// What is between the columns of a [`Conll`](crate::text::Conll) file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Separator {
    /// Any number of spaces and tabs. Other white space, such as a no-break space, is part of a word.
    #[default]
    Whitespace,
    /// One such character, commonly a tab: words may then have spaces in them.
    Char(char),
}

impl Separator {
    pub(super) fn cells(self, line: &str) -> Vec<&str> {
        match self {
            Self::Whitespace => line.split([' ', '\t']).filter(|cell| !cell.is_empty()).collect(),
            Self::Char(separator) => line.split(separator).collect(),
        }
    }

    pub(super) fn first(self, line: &str) -> &str {
        let cell = match self {
            Self::Whitespace => line.split([' ', '\t']).find(|cell| !cell.is_empty()),
            Self::Char(separator) => line.split(separator).next(),
        };
        cell.unwrap_or_default()
    }
}
