//! BSON as mongod prints it in its error texts.

use bson::{Bson, Document};

/// `{ _id: 1, host: "a:27017" }`.
pub fn document(document: &Document) -> String {
    if document.is_empty() {
        return "{}".into();
    }
    let fields: Vec<String> = document.iter().map(|(name, value)| format!("{name}: {}", bson(value))).collect();
    format!("{{ {} }}", fields.join(", "))
}

/// One value.
pub fn bson(value: &Bson) -> String {
    match value {
        Bson::Document(inner) => document(inner),
        Bson::Array(items) if items.is_empty() => "[]".into(),
        Bson::Array(items) => format!("[ {} ]", items.iter().map(bson).collect::<Vec<_>>().join(", ")),
        Bson::String(text) => format!("\"{text}\""),
        Bson::Double(number) if number.fract() == 0.0 && number.abs() < 1e15 => format!("{number:.1}"),
        Bson::ObjectId(id) => format!("ObjectId('{id}')"),
        Bson::Timestamp(at) => format!("Timestamp({}, {})", at.time, at.increment),
        Bson::DateTime(at) => format!("new Date({})", at.timestamp_millis()),
        Bson::Binary(binary) => match binary.to_uuid() {
            Ok(id) => format!("UUID(\"{id}\")"),
            Err(_) => format!("BinData({}, {})", u8::from(binary.subtype), hex(&binary.bytes).to_uppercase()),
        },
        other => other.to_string(),
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn documents_print_as_mongod_prints_them() {
        let member = doc! { "_id": 1, "host": "a:1", "priority": 1.0, "tags": {}, "list": [], "on": true };
        assert_eq!(document(&member), r#"{ _id: 1, host: "a:1", priority: 1.0, tags: {}, list: [], on: true }"#);
    }
}
