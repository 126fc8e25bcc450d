//! Numbers and times as a person reads them.

/// A number in four digits, or in two and an exponent.
pub(crate) fn short(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || !value.is_finite() {
        format!("{value}")
    } else if (1e-2..1e5).contains(&size) {
        let decimals = (3 - size.log10().floor() as i32).max(0) as usize;
        format!("{value:.decimals$}")
    } else {
        format!("{value:.2e}")
    }
}

/// A time in its two largest units.
pub(crate) fn seconds_text(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".to_owned();
    }
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m {:02}s", s / 60, s % 60),
        3600..86400 => format!("{}h {:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {:02}h", s / 86400, s % 86400 / 3600),
    }
}

/// Bytes in two or three digits and a decimal unit.
pub fn readable_bytes(bytes: f64) -> String {
    scaled(bytes, &["B", "kB", "MB", "GB", "TB", "PB"])
}

/// A large number in two or three digits and a decimal prefix.
pub fn readable_count(count: f64) -> String {
    scaled(count, &["", "k", "M", "G", "T", "P", "E", "Z"])
        .trim_end()
        .to_owned()
}

fn scaled(value: f64, units: &[&str]) -> String {
    let power = (value.max(1.0).log10() / 3.0).floor() as usize;
    let power = power.min(units.len() - 1);
    let value = value / 1000f64.powi(power as i32);
    let decimals = usize::from(power > 0 && value < 100.0);
    format!("{value:.decimals$} {}", units[power])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_have_units() {
        for (bytes, text) in [
            (0.0, "0 B"),
            (999.0, "999 B"),
            (1500.0, "1.5 kB"),
            (2.5e11, "250 GB"),
            (3e16, "30.0 PB"),
        ] {
            assert_eq!(readable_bytes(bytes), text);
        }
        assert_eq!(
            (readable_count(12.0), readable_count(1.06e9)),
            ("12".into(), "1.1 G".into())
        );
    }

    #[test]
    fn numbers_and_times_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.123_44, "0.1234"),
            (1234.5, "1234"),
            (2.5e-7, "2.50e-7"),
            (1e6, "1.00e6"),
            (-0.5, "-0.5000"),
        ] {
            assert_eq!(short(value), text);
        }
        for (seconds, text) in [
            (0.4, "0s"),
            (200.0, "3m 20s"),
            (7500.0, "2h 05m"),
            (270_000.0, "3d 03h"),
            (f64::NAN, "?"),
        ] {
            assert_eq!(seconds_text(seconds), text);
        }
    }
}
