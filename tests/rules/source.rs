//! Reads Rust sources the way the rules need it: without comments and strings, as paths, as functions. No real parser:
//! good enough for code that rustfmt has been over.

use std::path::{Path, PathBuf};

/// One source file.
pub struct Source {
    /// Its path from the root of the workspace, with `/`.
    pub path: String,
    /// As it is.
    pub text: String,
    /// The same lines, with comments and the insides of strings blanked.
    pub code: String,
}

impl Source {
    /// From a text.
    pub fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), code: blank(text) }
    }

    /// The code without the unit tests at the foot of the file.
    pub fn code_without_tests(&self) -> &str {
        match self.code.find("#[cfg(test)]\nmod tests {") {
            Some(at) => &self.code[..at],
            None => &self.code,
        }
    }

    /// Whether the whole file is tests.
    pub fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap();
        self.path.split('/').any(|part| part == "tests") || name.starts_with("tests") || name == "fake.rs"
    }
}

/// All sources below these folders of the workspace, in order.
pub fn sources(folders: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in folders {
        collect(&root.join(folder), &mut files);
    }
    files.sort();
    files
        .iter()
        .map(|file| {
            let path = file.strip_prefix(root).unwrap().to_str().unwrap();
            Source::new(path, &std::fs::read_to_string(file).unwrap())
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
}

/// Blanks comments, and the insides of strings and character literals; lines stay where they are.
pub fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut out: Vec<char> = chars.clone();
    let mut wipe = |from: usize, to: usize| {
        for slot in &mut out[from..to.min(chars.len())] {
            if *slot != '\n' {
                *slot = ' ';
            }
        }
    };
    let mut i = 0;
    while i < chars.len() {
        let start = i;
        let after_word = i > 0 && (at(i - 1).is_alphanumeric() || at(i - 1) == '_');
        match (at(i), at(i + 1)) {
            ('/', '/') => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
                wipe(start, i);
            }
            ('/', '*') => {
                i = end_of_block_comment(&chars, i);
                wipe(start, i);
            }
            ('r', '"' | '#') if !after_word || at(i - 1) == 'b' => {
                let hashes = (1..).take_while(|n| at(i + n) == '#').count();
                if at(i + 1 + hashes) != '"' {
                    i += 1; // a raw identifier
                    continue;
                }
                i += 2 + hashes;
                while i < chars.len() && !(at(i) == '"' && (1..=hashes).all(|n| at(i + n) == '#')) {
                    i += 1;
                }
                wipe(start + 2 + hashes, i);
                i += 1 + hashes;
            }
            ('"', _) => {
                i += 1;
                while i < chars.len() && at(i) != '"' {
                    i += if at(i) == '\\' { 2 } else { 1 };
                }
                wipe(start + 1, i);
                i += 1;
            }
            ('\'', '\\') => {
                i += 3;
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                wipe(start + 1, i);
                i += 1;
            }
            ('\'', _) if at(i + 2) == '\'' => {
                wipe(start + 1, i + 2);
                i += 3;
            }
            _ => i += 1,
        }
    }
    out.into_iter().collect()
}

/// The place behind a block comment, nested ones included.
fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let (mut i, mut depth) = (start, 0);
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            break;
        }
    }
    i
}

/// All paths that begin with `crate`, `super` or `self`, in `use` and elsewhere, groups taken apart.
pub fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for start in ["crate", "super", "self"] {
        let mut from = 0;
        while let Some(at) = code[from..].find(start).map(|at| at + from) {
            from = at + start.len();
            let before = code[..at].chars().next_back().unwrap_or(' ');
            let is_start = !before.is_alphanumeric() && before != '_' && before != ':';
            // `pub(in path)` says who may use it.
            let is_use = is_start && !code[..at].ends_with("pub(in ");
            if is_use && code[from..].starts_with("::") {
                expand(&code[at..], &[], &mut found);
            }
        }
    }
    found
}

/// Expands one path or group of paths; gives the length of what it took.
fn expand(code: &str, before: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let word_len = code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len());
    let mut path = before.to_vec();
    if word_len > 0 {
        path.push(code[..word_len].to_owned());
    }
    let rest = &code[word_len..];
    let Some(after) = rest.strip_prefix("::") else {
        found.push(path);
        return word_len;
    };
    let Some(group) = after.strip_prefix('{') else { return word_len + 2 + expand(after, &path, found) };
    let mut used = 0;
    loop {
        used += group[used..].len() - group[used..].trim_start().len();
        match group[used..].chars().next() {
            None => break,
            Some('}') => {
                used += 1;
                break;
            }
            Some(c) if c.is_alphanumeric() || c == '_' => used += expand(&group[used..], &path, found),
            Some(c) => used += c.len_utf8(),
        }
    }
    word_len + 3 + used
}

/// The functions with a body: name, first line (from 1), number of lines.
pub fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = code[from..].find("fn ").map(|at| at + from) {
        from = at + 3;
        let before = code[..at].chars().next_back().unwrap_or(' ');
        let name: String = code[from..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if before.is_alphanumeric() || before == '_' || name.is_empty() {
            continue;
        }
        // The body opens at the first brace outside parentheses; a semicolon there means that there is none.
        let (mut depth, mut open) = (0_i32, None);
        for (offset, c) in code[from..].char_indices() {
            match c {
                '(' | '[' => depth += 1,
                ')' | ']' => depth -= 1,
                '{' if depth == 0 => {
                    open = Some(from + offset);
                    break;
                }
                ';' if depth == 0 => break,
                _ => {}
            }
        }
        let Some(open) = open else { continue };
        let mut braces = 0;
        let end = code[open..].char_indices().find_map(|(offset, c)| {
            braces += i32::from(c == '{') - i32::from(c == '}');
            (braces == 0).then_some(open + offset)
        });
        let end = end.unwrap_or(code.len());
        let line = code[..at].matches('\n').count() + 1;
        found.push((name, line, code[at..end].matches('\n').count() + 1));
    }
    found
}

/// Whether the code holds this word, as a whole.
pub fn holds_word(code: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back().unwrap_or(' ');
        let after = code[at + word.len()..].chars().next().unwrap_or(' ');
        !is_part(before) && !is_part(after)
    })
}
