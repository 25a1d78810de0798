//! Command lines and targets with placeholders.
//!
//! A placeholder is a name in braces, as in `--port {port}`; braces round anything else stand for
//! themselves. A command line is cut into words first, as a shell does it but without one, and its
//! placeholders are filled in after that: what is filled in is never cut.

use std::collections::BTreeSet;
use std::str::FromStr;

use super::{Error, Values};
use crate::options::TargetName;

/// A command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandTemplate {
    words: Vec<String>,
}

impl CommandTemplate {
    /// The placeholders in it.
    #[must_use]
    pub fn placeholders(&self) -> BTreeSet<String> {
        self.words.iter().flat_map(|it| placeholders(it)).collect()
    }

    /// The words to run.
    ///
    /// # Errors
    ///
    /// When `values` lack a placeholder.
    pub fn fill(&self, values: &Values) -> Result<Vec<String>, Error> {
        self.words.iter().map(|it| fill(it, values)).collect()
    }
}

impl FromStr for CommandTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words = shlex::split(text).ok_or("a quote is not closed")?;
        if words.first().is_none_or(String::is_empty) {
            return Err("a command line names a program".to_owned());
        }
        Ok(Self { words })
    }
}

/// What to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetTemplate {
    /// Whatever the first command serves, in RESP.
    Auto,
    /// A target.
    Plain(TargetName),
    /// A target once its placeholders are filled in.
    Text(String),
}

impl TargetTemplate {
    /// What stands for [`Self::Auto`].
    pub const AUTO: &str = "resp://127.0.0.1:{port}";

    /// The placeholders in it.
    #[must_use]
    pub fn placeholders(&self) -> BTreeSet<String> {
        placeholders(self.text())
    }

    /// The target to load.
    ///
    /// # Errors
    ///
    /// When `values` lack a placeholder, or what comes out is no target.
    pub fn fill(&self, values: &Values) -> Result<TargetName, Error> {
        if let Self::Plain(target) = self {
            return Ok(target.clone());
        }
        let text = fill(self.text(), values)?;
        text.parse().map_err(|why| Error::Target { text, why })
    }

    fn text(&self) -> &str {
        match self {
            Self::Auto => Self::AUTO,
            Self::Plain(_) => "",
            Self::Text(text) => text,
        }
    }
}

impl FromStr for TargetTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            Ok(Self::Auto)
        } else if placeholders(text).is_empty() {
            text.parse().map(Self::Plain)
        } else {
            Ok(Self::Text(text.to_owned()))
        }
    }
}

/// A part of a text.
enum Part<'a> {
    Plain(&'a str),
    Placeholder(&'a str),
}

fn parts(mut text: &str) -> Vec<Part<'_>> {
    let is_name = |name: &str| {
        name.starts_with(|it: char| it.is_ascii_alphabetic())
            && name.chars().all(|it| it.is_ascii_alphanumeric() || "-_".contains(it))
    };
    let mut parts = Vec::new();
    let mut from = 0;
    while let Some(open) = text[from..].find('{').map(|it| it + from) {
        let name = text[open + 1..].split_once('}').map_or("", |it| it.0);
        if is_name(name) {
            parts.push(Part::Plain(&text[..open]));
            parts.push(Part::Placeholder(name));
            text = &text[open + name.len() + 2..];
            from = 0;
        } else {
            from = open + 1;
        }
    }
    parts.push(Part::Plain(text));
    parts
}

fn placeholders(text: &str) -> BTreeSet<String> {
    let names = parts(text).into_iter().filter_map(|part| match part {
        Part::Placeholder(name) => Some(name.to_owned()),
        Part::Plain(_) => None,
    });
    names.collect()
}

fn fill(text: &str, values: &Values) -> Result<String, Error> {
    let mut filled = String::with_capacity(text.len());
    for part in parts(text) {
        filled.push_str(match part {
            Part::Plain(text) => text,
            Part::Placeholder(name) => values.get(name).ok_or_else(|| Error::Placeholder {
                text: text.to_owned(),
                name: name.to_owned(),
                known: known(values),
            })?,
        });
    }
    Ok(filled)
}

/// The placeholders that there always are, and those that there are this time.
fn known(values: &Values) -> String {
    let always = ["port", "port2", "port3", "dir", "dir2"].map(|it| format!("{{{it}}}"));
    let others = values.keys().map(|it| format!("{{{it}}}")).filter(|it| !always.contains(it));
    let names: Vec<String> = always.iter().cloned().chain(others).collect();
    format!("{} and so on", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Values {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        [pair("port", "7000"), pair("dir", "/a b"), pair("io-threads", "4")].into()
    }

    #[test]
    fn words_are_cut_before_placeholders_are_filled_in() {
        let command: CommandTemplate =
            "server --port {port} --save \"\" 'a b'{dir}/x --t={io-threads}".parse().unwrap();
        let expected = ["server", "--port", "7000", "--save", "", "a b/a b/x", "--t=4"];
        assert_eq!(command.fill(&values()).unwrap(), expected);
        let names: Vec<String> = command.placeholders().into_iter().collect();
        assert_eq!(names, ["dir", "io-threads", "port"]);
    }

    #[test]
    fn braces_round_anything_but_a_name_stand_for_themselves() {
        for text in ["{}", "{a b}", "{\"a\": {port2", "}{", "{1}", "{{"] {
            let command: CommandTemplate = format!("x '{text}'").parse().unwrap();
            assert_eq!(command.fill(&values()).unwrap(), ["x", text]);
        }
        let command: CommandTemplate = "x '{ {port}}'".parse().unwrap();
        assert_eq!(command.fill(&values()).unwrap(), ["x", "{ 7000}"]);
    }

    #[test]
    fn an_unknown_placeholder_is_named_with_the_known_ones() {
        let command: CommandTemplate = "x --p={prot}".parse().unwrap();
        assert_eq!(
            command.fill(&values()).unwrap_err().to_string(),
            "`--p={prot}` has the placeholder {prot}; known are {port}, {port2}, {port3}, {dir}, \
             {dir2}, {io-threads} and so on"
        );
    }

    #[test]
    fn a_command_line_is_whole_and_names_a_program() {
        for text in ["", "  ", "x 'y", "'' x", "# nothing"] {
            assert!(text.parse::<CommandTemplate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_target_may_have_placeholders() {
        let target = |text: &str| text.parse::<TargetTemplate>().unwrap().fill(&values());
        let resp = |address: &str| TargetName::Remote(format!("resp://{address}"));
        assert_eq!(target("auto").unwrap(), resp("127.0.0.1:7000"));
        assert_eq!(target("resp://h:{port}?wait=1").unwrap(), resp("h:7000?wait=1"));
        assert_eq!(target("in-core").unwrap(), TargetName::InCore);
        assert!(target("rsp://h:{port}").is_err());
        assert!("nonsense".parse::<TargetTemplate>().is_err());
    }
}
