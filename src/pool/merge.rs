//! Owns: the three-way merge of a key that both the configuration file and the operator can set.
//! Invariant: a value that the operator has set holds until the file changes that key; then the file's value holds.
//! Must not know: which keys these are, or who set them.

/// The values of one key, from which [`merge`] decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyValues<T> {
    /// The value of the file that is in use.
    pub was: T,
    /// The value in use: that of the file, unless the operator has set another one.
    pub runtime: T,
    /// The value of the next file.
    pub file: T,
}

/// Whose value a key has after a merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged<T> {
    /// The value of the next file, since the operator has set none.
    Followed(T),
    /// The value of the next file, which changed the key, instead of the one that the operator had set.
    Overridden(T),
    /// The value that the operator has set: the file has not changed the key.
    Kept(T),
}

impl<T> Merged<T> {
    /// Returns the value that holds from now on.
    pub fn value(self) -> T {
        match self {
            Merged::Followed(value) | Merged::Overridden(value) | Merged::Kept(value) => value,
        }
    }

    /// Says why the value holds.
    pub fn because(&self) -> &'static str {
        match self {
            Merged::Followed(_) => "the file changed it",
            Merged::Overridden(_) => "the file changed it, which overrides what was set at runtime",
            Merged::Kept(_) => KEPT,
        }
    }
}

/// Why a value that differs from the file's holds.
pub const KEPT: &str = "it was set at runtime, and the file has not changed it since";

/// Merges the next file into the values in use.
pub fn merge<T: PartialEq>(KeyValues { was, runtime, file }: KeyValues<T>) -> Merged<T> {
    if runtime == was || runtime == file {
        Merged::Followed(file)
    } else if file == was {
        Merged::Kept(runtime)
    } else {
        Merged::Overridden(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_value_set_at_runtime_holds_until_the_file_changes_that_key() {
        let merged = |was, runtime, file| merge(KeyValues { was, runtime, file });
        assert_eq!(merged(1, 1, 3), Merged::Followed(3));
        assert_eq!(merged(1, 5, 1), Merged::Kept(5));
        assert_eq!(merged(1, 5, 3), Merged::Overridden(3));
        assert_eq!(merged(1, 5, 5), Merged::Followed(5), "the file says by now what the operator had set");
    }

    proptest! {
        #[test]
        fn the_result_is_the_files_value_unless_only_the_operator_has_changed_the_key(
            was in 0u8..4, runtime in 0u8..4, file in 0u8..4,
        ) {
            let merged = merge(KeyValues { was, runtime, file });
            let expected = if file == was { runtime } else { file };
            prop_assert_eq!(merged.value(), expected);
            prop_assert_eq!(matches!(merged, Merged::Kept(_)), merged.value() != file);
        }

        /// Files that follow each other and never touch the key don't touch what the operator has set; the first that
        /// does wins, however many there were.
        #[test]
        fn any_number_of_reloads_merges_like_the_changes_that_they_contain(
            files in proptest::collection::vec(0u8..3, 1..20), runtime in 0u8..3,
        ) {
            let mut value = runtime;
            for pair in files.windows(2) {
                value = merge(KeyValues { was: pair[0], runtime: value, file: pair[1] }).value();
            }
            let last_change = files.windows(2).rfind(|pair| pair[0] != pair[1]);
            prop_assert_eq!(value, last_change.map_or(runtime, |pair| pair[1]));
        }
    }
}
