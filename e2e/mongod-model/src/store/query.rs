//! The part of the query language that tests and operators use.

use std::cmp::Ordering;

use bson::{Bson, Document};

/// Does the document match? An operator that is not known here is an error, never a silent "no".
pub fn matches(document: &Document, filter: &Document) -> Result<bool, String> {
    for (name, wanted) in filter {
        let holds = match (name.as_str(), wanted) {
            ("$and", Bson::Array(all)) => each(document, all)?.into_iter().all(|held| held),
            ("$or", Bson::Array(any)) => each(document, any)?.into_iter().any(|held| held),
            ("$nor", Bson::Array(none)) => !each(document, none)?.into_iter().any(|held| held),
            ("$comment", _) => true,
            (name, _) if name.starts_with('$') => return Err(format!("unknown top level operator: {name}")),
            (name, Bson::Document(operators)) if operators.keys().next().is_some_and(|key| key.starts_with('$')) => {
                let value = lookup(document, name);
                operators.iter().try_fold(true, |held, (operator, operand)| Ok::<_, String>(held && holds(value, operator, operand)?))?
            }
            (name, wanted) => equals(lookup(document, name), wanted),
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

fn each(document: &Document, filters: &[Bson]) -> Result<Vec<bool>, String> {
    filters.iter().filter_map(Bson::as_document).map(|filter| matches(document, filter)).collect()
}

fn holds(value: Option<&Bson>, operator: &str, operand: &Bson) -> Result<bool, String> {
    let against = |wanted: &[Ordering]| {
        let test = |value: &Bson| same_kind(value, operand) && wanted.contains(&compare(value, operand));
        match value {
            Some(Bson::Array(items)) => items.iter().any(test),
            Some(value) => test(value),
            None => false,
        }
    };
    let list = || operand.as_array().ok_or_else(|| format!("{operator} needs an array"));
    Ok(match operator {
        "$eq" => equals(value, operand),
        "$ne" => !equals(value, operand),
        "$gt" => against(&[Ordering::Greater]),
        "$gte" => against(&[Ordering::Greater, Ordering::Equal]),
        "$lt" => against(&[Ordering::Less]),
        "$lte" => against(&[Ordering::Less, Ordering::Equal]),
        "$in" => list()?.iter().any(|wanted| equals(value, wanted)),
        "$nin" => !list()?.iter().any(|wanted| equals(value, wanted)),
        "$exists" => value.is_some() == truth(operand),
        other => return Err(format!("unknown operator: {other}")),
    })
}

fn equals(value: Option<&Bson>, wanted: &Bson) -> bool {
    match value {
        None => matches!(wanted, Bson::Null),
        Some(value) if compare(value, wanted) == Ordering::Equal => true,
        Some(Bson::Array(items)) => items.iter().any(|item| compare(item, wanted) == Ordering::Equal),
        Some(_) => false,
    }
}

/// A field by its dotted path.
pub fn lookup<'a>(document: &'a Document, path: &str) -> Option<&'a Bson> {
    match path.split_once('.') {
        None => document.get(path),
        Some((first, rest)) => match document.get(first)? {
            Bson::Document(inner) => lookup(inner, rest),
            Bson::Array(items) => items.get(rest.parse::<usize>().ok()?),
            _ => None,
        },
    }
}

/// mongod's truth: everything but false, zero, null.
pub fn truth(value: &Bson) -> bool {
    !matches!(value, Bson::Boolean(false) | Bson::Int32(0) | Bson::Int64(0) | Bson::Null) && number(value) != Some(0.0)
}

/// Any number.
#[allow(clippy::cast_precision_loss, reason = "documents of tests have no larger numbers")]
pub fn number(value: &Bson) -> Option<f64> {
    match value {
        Bson::Int32(number) => Some(f64::from(*number)),
        Bson::Int64(number) => Some(*number as f64),
        Bson::Double(number) => Some(*number),
        _ => None,
    }
}

fn rank(value: &Bson) -> u8 {
    match value {
        Bson::Null => 1,
        Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_) | Bson::Decimal128(_) => 2,
        Bson::String(_) | Bson::Symbol(_) => 3,
        Bson::Document(_) => 4,
        Bson::Array(_) => 5,
        Bson::Binary(_) => 6,
        Bson::ObjectId(_) => 7,
        Bson::Boolean(_) => 8,
        Bson::DateTime(_) => 9,
        Bson::Timestamp(_) => 10,
        _ => 11,
    }
}

