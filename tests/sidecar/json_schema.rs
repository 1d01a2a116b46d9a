//! What a JSON Schema (draft 2020-12) says of a value, for those of its words that ours uses: the crate that knows
//! all of them comes with forty others.

use regex_lite::Regex;
use serde_json::Value;

/// Why the value is not valid; nothing if it is.
///
/// # Panics
/// At a word that it does not know: it must not be passed over.
pub(crate) fn faults(schema: &Value, value: &Value) -> Vec<String> {
    let words = schema.as_object().unwrap_or_else(|| panic!("no schema: {schema}"));
    words.iter().flat_map(|(word, rule)| by_word(schema, word, rule, value)).collect()
}

fn by_word(schema: &Value, word: &str, rule: &Value, value: &Value) -> Vec<String> {
    let number = || rule.as_f64().expect("a number");
    let fits = |length: Option<usize>, fits: fn(f64, f64) -> bool| length.is_none_or(|n| fits(n as f64, number()));
    let (text, list, table) = (value.as_str(), value.as_array(), value.as_object());
    let holds = match word {
        "$schema" | "title" | "description" | "default" => true,
        "type" => is_of(rule, value),
        "enum" => rule.as_array().expect("a list").contains(value),
        "pattern" => text.is_none_or(|text| regex(rule).is_match(text)),
        "minLength" => fits(text.map(|text| text.chars().count()), |length, least| length >= least),
        "maxLength" => fits(text.map(|text| text.chars().count()), |length, most| length <= most),
        "minItems" => fits(list.map(Vec::len), |length, least| length >= least),
        "maxItems" => fits(list.map(Vec::len), |length, most| length <= most),
        "maxProperties" => fits(table.map(serde_json::Map::len), |length, most| length <= most),
        "minimum" => value.as_f64().is_none_or(|found| found >= number()),
        "maximum" => value.as_f64().is_none_or(|found| found <= number()),
        "items" => return list.into_iter().flatten().flat_map(|item| faults(rule, item)).collect(),
        "propertyNames" => {
            let names = table.into_iter().flatten().map(|(name, _)| Value::from(name.as_str()));
            return names.flat_map(|name| faults(rule, &name)).collect();
        }
        "properties" => {
            let known = |(name, value)| rule.get(name).map(|rule| faults(rule, value));
            return table.into_iter().flatten().filter_map(known).flatten().collect();
        }
        "additionalProperties" => {
            let others = table.into_iter().flatten().filter(|(name, _)| schema["properties"].get(name).is_none());
            return others.flat_map(|(name, value)| additional(rule, name, value)).collect();
        }
        _ => panic!("`{word}` is not known here"),
    };
    if holds { Vec::new() } else { vec![format!("{value} against `{word}` {rule}")] }
}

fn additional(rule: &Value, name: &str, value: &Value) -> Vec<String> {
    match rule {
        Value::Bool(false) => vec![format!("`{name}` is not known")],
        _ => faults(rule, value),
    }
}

fn is_of(kind: &Value, value: &Value) -> bool {
    match kind.as_str() {
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => panic!("`{kind}` is not known here"),
    }
}

fn regex(rule: &Value) -> Regex {
    Regex::new(rule.as_str().expect("text")).unwrap_or_else(|e| panic!("{rule}: {e}"))
}
