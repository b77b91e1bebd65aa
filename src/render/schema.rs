//! The schema of what pgpoke says in JSON, `docs/pgpoke.schema.json`, made of the types in [`super::forms`].

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

use super::forms::{Failure, Inspection, Intervention, Interventions, List, Report};

/// All that can be on stdout, in JSON Schema 2020-12.
pub fn schema() -> Value {
    let mut generator = SchemaSettings::draft2020_12()
        .for_serialize()
        .with_transform(RecursiveTransform(plain))
        .into_generator();
    let kinds = [
        of::<Inspection>(&mut generator),
        of::<Intervention>(&mut generator),
        of::<Failure>(&mut generator),
        of::<Interventions>(&mut generator),
        of::<List>(&mut generator),
        of::<Report>(&mut generator),
    ];
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:pgpoke:schema:1",
        "title": "What pgpoke inspect --json, pgpoke interrupt --json, pgpoke list --json and pgpoke report --json print",
        "description": "One object on stdout. Names are stable: fields and values are added, never renamed or removed, within one schema_version. What could not be learned is null, never a guess. A program that reads this should ignore fields that it does not know.",
        "oneOf": kinds,
        "$defs": generator.take_definitions(true),
    })
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// `uint32` and the like are not among the formats of JSON Schema, and strict validators refuse what they do not know. A
/// description is one paragraph, however its source is broken into lines.
fn plain(schema: &mut Schema) {
    schema.remove("format");
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.replace('\n', " ");
    }
}
