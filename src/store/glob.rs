//! Redis's glob patterns: `*`, `?`, `[a-z]`, `[^a]`, `\` to quote. Used by KEYS, SCAN and CONFIG GET.
//!
//! Invariant: no recursion; at most `(text + 1) * (pattern + 1)` steps, since after a `*` only the last one is retried.

/// Whether all of `text` matches `pattern`, by Redis's rules (an unclosed `[` ends with the pattern; a `\` at the end
/// stands for itself).
#[must_use]
pub fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    // Where to go on if what follows the last `*` does not fit: the pattern after it, the text it has to swallow from.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some(rest) = pattern.strip_prefix(b"*") {
            if rest.is_empty() {
                return true;
            }
            retry = Some((rest, text));
            pattern = rest;
            continue;
        }
        match text.split_first() {
            None if pattern.is_empty() => return true,
            None => return false,
            Some((&byte, text_rest)) => {
                if let Some(pattern_rest) = match_one(pattern, byte) {
                    (pattern, text) = (pattern_rest, text_rest);
                    continue;
                }
            }
        }
        let Some((after_star, swallowed_from)) = retry else { return false };
        let Some((_, shorter)) = swallowed_from.split_first() else { return false };
        retry = Some((after_star, shorter));
        (pattern, text) = (after_star, shorter);
    }
}

/// The pattern left after its first element, if that element matches `byte`.
fn match_one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (&first, rest) = pattern.split_first()?;
    match first {
        b'?' => Some(rest),
        b'[' => match_class(rest, byte),
        b'\\' => match rest.split_first() {
            Some((&quoted, rest)) => (quoted == byte).then_some(rest),
            None => (byte == b'\\').then_some(rest),
        },
        literal => (literal == byte).then_some(rest),
    }
}

/// As [`match_one`], behind a `[`.
fn match_class(class: &[u8], byte: u8) -> Option<&[u8]> {
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
    (found != negated).then_some(class)
}

#[cfg(test)]
mod tests {
    use super::glob;

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
}
