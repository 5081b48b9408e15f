//! Redis's glob patterns: `*`, `?`, `[a-z]`, `[^a]`, `\` to quote. Used by KEYS, SCAN and CONFIG GET.
//!
//! Invariant: no recursion; at most `(text + 1) * (pattern + 1)` steps, since after a `*` only the last one is retried.
//! For long texts and patterns that is still too much for a core, so commands have an [`Effort`] to spend.

/// Steps of one text that are free of charge, beside some for each of its bytes.
const FREE_STEPS: usize = 256;
const FREE_STEPS_PER_BYTE: usize = 4;
/// Steps that one text may take beside those: it is not put aside half done, so this is how long others wait for it.
const MAX_STEPS_PER_TEXT: usize = 2_000_000;

/// What a command may spend on matching beyond what a plain pattern takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effort {
    steps: usize,
}

impl Effort {
    /// Some tens of ms.
    #[must_use]
    pub const fn of_a_command() -> Self {
        Self { steps: 20_000_000 }
    }

    /// For a list of names: some hundreds of us.
    #[must_use]
    pub const fn of_a_list() -> Self {
        Self { steps: 200_000 }
    }

    /// As [`glob`]; `None` if all is spent, or more than one text may take.
    pub fn glob(&mut self, pattern: &[u8], text: &[u8]) -> Option<bool> {
        self.glob_counted(pattern, text).0
    }

    /// The same, with the steps that it took, those free of charge included.
    pub fn glob_counted(&mut self, pattern: &[u8], text: &[u8]) -> (Option<bool>, usize) {
        let free = FREE_STEPS + text.len() * FREE_STEPS_PER_BYTE;
        let all = free + self.steps.min(MAX_STEPS_PER_TEXT);
        let mut steps = all;
        let matches = glob_within(pattern, text, &mut steps);
        let taken = all - steps;
        self.steps -= taken.saturating_sub(free);
        (matches, taken)
    }
}

/// Whether all of `text` matches `pattern`, by Redis's rules (an unclosed `[` ends with the pattern; a `\` at the end
/// stands for itself).
#[must_use]
pub fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let mut steps = usize::MAX;
    glob_within(pattern, text, &mut steps).expect("more steps than any text takes")
}

/// As [`glob`], taking what it does from `steps`; `None` once that is nothing.
fn glob_within(pattern: &[u8], text: &[u8], steps: &mut usize) -> Option<bool> {
    // Redis takes a lone `*` for everything without looking; but an empty text it matches with an empty pattern only.
    if text.is_empty() {
        return Some(pattern.is_empty() || pattern == b"*");
    }
    let (mut pattern, mut text) = (pattern, text);
    // Where to go on if what follows the last `*` does not fit: the pattern after it, the text it has to swallow from.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some(rest) = pattern.strip_prefix(b"*") {
            if rest.is_empty() {
                return Some(true);
            }
            *steps = steps.checked_sub(1)?;
            retry = Some((rest, text));
            pattern = rest;
            continue;
        }
        match text.split_first() {
            None => return Some(pattern.is_empty()),
            Some((&byte, text_rest)) => {
                let (fits, pattern_rest) = match_one(pattern, byte);
                *steps = steps.checked_sub(1 + pattern.len() - pattern_rest.len())?;
                if fits {
                    (pattern, text) = (pattern_rest, text_rest);
                    continue;
                }
            }
        }
        let Some((after_star, swallowed_from)) = retry else { return Some(false) };
        let Some((_, shorter)) = swallowed_from.split_first() else { return Some(false) };
        retry = Some((after_star, shorter));
        (pattern, text) = (after_star, shorter);
    }
}

/// Whether the pattern's first element matches `byte`, and the pattern left after it.
fn match_one(pattern: &[u8], byte: u8) -> (bool, &[u8]) {
    let Some((&first, rest)) = pattern.split_first() else { return (false, pattern) };
    match first {
        b'?' => (true, rest),
        b'[' => match_class(rest, byte),
        b'\\' => match rest.split_first() {
            Some((&quoted, rest)) => (quoted == byte, rest),
            None => (byte == b'\\', rest),
        },
        literal => (literal == byte, rest),
    }
}

/// As [`match_one`], behind a `[`.
fn match_class(class: &[u8], byte: u8) -> (bool, &[u8]) {
    let (negated, mut class) = match class.strip_prefix(b"^") {
        Some(rest) => (true, rest),
        None => (false, class),
    };
    let mut found = false;
    loop {
        match class {
            [] => break,
            [b']', rest @ ..] => {
                class = rest;
                break;
            }
            [b'\\', quoted, rest @ ..] => {
                found |= *quoted == byte;
                class = rest;
            }
            [start, b'-', end, rest @ ..] => {
                let (low, high) = (*start.min(end), *start.max(end));
                found |= (low..=high).contains(&byte);
                class = rest;
            }
            [single, rest @ ..] => {
                found |= *single == byte;
                class = rest;
            }
        }
    }
    (found != negated, class)
}

#[cfg(test)]
mod tests {
    use super::{Effort, glob};

    #[test]
    fn redis_rules() {
        let cases: &[(&str, &str, bool)] = &[
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "anything", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbbd", false),
            ("**a**", "xxaxx", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h[a-c]llo", "hdllo", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\", "a\\", true),
            ("[\\]]", "]", true),
            ("[a", "a", true),
            ("[a", "b", false),
            ("key:*:end", "key:1:end:end", true),
            ("*a*b*c*", "__a__c__b__", false),
            ("*a*b*c*", "__a__b__c__", true),
            ("[^]", "x", true),
            ("a?", "a", false),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), *expected, "{pattern} against {text}");
        }
    }

    #[test]
    fn many_stars_end_quickly() {
        let pattern = b"a*".repeat(1000);
        let text = b"a".repeat(2000);
        assert!(glob(&pattern, &text));
        let pattern = [b"*a".repeat(1000).as_slice(), b"b"].concat();
        assert!(!glob(&pattern, &text));
    }

    #[test]
    fn an_effort_is_spent_by_patterns_that_are_tried_again_and_again() {
        let (pattern, text) = ([b"*", b"a".repeat(30_000).as_slice(), b"b"].concat(), b"a".repeat(60_000));
        let mut effort = Effort::of_a_command();
        assert_eq!(effort.glob(&pattern, &text), None);
        assert_eq!(effort.glob(b"*b", &text), Some(false), "what is cheap is free");
        let class = [b"[".as_slice(), &b"x".repeat(50_000), b"]"].concat();
        let mut effort = Effort::of_a_command();
        let mut tried = 0;
        while effort.glob(&class, b"a") == Some(false) {
            tried += 1;
        }
        assert!((300..500).contains(&tried), "{tried}");
        let mut effort = Effort::of_a_command();
        for n in 0..100_000 {
            let text = format!("user:{n}:name:of:somebody");
            assert_eq!(effort.glob(b"*user:*9:*:some*dy", text.as_bytes()), Some(n % 10 == 9));
        }
        assert_eq!(effort, Effort::of_a_command());
    }
}
