//! Numbers for people.

/// `950`, `12.3k`, `1.25M`, `3B`, `2T`: three digits that count.
pub fn count(value: f64) -> String {
    let units = [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"), (1.0, "")];
    let (size, unit) = units
        .into_iter()
        .find(|(size, _)| value.abs() >= size * 0.9995)
        .unwrap_or((1.0, ""));
    format!("{}{unit}", digits(value / size))
}

/// `10¹⁸`, `3×10¹⁸`: a power of ten.
pub fn power(value: f64) -> String {
    if value <= 0.0 || !value.is_finite() {
        return digits(value);
    }
    let mut exponent = value.log10().floor() as i32;
    let mut factor = value / 10f64.powi(exponent);
    if factor >= 9.995 {
        (factor, exponent) = (1.0, exponent + 1);
    }
    let raised = superscript(exponent);
    if (factor - 1.0).abs() < 5e-3 {
        format!("10{raised}")
    } else {
        format!("{}×10{raised}", digits(factor))
    }
}

/// Three digits that count, without zeros at the end.
pub fn digits(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let magnitude = value.abs();
    let places = if (1e-12..99.95).contains(&magnitude) {
        (2 - magnitude.log10().floor() as i32).clamp(0, 6) as usize
    } else {
        0
    };
    let text = format!("{value:.places$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// A loss: four digits behind the point.
pub fn loss(value: f64) -> String {
    format!("{value:.4}")
}

/// A value with as many digits as steps of `step` need.
pub fn short(value: f64, step: f64) -> String {
    let places = (-(step * 1.001).log10().floor()).clamp(0.0, 9.0) as usize;
    // A step of 0.25 needs one more digit than its size says.
    let scaled = step * 10f64.powi(places as i32);
    let places = if (scaled - scaled.round()).abs() > 1e-6 {
        places + 1
    } else {
        places
    };
    format!("{value:.places$}")
}

/// A share as a percentage.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// An amount of money.
pub fn money(value: f64) -> String {
    if value > 0.0 && value < 0.01 {
        "< 0.01".to_owned()
    } else {
        digits(value)
    }
}

/// Hours, minutes or seconds.
pub fn hours(hours: f64) -> String {
    if hours >= 0.995 {
        format!("{} h", digits(hours))
    } else if hours * 60.0 >= 0.995 {
        format!("{} min", digits(hours * 60.0))
    } else {
        format!("{} s", digits(hours * 3600.0))
    }
}

fn superscript(exponent: i32) -> String {
    exponent
        .to_string()
        .chars()
        .map(|digit| match digit {
            '-' => '⁻',
            '1' => '¹',
            '2' => '²',
            '3' => '³',
            '4' => '⁴',
            '5' => '⁵',
            '6' => '⁶',
            '7' => '⁷',
            '8' => '⁸',
            '9' => '⁹',
            _ => '⁰',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        let counts = [0.0, 7.0, 950.0, 1000.0, 12_340.0, 999_900.0, 1.25e6, 3e9, 2e12, 5e15];
        let names = ["0", "7", "950", "1k", "12.3k", "1M", "1.25M", "3B", "2T", "5000T"];
        assert_eq!(counts.map(count), names);
        assert_eq!(
            [1e18, 3.2e18, 9.999e17, 1e-3].map(power),
            ["10¹⁸", "3.2×10¹⁸", "10¹⁸", "10⁻³"]
        );
        assert_eq!([0.25, 0.5, 100.0].map(|step| short(step, step)), ["0.25", "0.5", "100"]);
        assert_eq!([0.001, 0.5, 2.0].map(hours), ["3.6 s", "30 min", "2 h"]);
        assert_eq!([0.0, 0.004, 17.456].map(money), ["0", "< 0.01", "17.5"]);
    }
}
