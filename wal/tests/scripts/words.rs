//! The words of a command: its name, then `name=value` or bare ones, in any order. A word that nobody asks for is an error.

/// What is left of a command's words.
pub struct Words {
    pub name: String,
    rest: Vec<(String, Option<String>)>,
}

impl Words {
    pub fn of(command: &str) -> Self {
        let mut words = command.split_whitespace();
        let name = words.next().unwrap_or_default().to_owned();
        let pair = |word: &str| match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word.to_owned(), None),
        };
        Self { name, rest: words.map(pair).collect() }
    }

    fn take(&mut self, name: &str) -> Option<Option<String>> {
        let at = self.rest.iter().position(|(held, _)| held == name)?;
        Some(self.rest.remove(at).1)
    }

    /// Whether a bare word is there.
    pub fn flag(&mut self, name: &str) -> Result<bool, String> {
        match self.take(name) {
            Some(Some(value)) => Err(format!("{name}={value} takes no value")),
            found => Ok(found.is_some()),
        }
    }

    pub fn value(&mut self, name: &str) -> Result<Option<String>, String> {
        match self.take(name) {
            Some(None) => Err(format!("{name} needs a value")),
            found => Ok(found.flatten()),
        }
    }

    pub fn number_if_any(&mut self, name: &str) -> Result<Option<u64>, String> {
        let number =
            |text: String| text.parse().map_err(|error| format!("{name}={text} is not a number: {error}"));
        self.value(name)?.map(number).transpose()
    }

    pub fn number(&mut self, name: &str) -> Result<u64, String> {
        self.number_if_any(name)?.ok_or_else(|| format!("{name}= is missing"))
    }

    /// `3`, or `3..=9`: the first and the last.
    pub fn range(&mut self, name: &str) -> Result<(u64, u64), String> {
        let text = self.value(name)?.ok_or_else(|| format!("{name}= is missing"))?;
        let (first, last) = text.split_once("..=").unwrap_or((&text, &text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) => Ok((first, last)),
            (Err(_), _) | (_, Err(_)) => Err(format!("{name}={text} is not a number or a range")),
        }
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<(), String> {
        match self.rest.first() {
            Some((name, _)) => Err(format!("{name} is not understood")),
            None => Ok(()),
        }
    }
}
