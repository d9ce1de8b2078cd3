//! What a configuration may say where a value is a number or a word: for `bonfire config --schema`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{InFlight, Rate};

impl JsonSchema for Rate {
    fn schema_name() -> Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number, or a multiple of lr_a as text: \"5x\".",
            "anyOf": [{ "type": "number", "minimum": 0 }, { "type": "string", "pattern": "^ *[0-9.eE+-]+ *x$" }],
        })
    }
}

impl JsonSchema for InFlight {
    fn schema_name() -> Cow<'static, str> {
        "InFlight".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "\"auto\": as many as fill a step of the size the device likes; or a whole number from 1.",
            "anyOf": [{ "const": "auto" }, { "type": "integer", "minimum": 1 }],
        })
    }
}
