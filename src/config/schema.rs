//! The JSON Schema and the README's reference, from the settings that `check` asks for.

use serde_json::{Map, Value, json};

use super::scope::{Setting, Shape};

/// The JSON Schema (draft 2020-12) of a configuration file.
#[must_use]
pub fn schema(settings: &[Setting]) -> Value {
    let mut root = section_of(settings, "");
    if let Value::Object(fields) = &mut root {
        fields.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
        fields.insert("title".into(), json!("seawall configuration"));
    }
    root
}

fn section_of(settings: &[Setting], prefix: &str) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for setting in settings {
        let Some(key) = setting.path.strip_prefix(prefix) else { continue };
        if key.contains('.') || key.contains("[]") || key.is_empty() || key == "*" {
            continue;
        }
        if setting.required {
            required.push(json!(key));
        }
        properties.insert(key.to_owned(), value_of(settings, setting));
    }
    let mut object = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    });
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    object
}

fn value_of(settings: &[Setting], setting: &Setting) -> Value {
    let path = &setting.path;
    let mut value = match &setting.shape {
        Shape::Duration => json!({
            "type": "string",
            "pattern": r"^[0-9]+(\.[0-9]+)? ?(ms|s|m|min|h)$",
        }),
        Shape::Bytes => json!({
            "type": "string",
            "pattern": r"^[0-9]+ ?(B|KiB|MiB|GiB|kB|KB|MB|GB)$",
        }),
        Shape::Integer(least, most) => json!({
            "type": "integer", "minimum": least, "maximum": most,
        }),
        Shape::Bool => json!({ "type": "boolean" }),
        Shape::Text(_) => json!({ "type": ["string", "integer", "boolean"] }),
        Shape::Word(words) => json!({ "enum": words }),
        Shape::Section => {
            let section = section_of(settings, &format!("{path}."));
            if path.ends_with("hold") || path.ends_with("cors") {
                json!({ "anyOf": [section, { "enum": ["off", false] }] })
            } else {
                section
            }
        }
        Shape::Sections => json!({
            "type": "array", "items": section_of(settings, &format!("{path}[].")),
        }),
        Shape::Texts(_) => json!({
            "type": "array", "items": { "type": ["string", "integer"] },
        }),
        Shape::TextOrSection(_) => json!({
            "anyOf": [{ "type": "string" }, section_of(settings, &format!("{path}."))],
        }),
        Shape::TextsOrSections(_) => json!({
            "type": "array", "items": {
                "anyOf": [{ "type": "string" }, section_of(settings, &format!("{path}[]."))],
            },
        }),
        Shape::Named => json!({
            "type": "object",
            "additionalProperties": section_of(settings, &format!("{path}.*.")),
        }),
    };
    value["description"] = json!(setting.meaning);
    if let Some(default) = &setting.default {
        value["default"] = match &setting.shape {
            Shape::Integer(..) => json!(default.parse::<u64>().unwrap_or_default()),
            Shape::Bool => json!(default == "true"),
            _ => json!(default),
        };
    }
    value
}

/// The reference for the README, in Markdown.
#[must_use]
pub fn reference(settings: &[Setting]) -> String {
    let mut table =
        String::from("| setting | form | default | meaning |\n| --- | --- | --- | --- |\n");
    for setting in settings {
        let form = match &setting.shape {
            Shape::Duration => "duration".to_owned(),
            Shape::Bytes => "size".to_owned(),
            Shape::Integer(least, most) => format!("{least} to {most}"),
            Shape::Bool => "true or false".to_owned(),
            Shape::Text(form) => (*form).to_owned(),
            Shape::Word(words) => words.join(", "),
            Shape::Section => "section".to_owned(),
            Shape::Sections => "list of sections".to_owned(),
            Shape::Texts(form) => format!("list of: {form}"),
            Shape::TextOrSection(form) => format!("{form}, or a section"),
            Shape::TextsOrSections(form) => format!("list of: {form}, or of sections"),
            Shape::Named => "named sections".to_owned(),
        };
        let default = match &setting.default {
            Some(default) => format!("`{default}`"),
            None if setting.required => "required".to_owned(),
            None => String::new(),
        };
        let meaning = setting.meaning.replace('|', "\\|");
        table.push_str(&format!("| `{}` | {form} | {default} | {meaning} |\n", setting.path));
    }
    table
}
