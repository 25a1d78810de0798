//! Commands of the user's own, as in `HSET {key} field {value}`.

/// A command with places for a key and a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandTemplate {
    /// What the mix calls it.
    pub name: String,
    /// As given.
    pub text: String,
    arguments: Vec<Vec<Part>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Key,
    Value,
}

impl CommandTemplate {
    /// `NAME=COMMAND`, the command's arguments separated by blanks.
    ///
    /// # Errors
    ///
    /// A sentence, when it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, command) =
            text.split_once('=').ok_or("expected NAME=COMMAND, as in push=LPUSH {key} {value}")?;
        let arguments: Vec<Vec<Part>> =
            command.split_ascii_whitespace().map(parts).collect::<Result<_, _>>()?;
        if arguments.is_empty() {
            return Err("expected a command behind the =".to_owned());
        }
        Ok(Self { name: name.trim().to_owned(), text: command.trim().to_owned(), arguments })
    }

    /// Whether it sends a value.
    #[must_use]
    pub fn has_value(&self) -> bool {
        self.arguments.iter().flatten().any(|it| *it == Part::Value)
    }

    /// Its arguments with `key` and `value` in their places.
    #[must_use]
    pub fn arguments(&self, key: &[u8], value: &[u8]) -> Vec<Vec<u8>> {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Key => key.to_vec(),
            Part::Value => value.to_vec(),
        };
        self.arguments.iter().map(|it| it.iter().flat_map(part).collect()).collect()
    }
}

/// The parts of one argument.
fn parts(argument: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = argument;
    while let Some(start) = rest.find('{') {
        let end = rest[start..].find('}').ok_or_else(|| format!("{argument:?} lacks a }}"))?;
        if start > 0 {
            parts.push(Part::Text(rest.as_bytes()[..start].to_vec()));
        }
        match &rest[start + 1..start + end] {
            "key" => parts.push(Part::Key),
            "value" => parts.push(Part::Value),
            other => {
                return Err(format!("{{{other}}} is unknown: there are {{key}} and {{value}}"));
            }
        }
        rest = &rest[start + end + 1..];
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.as_bytes().to_vec()));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_take_their_places() {
        let command = CommandTemplate::parse("h=HSET user:{key}:h  field {value}").unwrap();
        let arguments = command.arguments(b"k1", b"v v");
        assert_eq!(arguments, [&b"HSET"[..], b"user:k1:h", b"field", b"v v"]);
        assert_eq!(command.name, "h");
        assert!(command.has_value());
        assert!(!CommandTemplate::parse("t=TTL {key}").unwrap().has_value());
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["PING", "x=", "x=GET {kex}", "x=GET {key"] {
            assert!(CommandTemplate::parse(text).is_err(), "{text}");
        }
    }
}
