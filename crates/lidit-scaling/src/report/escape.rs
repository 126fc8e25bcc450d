//! Text from elsewhere, made harmless.

use std::fmt::Write as _;

/// Text for HTML and SVG, in elements and quoted attributes.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // XML has no such characters, not even escaped.
            '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' => out.push('\u{fffd}'),
            letter => out.push(letter),
        }
    }
    out
}

/// JSON that can stand inside a `<script>` element: nothing in it ends the element or begins a comment.
pub fn script_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for letter in json.chars() {
        match letter {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                // Writing to a string can't fail.
                let _ = write!(out, "\\u{:04x}", u32::from(letter));
            }
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_ends_its_element() {
        assert_eq!(
            escaped("<b class=\"x\">'&\u{1}"),
            "&lt;b class=&quot;x&quot;&gt;&#39;&amp;\u{fffd}"
        );
        let json = script_json("\"</script><!--\u{2028}\"");
        assert_eq!(json, "\"\\u003c/script\\u003e\\u003c!--\\u2028\"");
        let read: String = serde_json::from_str(&json).unwrap();
        assert_eq!(read, "</script><!--\u{2028}");
    }
}
