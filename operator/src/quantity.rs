//! Kubernetes quantities as exact numbers, for comparing and for arithmetic. Formatting stays Kubernetes' business.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Parts of one: the finest that Kubernetes knows.
const NANO: i128 = 1_000_000_000;

/// The memory that a container may count on.
#[must_use]
pub fn memory(resources: Option<&ResourceRequirements>) -> Option<u64> {
    let resources = resources?;
    let of = |list: &Option<BTreeMap<String, Quantity>>| list.as_ref().and_then(|list| units(list.get("memory")?));
    of(&resources.limits).or_else(|| of(&resources.requests))
}

/// The value in billionths, exact; `None` when this is no quantity or absurdly large.
#[must_use]
pub fn nano(quantity: &str) -> Option<i128> {
    let end = quantity.find(|char: char| !matches!(char, '0'..='9' | '.' | '+' | '-')).unwrap_or(quantity.len());
    let (number, suffix) = quantity.split_at(end);
    let (negative, digits) = match number.as_bytes().first()? {
        b'-' => (true, &number[1..]),
        b'+' => (false, &number[1..]),
        _ => (false, number),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.len() + fraction.len() == 0 || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (up, down) = factor(suffix)?;
    // Digits first, the point last, so that nothing is rounded before the end.
    let digits: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let down = down.checked_mul(10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
    let scaled = digits.checked_mul(NANO)?.checked_mul(up)?;
    let value = scaled / down + i128::from(scaled % down != 0);
    Some(if negative { -value } else { value })
}

/// The value in whole units, such as bytes, rounded up; `None` when this is no quantity, or negative.
#[must_use]
pub fn units(quantity: &Quantity) -> Option<u64> {
    let nano = nano(&quantity.0)?;
    u64::try_from(nano / NANO + i128::from(nano % NANO > 0)).ok()
}

fn factor(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1024_i128.pow(power), 1));
    let decimal = |power: u32| Some((10_i128.checked_pow(power)?, 1));
    match suffix {
        "n" => Some((1, NANO)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1_000)),
        "" => Some((1, 1)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        exponent => match exponent.strip_prefix(['e', 'E'])?.parse::<i32>().ok()? {
            power @ 0.. => decimal(power.unsigned_abs()),
            power => Some((1, 10_i128.checked_pow(power.unsigned_abs())?)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_quantity_has_one_value() {
        for same in
            [["1Gi", "1024Mi"], ["1.5Gi", "1536Mi"], ["100m", "0.1"], ["1e3", "1k"], ["1E", "1000P"], ["+2", "2000m"], ["5e-1", "500m"]]
        {
            assert_eq!(nano(same[0]), nano(same[1]), "{same:?}");
            assert!(nano(same[0]).is_some());
        }
        assert_eq!(units(&Quantity("1Ki".into())), Some(1024));
        assert_eq!(units(&Quantity("1100m".into())), Some(2));
        assert!(nano("-1") < nano("0"));
    }

    #[test]
    fn what_is_no_quantity_has_no_value() {
        for bad in ["", "Gi", "1 Gi", "1gb", "1.2.3", "--1", "1Gi\n", "1e", "0x1", "1e99", "99999999999999999999999999999999999999999E"] {
            assert_eq!(nano(bad), None, "{bad}");
        }
        assert_eq!(units(&Quantity("-1Gi".into())), None);
    }
}
