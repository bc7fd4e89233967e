//! Quantities as Kubernetes writes them (`500m`, `512Gi`, `1e3`), as integers.
//!
//! Source: the API reference, `resource.Quantity`.

/// `text` in thousandths, rounded up; `None` where it is no quantity, negative, or too large.
pub(crate) fn milli(text: &str) -> Option<u64> {
    let text = text.trim();
    let number_ends = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_ends);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // 18 digits after the point are more than any server writes
    if (whole.is_empty() && fraction.is_empty()) || fraction.len() > 18 || fraction.contains('.') {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    // the factor to thousandths, as a fraction
    let (times, by): (u128, u128) = match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1_000),
        "m" => (1, 1),
        "" => (1_000, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1_000 << 10, 1),
        "Mi" => (1_000 << 20, 1),
        "Gi" => (1_000 << 30, 1),
        "Ti" => (1_000 << 40, 1),
        "Pi" => (1_000 << 50, 1),
        exponent => {
            let exponent: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            if exponent.unsigned_abs() > 18 {
                return None;
            }
            let power = 10_u128.pow(exponent.unsigned_abs());
            if exponent < 0 { (1_000, power) } else { (1_000 * power, 1) }
        }
    };
    u64::try_from(digits.checked_mul(times)?.div_ceil(by.checked_mul(scale)?)).ok()
}

/// `text` in whole units, rounded down: what is there.
pub(super) fn units(text: &str) -> Option<u64> {
    // through thousandths 18 EB do not fit; no server has them
    milli(text).map(|milli| milli / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_writing_one() {
        for (text, expected) in [
            ("0", Some(0)),
            ("64", Some(64_000)),
            ("500m", Some(500)),
            ("0.5", Some(500)),
            (".5", Some(500)),
            ("1.", Some(1000)),
            ("100u", Some(1)),
            ("1n", Some(1)),
            ("1e3", Some(1_000_000)),
            ("15E-1", Some(1500)),
            ("2Ki", Some(2_048_000)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("512Gi", Some(549_755_813_888_000)),
            ("3k", Some(3_000_000)),
            ("", None),
            ("-1", None),
            (".", None),
            ("1.2.3", None),
            ("5 apples", None),
            ("99999999999999999999999999999999999999999999", None),
            ("99999999P", None),
            ("1e99", None),
        ] {
            assert_eq!(milli(text), expected, "{text}");
        }
        assert_eq!(units("1500m"), Some(1));
    }
}
