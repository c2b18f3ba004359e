//! The file that says which segments are being replaced by a cleaned one. While it is there, the new segment counts.

use std::fmt::Write;

/// Segments `replaced`, the first of which gave the new one its name, become one.
///
/// ```text
/// 0
/// 3
/// 100
/// 180
/// 240
/// ```
/// version, count, base offsets: segment 100 is new, and stands for what was in 100, 180 and 240.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    /// Base offsets, growing, at least one.
    pub replaced: Vec<i64>,
}

impl Swap {
    /// The name of the file, in the partition's directory.
    pub const FILE: &'static str = "compaction.swap";
    /// What the names of the new files end with until they take their places.
    pub const SUFFIX: &'static str = ".cleaned";

    /// The base offset of the new segment.
    #[must_use]
    pub fn target(&self) -> i64 {
        self.replaced[0]
    }

    /// The file's text.
    #[must_use]
    pub fn encode(&self) -> String {
        assert!(!self.replaced.is_empty() && self.replaced.is_sorted());
        let mut text = format!("0\n{}\n", self.replaced.len());
        for base in &self.replaced {
            writeln!(text, "{base}").expect("to memory");
        }
        text
    }

    /// Reads what [`Self::encode`] wrote.
    #[must_use]
    pub fn decode(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let version = lines.next()?;
        let count: usize = lines.next()?.parse().ok()?;
        let replaced: Vec<i64> = lines.map(|l| l.parse().ok()).collect::<Option<_>>()?;
        let grows = replaced.windows(2).all(|pair| pair[0] < pair[1]) && replaced.first().is_some_and(|b| *b >= 0);
        (version == "0" && replaced.len() == count && grows).then_some(Self { replaced })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_comes_back() {
        let swap = Swap { replaced: vec![100, 180, 240] };
        assert_eq!(Swap::decode(&swap.encode()), Some(swap));
        for text in ["", "0\n0\n", "0\n2\n1\n", "0\n1\n-1\n", "0\n2\n5\n5\n", "1\n1\n5\n", "0\n1\nx\n"] {
            assert_eq!(Swap::decode(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_refused_without_panic(text in "[0-9\n-]{0,40}") {
            if let Some(swap) = Swap::decode(&text) {
                prop_assert!(!swap.replaced.is_empty());
            }
        }
    }
}
