//! Text of any origin, made harmless.
//!
//! Characters that would mean something to the parser are written as references. Control characters,
//! and those that change the direction of the text after them, show as the replacement character, so
//! that an error text from a server cannot rearrange what stands beside it.

/// As the content of an element, or as an attribute in quotes of either kind.
pub(super) fn escaped(text: &str) -> String {
    replaced(text, true)
}

/// As an attribute in single quotes: JSON has many double quotes, and stays short so.
pub(super) fn quoted(text: &str) -> String {
    replaced(text, false)
}

fn replaced(text: &str, is_double_quote_replaced: bool) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '\'' => safe.push_str("&#39;"),
            '"' if is_double_quote_replaced => safe.push_str("&quot;"),
            '\n' | '\t' => safe.push(character),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => safe.push('\u{fffd}'),
            _ if character.is_control() => safe.push('\u{fffd}'),
            _ => safe.push(character),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_for_the_parser() {
        assert_eq!(escaped("<b a='1' c=\"2\">&"), "&lt;b a=&#39;1&#39; c=&quot;2&quot;&gt;&amp;");
        assert_eq!(quoted("{\"a\":\"'<\"}"), "{\"a\":\"&#39;&lt;\"}");
    }

    #[test]
    fn characters_that_steer_show_as_replaced() {
        assert_eq!(
            escaped("a\u{1b}[31m\0\r\u{202e}\u{2067}b\u{85}"),
            "a\u{fffd}[31m\u{fffd}\u{fffd}\u{fffd}\u{fffd}b\u{fffd}"
        );
        assert_eq!(escaped("two\n\tlines \u{b5}s"), "two\n\tlines \u{b5}s");
    }
}