fn same_kind(a: &Bson, b: &Bson) -> bool {
    rank(a) == rank(b)
}

/// mongod's order of values: by kind, then by value.
pub fn compare(a: &Bson, b: &Bson) -> Ordering {
    match (a, b) {
        (Bson::Int32(_) | Bson::Int64(_), Bson::Int32(_) | Bson::Int64(_)) => whole(a).cmp(&whole(b)),
        (Bson::String(a), Bson::String(b)) => a.cmp(b),
        (Bson::ObjectId(a), Bson::ObjectId(b)) => a.bytes().cmp(&b.bytes()),
        (Bson::Boolean(a), Bson::Boolean(b)) => a.cmp(b),
        (Bson::DateTime(a), Bson::DateTime(b)) => a.cmp(b),
        (Bson::Timestamp(a), Bson::Timestamp(b)) => (a.time, a.increment).cmp(&(b.time, b.increment)),
        (Bson::Array(a), Bson::Array(b)) => sequence(a.iter().map(|v| ("", v)), b.iter().map(|v| ("", v))),
        (Bson::Document(a), Bson::Document(b)) => sequence(a.iter().map(|(k, v)| (k.as_str(), v)), b.iter().map(|(k, v)| (k.as_str(), v))),
        (a, b) => match (number(a), number(b)) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            _ if a == b => Ordering::Equal,
            _ => rank(a).cmp(&rank(b)).then_with(|| a.to_string().cmp(&b.to_string())),
        },
    }
}

fn whole(value: &Bson) -> i64 {
    value.as_i64().or(value.as_i32().map(i64::from)).unwrap_or_default()
}

fn sequence<'a>(a: impl Iterator<Item = (&'a str, &'a Bson)>, b: impl Iterator<Item = (&'a str, &'a Bson)>) -> Ordering {
    let (a, b): (Vec<_>, Vec<_>) = (a.collect(), b.collect());
    let differ = a.iter().zip(&b).map(|((ka, va), (kb, vb))| ka.cmp(kb).then_with(|| compare(va, vb))).find(|order| order.is_ne());
    differ.unwrap_or_else(|| a.len().cmp(&b.len()))
}

/// Sorts by `{field: 1 | -1, …}`.
pub fn sort(documents: &mut [Document], by: &Document) {
    documents.sort_by(|a, b| {
        by.iter().fold(Ordering::Equal, |order, (name, direction)| {
            order.then_with(|| {
                let (a, b) = (lookup(a, name).unwrap_or(&Bson::Null), lookup(b, name).unwrap_or(&Bson::Null));
                let order = compare(a, b);
                if number(direction).is_some_and(|direction| direction < 0.0) { order.reverse() } else { order }
            })
        })
    });
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn filters_match_as_in_mongod() {
        let document = doc! { "_id": 1, "x": 5, "tags": ["a", "b"], "in": { "y": 2.0 } };
        for (filter, wanted) in [
            (doc! {}, true),
            (doc! { "x": 5_i64 }, true),
            (doc! { "x": { "$gt": 4, "$lt": 6 } }, true),
            (doc! { "x": { "$gt": "4" } }, false),
            (doc! { "tags": "b" }, true),
            (doc! { "in.y": 2 }, true),
            (doc! { "nothing": null }, true),
            (doc! { "$or": [{ "x": 1 }, { "x": { "$in": [5] } }] }, true),
            (doc! { "x": { "$exists": false } }, false),
        ] {
            assert_eq!(matches(&document, &filter), Ok(wanted), "{filter}");
        }
        assert!(matches(&document, &doc! { "x": { "$regex": "." } }).is_err());
    }
}
