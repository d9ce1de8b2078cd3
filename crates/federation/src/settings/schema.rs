//! What a configuration may say where a value is a number, a list or a word: for `bonfire config --schema`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{AdapterStart, Budget, LabelRef};

impl JsonSchema for Budget {
    fn schema_name() -> Cow<'static, str> {
        "Budget".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number for all clients, a list of one number a client, \"full\" (adapter.rank), or a \
                            distribution of the LoRA-A² paper's table 8.",
            "anyOf": [
                { "type": "integer", "minimum": 1 },
                { "type": "array", "items": { "type": "integer", "minimum": 1 } },
                { "enum": ["full", "uniform", "heavy-tail", "normal"] },
            ],
        })
    }
}

impl JsonSchema for AdapterStart {
    fn schema_name() -> Cow<'static, str> {
        "AdapterStart".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "\"kaiming\", \"gaussian\", or a folder with a trained adapter in PEFT layout.",
            "type": "string",
            "examples": ["kaiming", "gaussian"],
        })
    }
}

impl JsonSchema for LabelRef {
    fn schema_name() -> Cow<'static, str> {
        "LabelRef".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A label: its name, or its number from 0.",
            "anyOf": [{ "type": "string" }, { "type": "integer", "minimum": 0 }],
        })
    }
}
