//! A set of header names and of their starts, in which a name is found without a look at every item.
//!
//! Every header of every request is looked up. Most names are refused by the first byte and the length, in one table;
//! only a name with a fitting pair is compared with the items of that first byte.

use std::borrow::Cow;

/// Classes of first bytes; two letters never share one.
const FIRSTS: usize = 32;
/// Lengths from here on are not distinguished.
const LONGEST: usize = 63;
/// The mark of a start.
const STAR: char = '*';

/// Names and starts of names, compared in one spelling (`normalised`).
#[derive(Clone, Debug, Default)]
pub(super) struct NameSet {
    /// By the class of the first byte.
    by_first: Vec<NamesOfClass>,
}

/// The items whose first bytes have one class.
#[derive(Clone, Debug, Default)]
struct NamesOfClass {
    /// Bit n: there is a name of n bytes.
    name_lengths: u64,
    /// Bit n: there is a start of n bytes.
    start_lengths: u64,
    names: Vec<Box<str>>,
    /// Each ends with `-` or `_`.
    starts: Vec<Box<str>>,
}

impl NameSet {
    /// A set of names, and of starts as `x-name-*`, compared in the spelling of `normalised`: any spelling counts.
    pub fn in_any_spelling<'a>(items: impl IntoIterator<Item = &'a str>) -> Self {
        let spelled = |item: &'a str| match item.strip_suffix(STAR) {
            Some(start) => Cow::Owned(format!("{}{STAR}", normalised(start))),
            None => normalised(item),
        };
        Self::of(items.into_iter().map(spelled))
    }

    /// The same, compared as they are written.
    pub fn as_written<'a>(items: impl IntoIterator<Item = &'a str>) -> Self {
        Self::of(items.into_iter().map(Cow::Borrowed))
    }

    fn of<'a>(items: impl Iterator<Item = Cow<'a, str>>) -> Self {
        let mut by_first = vec![NamesOfClass::default(); FIRSTS];
        for item in items {
            if let Some(same_first) = item.bytes().next().and_then(|first| by_first.get_mut(class(first))) {
                same_first.add(&item);
            }
        }
        Self { by_first }
    }

    /// True if the name, in the spelling of `normalised`, is in the set or has a start that is. Header names are ASCII
    /// in lower case.
    pub fn contains_in_any_spelling(&self, name: &str) -> bool {
        let first = name
            .bytes()
            .next()
            .map(|first| if first.is_ascii_alphanumeric() { first } else { b'-' });
        let same_first = first.and_then(|first| self.by_first.get(class(first)));
        // a spelling keeps the length, so most names need not be spelled
        same_first.is_some_and(|items| items.has_length(name.len()) && items.contains(&normalised(name)))
    }

    /// True if the name is in the set or has a start that is.
    pub fn contains(&self, name: &str) -> bool {
        let same_first = name.bytes().next().and_then(|first| self.by_first.get(class(first)));
        same_first.is_some_and(|items| items.contains(name))
    }
}

impl NamesOfClass {
    fn add(&mut self, item: &str) {
        match item.strip_suffix(STAR) {
            Some(start) => {
                self.start_lengths |= bit(start.len());
                self.starts.push(start.into());
            }
            None => {
                self.name_lengths |= bit(item.len());
                self.names.push(item.into());
            }
        }
    }

    /// False if no name of this length is an item or begins with a start.
    fn has_length(&self, length: usize) -> bool {
        let shorter = bit(length) | (bit(length) - 1);
        self.name_lengths & bit(length) != 0 || self.start_lengths & shorter != 0
    }

    fn contains(&self, name: &str) -> bool {
        if self.name_lengths & bit(name.len()) != 0 && self.names.iter().any(|item| **item == *name) {
            return true;
        }
        let mut lengths = self.start_lengths;
        while lengths != 0 {
            let length = lengths.trailing_zeros() as usize;
            lengths &= lengths - 1;
            let Some((start, _)) = name.split_at_checked(length) else {
                return false;
            };
            let is_start = match length {
                LONGEST => self.starts.iter().any(|item| name.starts_with(&**item)),
                _ => start.ends_with(['-', '_']) && self.starts.iter().any(|item| **item == *start),
            };
            if is_start {
                return true;
            }
        }
        false
    }
}

const fn class(first: u8) -> usize {
    first as usize % FIRSTS
}

const fn bit(length: usize) -> u64 {
    1 << if length < LONGEST { length } else { LONGEST }
}

/// Lower-cases a name and replaces every other character by `-`: servers that turn headers into variables (CGI) do not
/// distinguish `-`, `_`, `.` and the like.
pub(super) fn normalised(name: &str) -> Cow<'_, str> {
    if name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    {
        return Cow::Borrowed(name);
    }
    let replace = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    Cow::Owned(name.chars().map(replace).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_starts_are_found_in_any_spelling() {
        let names = NameSet::in_any_spelling(["X-Real_IP", "x-auth-request-*", "$wsru", "proxy", "x-a_*"]);
        for found in [
            "x-real-ip",
            "x-auth-request-user",
            "x-auth-request-",
            "-wsru",
            "proxy",
            "x-a-b-c",
        ] {
            assert!(names.contains(found), "{found}");
        }
        for other in [
            "",
            "x",
            "x-real-ips",
            "x-real-i",
            "x-auth-request",
            "x-auth-requests-user",
            "x-a",
            "proxy-",
            "wsru",
            "accept",
        ] {
            assert!(!names.contains(other), "{other}");
        }
        assert!(!NameSet::default().contains("x"));
        let written = NameSet::as_written(["ssl_cert", "x_a_*"]);
        assert!(written.contains("ssl_cert") && written.contains("x_a_b"));
        assert!(!written.contains("ssl-cert") && !written.contains("x-a-b"));
    }

    proptest! {
        #[test]
        fn a_look_up_is_the_same_as_a_look_at_every_item(
            items in proptest::collection::vec("[a-c-]{1,4}(-[*])?|[ax]{60,70}(-[*])?", 0..8),
            name in "[a-c-]{0,8}|[ax]{60,70}(-b)?",
        ) {
            let names = NameSet::in_any_spelling(items.iter().map(String::as_str));
            let expected = items.iter().any(|item| match item.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => *item == name,
            });
            prop_assert_eq!(names.contains(&name), expected);
        }

        #[test]
        fn a_look_up_in_any_spelling_is_a_look_up_of_the_one_spelling(
            items in proptest::collection::vec("[a-c_.-]{1,4}(-[*])?|[ax]{60,70}(-[*])?", 0..8),
            name in "[a-c_.$-]{0,8}|[ax_]{60,70}(-b)?",
        ) {
            let names = NameSet::in_any_spelling(items.iter().map(String::as_str));
            prop_assert_eq!(names.contains_in_any_spelling(&name), names.contains(&normalised(&name)));
        }
    }
}
