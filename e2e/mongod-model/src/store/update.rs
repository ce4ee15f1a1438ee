//! Updates: replacements and the operators that tests and operators use.

use bson::{Bson, Document};

use super::query::{compare, number};

/// The document after the update; the `_id` stays.
pub fn apply(document: &Document, update: &Document, inserting: bool) -> Result<Document, String> {
    let operators = update.keys().next().is_some_and(|key| key.starts_with('$'));
    if !operators {
        let mut replaced = Document::new();
        if let Some(id) = document.get("_id") {
            replaced.insert("_id", id.clone());
        }
        replaced.extend(update.clone());
        return Ok(replaced);
    }
    let mut updated = document.clone();
    for (operator, fields) in update {
        let Bson::Document(fields) = fields else { return Err(format!("Modifiers operate on fields but we found type {fields}")) };
        for (path, operand) in fields {
            match operator.as_str() {
                "$set" => *place(&mut updated, path)? = operand.clone(),
                "$setOnInsert" if inserting => *place(&mut updated, path)? = operand.clone(),
                "$setOnInsert" => {}
                "$unset" => unset(&mut updated, path),
                "$inc" => increment(place(&mut updated, path)?, operand)?,
                "$push" | "$addToSet" => push(place(&mut updated, path)?, operand, operator == "$addToSet")?,
                "$pull" => {
                    if let Bson::Array(items) = place(&mut updated, path)? {
                        items.retain(|item| compare(item, operand).is_ne());
                    }
                }
                other => return Err(format!("Unknown modifier: {other}")),
            }
        }
    }
    Ok(updated)
}

/// The value at a dotted path, made where it is not.
fn place<'a>(document: &'a mut Document, path: &str) -> Result<&'a mut Bson, String> {
    match path.split_once('.') {
        None => Ok(document.entry(path.to_owned()).or_insert(Bson::Null)),
        Some((first, rest)) => match document.entry(first.to_owned()).or_insert(Bson::Document(Document::new())) {
            Bson::Document(inner) => place(inner, rest),
            _ => Err(format!("Cannot create field '{rest}' in element '{first}'")),
        },
    }
}

fn unset(document: &mut Document, path: &str) {
    match path.split_once('.') {
        None => drop(document.remove(path)),
        Some((first, rest)) => {
            if let Some(Bson::Document(inner)) = document.get_mut(first) {
                unset(inner, rest);
            }
        }
    }
}

fn increment(value: &mut Bson, by: &Bson) -> Result<(), String> {
    *value = match (&*value, by) {
        (Bson::Null, by) => by.clone(),
        (Bson::Int32(a), Bson::Int32(b)) => a.checked_add(*b).map_or(Bson::Int64(i64::from(*a) + i64::from(*b)), Bson::Int32),
        (Bson::Int32(a), Bson::Int64(b)) | (Bson::Int64(b), Bson::Int32(a)) => Bson::Int64(b.wrapping_add(i64::from(*a))),
        (Bson::Int64(a), Bson::Int64(b)) => Bson::Int64(a.wrapping_add(*b)),
        (a, b) => match (number(a), number(b)) {
            (Some(a), Some(b)) => Bson::Double(a + b),
            _ => return Err("Cannot apply $inc to a value of non-numeric type".into()),
        },
    };
    Ok(())
}

fn push(value: &mut Bson, operand: &Bson, once: bool) -> Result<(), String> {
    if matches!(value, Bson::Null) {
        *value = Bson::Array(Vec::new());
    }
    let Bson::Array(items) = value else { return Err("The field must be an array".into()) };
    let added = match operand {
        Bson::Document(each) => each.get_array("$each").cloned().unwrap_or_else(|_| vec![operand.clone()]),
        other => vec![other.clone()],
    };
    for item in added {
        if !(once && items.iter().any(|present| compare(present, &item).is_eq())) {
            items.push(item);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn operators_change_and_replacements_keep_the_id() {
        let before = doc! { "_id": 1, "n": 1, "list": [1] };
        let update = doc! { "$inc": { "n": 2, "new": 5 }, "$set": { "in.x": true }, "$push": { "list": { "$each": [2, 3] } } };
        let after = apply(&before, &update, false).expect("applies");
        assert_eq!(after, doc! { "_id": 1, "n": 3, "list": [1, 2, 3], "new": 5, "in": { "x": true } });
        assert_eq!(apply(&before, &doc! { "y": 1 }, false), Ok(doc! { "_id": 1, "y": 1 }));
        assert!(apply(&before, &doc! { "$rename": { "n": "m" } }, false).is_err());
    }
}
