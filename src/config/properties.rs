//! Reads Java's `.properties` format, which Kafka's `server.properties` is written in: separators
//! `=`, `:` or blanks, `\` escapes, `\uXXXX`, lines continued by a final `\`.

/// Keys and values in file order; a key given twice appears twice.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut entries = Vec::new();
    let mut lines = text.split('\n').map(|line| line.trim_end_matches('\r'));
    while let Some(line) = lines.next() {
        let start = line.trim_start_matches(BLANKS);
        if start.is_empty() || start.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = start.to_owned();
        while ends_with_odd_backslashes(&logical) {
            logical.pop();
            match lines.next() {
                Some(next) => logical.push_str(next.trim_start_matches(BLANKS)),
                None => break,
            }
        }
        entries.push(entry(&logical)?);
    }
    Ok(entries)
}

const BLANKS: [char; 3] = [' ', '\t', '\x0c'];

fn ends_with_odd_backslashes(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

fn entry(line: &str) -> Result<(String, String), String> {
    let mut escaped = false;
    let end = line
        .char_indices()
        .find(|(_, character)| {
            let ends = !escaped && (matches!(character, '=' | ':') || BLANKS.contains(character));
            escaped = !escaped && *character == '\\';
            ends
        })
        .map_or(line.len(), |(position, _)| position);
    let rest = line[end..].trim_start_matches(BLANKS);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    Ok((
        unescape(&line[..end])?,
        unescape(rest.trim_start_matches(BLANKS))?,
    ))
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let unit = match character {
            '\\' => match characters.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\x0c',
                Some('u') => {
                    let digits: String = characters.by_ref().take(4).collect();
                    let code = u16::from_str_radix(&digits, 16)
                        .ok()
                        .filter(|_| digits.len() == 4)
                        .ok_or_else(|| format!("malformed \\uxxxx escape in '{text}'"))?;
                    out.push(code);
                    continue;
                }
                Some(other) => other,
                None => break,
            },
            other => other,
        };
        // Java's \u escapes are UTF-16 units: surrogate pairs may arrive in two escapes.
        out.extend_from_slice(unit.encode_utf16(&mut [0; 2]));
    }
    String::from_utf16(&out).map_err(|_| format!("lone surrogate in '{text}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap()
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn separators_comments_and_continuations() {
        assert_eq!(
            parsed("# c\n! c\n\n a=1\nb : 2\r\nc 3\nd\ne=x\\\n   y\nf==\n"),
            vec![
                pair("a", "1"),
                pair("b", "2"),
                pair("c", "3"),
                pair("d", ""),
                pair("e", "xy"),
                pair("f", "="),
            ]
        );
    }

    #[test]
    fn escapes() {
        assert_eq!(
            parsed("a\\ b=\\u0041\\tz\\\\\nlisteners=PLAINTEXT\\://\\:9092\npair=\\ud83d\\ude00"),
            vec![
                pair("a b", "A\tz\\"),
                pair("listeners", "PLAINTEXT://:9092"),
                pair("pair", "\u{1f600}"),
            ]
        );
        assert!(parse("a=\\u12").is_err());
        assert!(parse("a=\\ud83d").is_err());
    }
}
