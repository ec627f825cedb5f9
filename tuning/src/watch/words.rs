//! Owns how figures become words, and names from anywhere become text that commands no terminal.

/// Seconds, minutes and so on: the two largest that count.
pub fn duration(seconds: f64) -> String {
    const UNITS: [(u64, &str); 4] = [(86400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let seconds = seconds.max(0.0) as u64;
    let Some(first) = UNITS.iter().position(|(size, _)| seconds >= *size) else {
        return "0 s".into();
    };
    let (size, unit) = UNITS[first];
    let mut text = format!("{} {unit}", seconds / size);
    if let Some((smaller, unit)) = UNITS.get(first + 1) {
        text.push_str(&format!(" {} {unit}", seconds % size / smaller));
    }
    text
}

/// Three digits that count.
pub fn number(value: f64) -> String {
    match value {
        0.0 => "0".into(),
        _ if value >= 99.95 => format!("{value:.0}"),
        _ if value >= 9.995 => format!("{value:.1}"),
        _ if value >= 0.9995 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

pub fn megabytes(bytes: f64) -> String {
    number(bytes / 1e6)
}

pub fn micros(us: f64) -> String {
    match us {
        _ if us >= 1e6 => format!("{} s", number(us / 1e6)),
        _ if us >= 1000.0 => format!("{} ms", number(us / 1000.0)),
        _ => format!("{} us", number(us)),
    }
}

pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", number(value), UNITS[unit])
}

pub fn percent(share: f64) -> String {
    match share * 100.0 {
        percent if percent < 9.95 => format!("{percent:.1} %"),
        percent => format!("{percent:.0} %"),
    }
}

/// What would move the cursor, turn the line around or not be seen at all is shown by a sign of its own.
pub fn name(name: &str) -> String {
    let is_unseen = |sign: char| {
        sign.is_control()
            || matches!(sign, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    match name {
        "" => "(none)".into(),
        _ => name
            .chars()
            .map(|sign| if is_unseen(sign) { '\u{fffd}' } else { sign })
            .collect(),
    }
}

/// For the query of a URL.
pub fn encoded(text: &str) -> String {
    let mut query = String::new();
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            true => query.push(char::from(byte)),
            false => query.push_str(&format!("%{byte:02X}")),
        }
    }
    query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        let numbers = [0.0, 0.0123, 1.0, 12.34, 123.4, 123_456.0].map(number);
        assert_eq!(numbers, ["0", "0.012", "1.00", "12.3", "123", "123456"]);
        assert_eq!(
            [5.0, 1500.0, 2e6].map(micros),
            ["5.00 us", "1.50 ms", "2.00 s"]
        );
        assert_eq!(
            [0, 1023, 1024, 5 << 30].map(size),
            ["0 B", "1023 B", "1.00 KiB", "5.00 GiB"]
        );
        assert_eq!(
            [0.0, 0.5, 61.0, 90_000.0].map(duration),
            ["0 s", "0 s", "1 min 1 s", "1 d 1 h"]
        );
        assert_eq!(
            [0.0, 0.034, 0.5, 1.0].map(percent),
            ["0.0 %", "3.4 %", "50 %", "100 %"]
        );
    }

    #[test]
    fn a_name_commands_nothing() {
        assert_eq!(
            name("\u{1b}[2J\u{9b}31mx\r\n\0"),
            "\u{fffd}[2J\u{fffd}31mx\u{fffd}\u{fffd}\u{fffd}"
        );
        assert_eq!(name("\u{202e}gnp.exe"), "\u{fffd}gnp.exe");
        assert_eq!(
            (name("").as_str(), name("h\u{e9}\u{6f22}").as_str()),
            ("(none)", "h\u{e9}\u{6f22}")
        );
        assert_eq!(encoded("a b&<\u{e9}"), "a%20b%26%3C%C3%A9");
    }
}
