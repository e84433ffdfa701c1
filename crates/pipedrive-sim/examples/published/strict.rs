//! Pipedrive's schemas, taken more strictly than they are written.
//!
//! - Types, enums and `required` hold as written; `allOf` is merged into one object.
//! - A key that the schema does not know fails, unless the document's own example has it: schemas forget keys
//!   (`organization.address` of a search), and then its type is not checked.
//! - A key that the example has and the answer has not fails, since hardly a schema says what is required.
//! - Leniency: null is allowed everywhere. The documents mark few of the fields nullable that are null in practice
//!   (`next_cursor` at the end, `organization` of a person without one).

use anyhow::Context as _;
use serde_json::{Map, Value, json};

/// Deeper than any published schema; a document that refers to itself ends here.
const DEPTH: usize = 60;

pub(crate) fn mismatches(
    document: &Value,
    schema: &Value,
    example: Option<&Value>,
    answer: &Value,
) -> anyhow::Result<Vec<String>> {
    let strict = tighten(document, schema, example, DEPTH)?;
    let validator = jsonschema::draft202012::new(&strict).context("not a schema")?;
    let mut found: Vec<String> = validator
        .iter_errors(answer)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    if let Some(example) = example {
        missing(example, answer, "", &mut found);
    }
    Ok(found)
}

/// The schema without references and `allOf`, closed to unknown keys and open to null.
fn tighten(
    document: &Value,
    schema: &Value,
    example: Option<&Value>,
    depth: usize,
) -> anyhow::Result<Value> {
    let depth = depth
        .checked_sub(1)
        .context("the schema refers to itself")?;
    let mut merged = Map::new();
    merge(document, schema, &mut merged, depth)?;
    let mut strict = Map::new();
    if let Some(kind) = merged.get("type") {
        strict.insert("type".to_owned(), json!([kind, "null"]));
    }
    if let Some(Value::Array(words)) = merged.get("enum") {
        let words: Vec<&Value> = words.iter().chain([&Value::Null]).collect();
        strict.insert("enum".to_owned(), json!(words));
    }
    if let Some(required) = merged.get("required") {
        strict.insert("required".to_owned(), required.clone());
    }
    if let Some(items) = merged.get("items") {
        let example = example.and_then(|example| example.get(0));
        strict.insert(
            "items".to_owned(),
            tighten(document, items, example, depth)?,
        );
    }
    for choice in ["oneOf", "anyOf"] {
        if let Some(Value::Array(choices)) = merged.get(choice) {
            let choices: Vec<Value> = choices
                .iter()
                .map(|schema| tighten(document, schema, example, depth))
                .collect::<anyhow::Result<_>>()?;
            // several may fit once null is allowed, so oneOf counts as anyOf
            strict.insert("anyOf".to_owned(), json!(choices));
        }
    }
    if let Some(Value::Object(properties)) = merged.get("properties") {
        let mut known = Map::new();
        for (name, schema) in properties {
            let example = example.and_then(|example| example.get(name));
            known.insert(name.clone(), tighten(document, schema, example, depth)?);
        }
        for name in example
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(Map::keys)
        {
            known.entry(name.clone()).or_insert_with(|| json!({}));
        }
        strict.insert("properties".to_owned(), Value::Object(known));
        let others = merged.get("additionalProperties").cloned();
        strict.insert(
            "additionalProperties".to_owned(),
            others.unwrap_or(json!(false)),
        );
    }
    Ok(Value::Object(strict))
}

/// Adds what a schema says, after following its reference and with all of its `allOf`, to `merged`.
fn merge(
    document: &Value,
    schema: &Value,
    merged: &mut Map<String, Value>,
    depth: usize,
) -> anyhow::Result<()> {
    let depth = depth
        .checked_sub(1)
        .context("the schema refers to itself")?;
    let schema = schema.as_object().context("a schema is an object")?;
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let target = reference
            .strip_prefix('#')
            .and_then(|pointer| document.pointer(pointer))
            .with_context(|| format!("{reference} is not in the document"))?;
        return merge(document, target, merged, depth);
    }
    for part in schema
        .get("allOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        merge(document, part, merged, depth)?;
    }
    for (key, value) in schema {
        match (merged.get_mut(key), value) {
            (Some(Value::Object(known)), Value::Object(more)) if key == "properties" => {
                known.extend(more.clone());
            }
            (Some(Value::Array(known)), Value::Array(more)) if key == "required" => {
                known.extend(more.iter().cloned());
            }
            _ => {
                merged.insert(key.clone(), value.clone());
            }
        }
    }
    Ok(())
}

/// Keys of the example that the answer lacks. Of a list only the first elements are compared, where both have one.
fn missing(example: &Value, answer: &Value, path: &str, found: &mut Vec<String>) {
    match (example, answer) {
        (Value::Object(example), Value::Object(answer)) => {
            for (key, example) in example {
                let path = format!("{path}/{key}");
                match answer.get(key) {
                    Some(answer) => missing(example, answer, &path, found),
                    None => found.push(format!("{path}: is in the example and not in the answer")),
                }
            }
        }
        (Value::Array(example), Value::Array(answer)) => {
            if let (Some(example), Some(answer)) = (example.first(), answer.first()) {
                missing(example, answer, &format!("{path}/0"), found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Value {
        json!({"components": {"schemas": {"Item": {
            "type": "object",
            "properties": {"id": {"type": "integer"}, "kind": {"type": "string", "enum": ["a", "b"]}},
        }}}})
    }

    fn check(answer: &Value) -> Vec<String> {
        let schema = json!({"allOf": [
            {"type": "object", "required": ["success"], "properties": {"success": {"type": "boolean"}}},
            {"type": "object", "properties": {
                "data": {"type": "array", "items": {"$ref": "#/components/schemas/Item"}},
            }},
        ]});
        let example = json!({"success": true, "data": [{"id": 1, "kind": "a", "forgotten": null}]});
        mismatches(&document(), &schema, Some(&example), answer).unwrap()
    }

    #[test]
    fn a_right_answer_passes() {
        let right = json!({"success": true, "data": [{"id": 2, "kind": null, "forgotten": 1}]});

        assert!(check(&right).is_empty());
        assert!(check(&json!({"success": true, "data": []})).is_empty());
    }

    #[test]
    fn wrong_answers_fail() {
        for wrong in [
            json!({"success": "true", "data": []}),
            json!({"data": []}),
            json!({"success": true}),
            json!({"success": true, "data": {}}),
            json!({"success": true, "data": [], "surplus": 1}),
            json!({"success": true, "data": [{"id": "2", "kind": "a", "forgotten": null}]}),
            json!({"success": true, "data": [{"id": 2, "kind": "c", "forgotten": null}]}),
            json!({"success": true, "data": [{"id": 2, "kind": "a", "forgotten": null, "surplus": 1}]}),
            json!({"success": true, "data": [{"id": 2, "kind": "a"}]}),
        ] {
            assert!(!check(&wrong).is_empty(), "{wrong}");
        }
    }

    #[test]
    fn a_schema_that_refers_to_itself_is_reported() {
        let document =
            json!({"node": {"type": "object", "properties": {"next": {"$ref": "#/node"}}}});

        assert!(mismatches(&document, &document["node"], None, &json!({})).is_err());
    }
}
