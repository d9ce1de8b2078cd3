//! A value of a row, whatever kind of file it stood in. Records keep the order of their fields, which chat templates write
//! down and `serde_json`'s own maps do not keep.

use std::collections::HashMap;
use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value of a row.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Cell {
    /// Nothing: null, or a floating point number that is none.
    #[default]
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Whole(i64),
    /// Another number, never NaN.
    Float(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Cell>),
    /// Fields by name, in the order in which they stand.
    Record(Vec<(String, Cell)>),
}

// No NaN is held.
impl Eq for Cell {}

impl Cell {
    /// A whole number. One beyond `i64` is the text of its digits: as a floating point number it would be one with its neighbours,
    /// and such numbers are names of people and things.
    pub(crate) fn whole(value: u64) -> Cell {
        i64::try_from(value).map_or_else(|_| Cell::Text(value.to_string()), Cell::Whole)
    }

    /// A number; NaN is nothing, as pandas has it.
    pub fn number(value: f64) -> Cell {
        if value.is_nan() { Cell::Null } else { Cell::Float(value) }
    }

    /// Whether nothing is here.
    pub fn is_null(&self) -> bool {
        matches!(self, Cell::Null)
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Cell::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The items, if it is a list.
    pub fn list(&self) -> Option<&[Cell]> {
        match self {
            Cell::List(items) => Some(items),
            _ => None,
        }
    }

    /// The field of a record.
    pub fn get(&self, name: &str) -> Option<&Cell> {
        match self {
            Cell::Record(fields) => field(fields, name),
            _ => None,
        }
    }

    /// The field that a path with dots leads to; a part that is a number leads into a list.
    pub(crate) fn at_path(&self, path: &str) -> Option<&Cell> {
        path.split('.').try_fold(self, |cell, part| match cell {
            Cell::List(items) => items.get(part.parse::<usize>().ok()?),
            _ => cell.get(part),
        })
    }

    /// What kind of value it is, in words.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Cell::Null => "null",
            Cell::Bool(_) => "a truth value",
            Cell::Whole(_) | Cell::Float(_) => "a number",
            Cell::Text(_) => "a string",
            Cell::List(_) => "a list",
            Cell::Record(_) => "an object",
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell::Text(text.to_owned())
    }
}

/// The field of this name among a record's.
pub(crate) fn field<'f>(fields: &'f [(String, Cell)], name: &str) -> Option<&'f Cell> {
    fields.iter().find(|(of, _)| of == name).map(|(_, cell)| cell)
}

/// As JSON has it, on one line.
impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Cell::Null => to.serialize_unit(),
            Cell::Bool(value) => to.serialize_bool(*value),
            Cell::Whole(value) => to.serialize_i64(*value),
            Cell::Float(value) => to.serialize_f64(*value),
            Cell::Text(text) => to.serialize_str(text),
            Cell::List(items) => to.collect_seq(items),
            Cell::Record(fields) => {
                let mut map = to.serialize_map(Some(fields.len()))?;
                fields.iter().try_for_each(|(name, cell)| map.serialize_entry(name, cell))?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Cell {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Cell, D::Error> {
        from.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Cell;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Cell, E> {
        Ok(Cell::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Cell, E> {
        Ok(Cell::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Cell, E> {
        Ok(Cell::Whole(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Cell, E> {
        Ok(Cell::whole(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Cell, E> {
        Ok(Cell::number(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Cell, E> {
        Ok(Cell::from(text))
    }

    fn visit_string<E>(self, text: String) -> Result<Cell, E> {
        Ok(Cell::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Cell, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = from.next_element()? {
            items.push(item);
        }
        Ok(Cell::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Cell, A::Error> {
        let mut fields = Vec::new();
        while let Some(entry) = from.next_entry::<String, Cell>()? {
            fields.push(entry);
        }
        Ok(Cell::Record(without_doubles(fields)))
    }
}

/// Of fields of one name the last counts, as in Python, at the place of the first.
fn without_doubles(fields: Vec<(String, Cell)>) -> Vec<(String, Cell)> {
    let mut places = HashMap::with_capacity(if fields.len() > FEW { fields.len() } else { 0 });
    let mut kept: Vec<(String, Cell)> = Vec::with_capacity(fields.len());
    for (name, cell) in fields {
        let before = if kept.len() > FEW {
            if places.is_empty() {
                places.extend(kept.iter().enumerate().map(|(at, (of, _))| (of.clone(), at)));
            }
            places.get(&name).copied()
        } else {
            kept.iter().position(|(of, _)| *of == name)
        };
        match before {
            Some(at) => kept[at].1 = cell,
            None => {
                if !places.is_empty() {
                    places.insert(name.clone(), kept.len());
                }
                kept.push((name, cell));
            }
        }
    }
    kept
}

/// Up to so many fields looking through all is quicker than a table.
const FEW: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_beyond_63_bits_stay_apart() {
        let read = |text: &str| serde_json::from_str::<Cell>(text).expect("JSON");
        assert_eq!(read("9223372036854775807"), Cell::Whole(i64::MAX));
        for digits in ["9223372036854775808", "18446744073709551000", "18446744073709551003"] {
            assert_eq!(read(digits), Cell::from(digits));
        }
    }

    #[test]
    fn order_is_kept_and_the_last_of_doubles_counts() {
        let text = r#"{"b":1,"a":[true,null,1.5],"b":{"z":"ä","y":-3}}"#;
        let cell: Cell = serde_json::from_str(text).expect("JSON");
        assert_eq!(cell.to_string(), r#"{"b":{"z":"ä","y":-3},"a":[true,null,1.5]}"#);
        assert_eq!(cell.at_path("b.y"), Some(&Cell::Whole(-3)));
        assert_eq!((cell.at_path("a.2"), cell.at_path("a.3")), (Some(&Cell::Float(1.5)), None));
        let many: Vec<String> = (0..60).map(|at| format!("\"k{}\": {at}", at % 30)).collect();
        let cell: Cell = serde_json::from_str(&format!("{{{}}}", many.join(","))).expect("JSON");
        let Cell::Record(fields) = cell else { panic!("a record") };
        assert_eq!(fields.len(), 30);
        assert_eq!((&fields[29].0[..], &fields[29].1), ("k29", &Cell::Whole(59)));
    }
}
