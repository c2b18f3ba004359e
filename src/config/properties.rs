//! `server.properties`: the text format of Java's properties, as Kafka reads it.

/// A line that is no property.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct PropertiesError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

/// Reads keys and values in the order of the file; a key that comes twice is an error here, though Java takes the last.
///
/// Comments begin with `#` or `!`; `=`, `:` or blanks part key and value; a backslash escapes (`\n`, `\t`, `\u0041`) or
/// continues the line.
///
/// # Errors
/// A key twice, an empty key, a bad `\u` escape: with the line.
pub fn parse_properties(text: &str) -> Result<Vec<(String, String)>, PropertiesError> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, first)) = lines.next() {
        let line = number + 1;
        let first = first.trim_start();
        if first.is_empty() || first.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = first.to_owned();
        while continues(&logical) {
            logical.pop();
            let Some((_, next)) = lines.next() else { break };
            logical.push_str(next.trim_start());
        }
        let (key, value) = split(&logical);
        let fail = |what: String| PropertiesError { line, what };
        let key = unescape(key).map_err(fail)?;
        let value = unescape(value).map_err(fail)?;
        if key.is_empty() {
            return Err(fail("expected key=value, found no key".to_owned()));
        }
        if found.iter().any(|(k, _)| *k == key) {
            return Err(fail(format!("key \"{key}\" is set twice")));
        }
        found.push((key, value));
    }
    Ok(found)
}

/// An odd number of backslashes at the end.
fn continues(line: &str) -> bool {
    line.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1
}

fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let mut end = line.len();
    for (i, c) in line.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == '=' || c == ':' || c.is_whitespace() {
            end = i;
            break;
        }
    }
    let (key, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (key, rest.trim_start())
}

fn unescape(text: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => plain.push('\n'),
            Some('t') => plain.push('\t'),
            Some('r') => plain.push('\r'),
            Some('f') => plain.push('\u{c}'),
            Some('u') => {
                let digits: String = chars.by_ref().take(4).collect();
                let code = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4);
                let found = code.and_then(char::from_u32);
                plain.push(
                    found.ok_or_else(|| format!("\\u{digits}: expected four hexadecimal digits of a character"))?,
                );
            }
            Some(other) => plain.push(other),
            None => {}
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> Vec<(String, String)> {
        parse_properties(text).expect("valid")
    }

    #[test]
    fn the_format_is_javas() {
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(
            one("a=1\n b : 2\nc 3\n#d=4\n!e\n\nf="),
            [pair("a", "1"), pair("b", "2"), pair("c", "3"), pair("f", "")]
        );
        assert_eq!(one("list=a,\\\n   b,\\\n   c"), [pair("list", "a,b,c")]);
        assert_eq!(one("k\\=ey=v\\tx\\u0041\\q"), [pair("k=ey", "v\txAq")]);
        assert_eq!(one("path=C:\\\\x"), [pair("path", "C:\\x")]);
        assert_eq!(parse_properties("a=1\na=2").expect_err("twice").to_string(), "line 2: key \"a\" is set twice");
        assert!(parse_properties("=x").is_err());
        assert!(parse_properties("a=\\u00zz").is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_text_does_not_panic(text in ".{0,200}") {
            let _ = parse_properties(&text);
        }

        #[test]
        fn plain_pairs_come_back(pairs in prop::collection::btree_map("[a-z.]{1,10}", "[A-Za-z0-9/,]{0,12}", 0..8)) {
            let text: String = pairs.iter().map(|(k, v)| format!("{k}={v}\n")).collect();
            let read: std::collections::BTreeMap<_, _> = one(&text).into_iter().collect();
            prop_assert_eq!(read, pairs);
        }
    }
}
