//! A knob and the values that it takes, as the command line writes them.
//!
//! | written | values |
//! |---|---|
//! | `1,2,8` | these |
//! | `1..64*2` | 1, 2, 4 and so on up to 64 |
//! | `1..10+3` | 1, 4, 7, 10 |

use std::str::FromStr;

/// No sweep has more points.
pub const POINTS_MAX: usize = 200;

/// Something that a sweep varies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knob {
    /// What.
    pub name: String,
    /// Its values, in order.
    pub values: Vec<String>,
}

impl FromStr for Knob {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, list) = text.split_once('=').ok_or("expected NAME=LIST, as in pipeline=1,8")?;
        if name.is_empty() {
            return Err("a knob has a name".to_owned());
        }
        let mut values = Vec::new();
        for item in list.split(',') {
            match item.split_once("..") {
                Some((first, last)) => range(first, last, &mut values)?,
                None if item.is_empty() => return Err("a value is missing".to_owned()),
                None => values.push(item.to_owned()),
            }
            if values.len() > POINTS_MAX {
                return Err(format!("more than {POINTS_MAX} values"));
            }
        }
        Ok(Self { name: name.to_owned(), values })
    }
}

/// Adds the values from `first` on, up to and with the number before the step in `rest`.
fn range(first: &str, rest: &str, values: &mut Vec<String>) -> Result<(), String> {
    let wrong = || format!("{first}..{rest} is no range: expected one as 1..64*2 or 1..10+3");
    let at = rest.find(['*', '+']).ok_or_else(wrong)?;
    let (last, step) = rest.split_at(at);
    let is_factor = step.starts_with('*');
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    let (first_value, last, step) = (number(first)?, number(last)?, number(&step[1..])?);
    if first_value > last {
        return Err(format!("{first}..{rest} is empty"));
    }
    if step == 0 || (is_factor && (step == 1 || first_value == 0)) {
        return Err(format!("{first}..{rest} has no end"));
    }
    let mut next = Some(first_value);
    while let Some(value) = next.filter(|&it| it <= last) {
        values.push(value.to_string());
        if values.len() > POINTS_MAX {
            return Err(format!("{first}..{rest} has more than {POINTS_MAX} values"));
        }
        next = if is_factor { value.checked_mul(step) } else { value.checked_add(step) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(list: &str) -> Result<Vec<String>, String> {
        format!("x={list}").parse::<Knob>().map(|it| it.values)
    }

    #[test]
    fn lists_and_ranges_are_written_out() {
        for (list, expected) in [
            ("1,2,8", "1 2 8"),
            ("none,sync", "none sync"),
            ("16-1024", "16-1024"),
            ("1..64*2", "1 2 4 8 16 32 64"),
            ("3..100*5", "3 15 75"),
            ("1..10+3", "1 4 7 10"),
            ("0..9+4", "0 4 8"),
            ("7..7*2", "7"),
            ("1,10..30+10", "1 10 20 30"),
            ("9223372036854775808..18446744073709551615*2", "9223372036854775808"),
        ] {
            assert_eq!(values(list).unwrap().join(" "), expected, "{list}");
        }
        let knob: Knob = "io-threads=a=b".parse().unwrap();
        assert_eq!((knob.name.as_str(), knob.values), ("io-threads", vec!["a=b".to_owned()]));
    }

    #[test]
    fn impossible_lists_are_refused() {
        for list in [
            "",
            "1,",
            ",1",
            "1..8",
            "1..8*1",
            "1..8*0",
            "0..8*2",
            "1..8+0",
            "8..1*2",
            "a..8*2",
            "1..b+1",
            "1..8*",
            "1..1000+1",
            "1..100+1,1..101+1",
            "..8*2",
        ] {
            assert!(values(list).is_err(), "{list}");
        }
        assert_eq!(values("1..200+1").unwrap().len(), 200);
        for text in ["pipeline", "=1", ""] {
            assert!(text.parse::<Knob>().is_err(), "{text}");
        }
    }
}
