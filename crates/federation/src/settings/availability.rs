//! When a device can be had: always, with a probability in every round, or in a window of every day.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Seconds of a day and of an hour.
const DAY: f64 = 86_400.0;
const HOUR: f64 = 3_600.0;

/// Seconds by which sums of times may miss a window's edge.
const ROUNDING: f64 = 1e-6;

/// When a kind of device can be had. Who has begun is let finish, whenever that is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "AvailabilityText", into = "AvailabilityText")]
pub enum Availability {
    /// Whenever it is asked.
    #[default]
    Always,
    /// With this probability in every round, drawn for every client anew.
    Chance(f64),
    /// Every day between two hours.
    Daily(Window),
}

/// A part of every day, from one hour to another, past midnight where the first is the later one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Hour of the day at which it opens, 0 to 24; 22.5 is half past ten in the evening.
    pub from: f64,
    /// Hour at which it closes.
    pub to: f64,
}

/// The spelling of [`Availability`] in a configuration file.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "expected \"always\", a probability, or the hours of a day as { from = 22, to = 6 }")]
enum AvailabilityText {
    Chance(f64),
    Daily(Window),
    Word(String),
}

impl TryFrom<AvailabilityText> for Availability {
    type Error = String;

    fn try_from(text: AvailabilityText) -> Result<Self, String> {
        match text {
            AvailabilityText::Chance(chance) => Ok(Availability::Chance(chance)),
            AvailabilityText::Daily(window) => Ok(Availability::Daily(window)),
            AvailabilityText::Word(word) if word == "always" => Ok(Availability::Always),
            AvailabilityText::Word(word) => Err(format!(
                "\"{word}\"; expected \"always\", a probability, or the hours of a day as {{ from = 22, to = 6 }}"
            )),
        }
    }
}

impl From<Availability> for AvailabilityText {
    fn from(availability: Availability) -> Self {
        match availability {
            Availability::Always => AvailabilityText::Word("always".into()),
            Availability::Chance(chance) => AvailabilityText::Chance(chance),
            Availability::Daily(window) => AvailabilityText::Daily(window),
        }
    }
}

impl JsonSchema for Availability {
    fn schema_name() -> Cow<'static, str> {
        "Availability".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let hour = json_schema!({ "type": "number", "minimum": 0, "maximum": 24 });
        json_schema!({
            "description": "\"always\", a probability in every round, or the hours of every day as { from = 22, to = 6 }.",
            "anyOf": [
                { "enum": ["always"] },
                { "type": "number", "exclusiveMinimum": 0, "maximum": 1 },
                {
                    "type": "object",
                    "properties": { "from": hour, "to": hour },
                    "required": ["from", "to"],
                    "additionalProperties": false,
                },
            ],
        })
    }
}

impl Availability {
    /// Whether it can be had at any time.
    pub fn is_always(self) -> bool {
        matches!(self, Availability::Always) || self == Availability::Chance(1.0)
    }

    /// The window of every day, where there is one.
    pub fn window(self) -> Option<Window> {
        if let Availability::Daily(window) = self { Some(window) } else { None }
    }

    /// Whether the numbers can be.
    pub(super) fn is_valid(self) -> bool {
        let hour = |hour: f64| (0.0..=24.0).contains(&hour);
        match self {
            Availability::Always => true,
            Availability::Chance(chance) => chance > 0.0 && chance <= 1.0,
            Availability::Daily(Window { from, to }) => hour(from) && hour(to) && (from % 24.0) != (to % 24.0),
        }
    }

    /// The first moment from `now` on at which it can be had, in seconds since the run began, which is at midnight: `now` itself,
    /// but outside its window.
    pub(crate) fn from(self, now: f64) -> f64 {
        let Availability::Daily(window) = self else { return now };
        let [from, to] = [window.from, window.to].map(|hour| (hour % 24.0) * HOUR);
        let midnight = (now / DAY).floor() * DAY;
        let passed = |seconds: f64| now - midnight >= seconds - ROUNDING;
        let open = if from < to { passed(from) && !passed(to) } else { passed(from) || !passed(to) };
        match (open, passed(from)) {
            (true, _) => now,
            (false, false) => midnight + from,
            (false, true) => midnight + DAY + from,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daily(from: f64, to: f64) -> Availability {
        Availability::Daily(Window { from, to })
    }

    #[test]
    fn a_window_of_every_day_opens_and_closes() {
        let hours = |kind: Availability, now: f64| kind.from(now * 3600.0) / 3600.0;
        // By day.
        let day = daily(8.0, 17.5);
        for (now, first) in
            [(0.0, 8.0), (7.999, 8.0), (8.0, 8.0), (17.0, 17.0), (17.5, 32.0), (23.0, 32.0), (50.0, 56.0)]
        {
            assert!((hours(day, now) - first).abs() < 1e-9, "{now}: {}", hours(day, now));
        }
        // Past midnight.
        let night = daily(22.0, 6.0);
        for (now, first) in
            [(0.0, 0.0), (5.9, 5.9), (6.0, 22.0), (21.9, 22.0), (22.0, 22.0), (29.9, 29.9), (30.0, 46.0)]
        {
            assert!((hours(night, now) - first).abs() < 1e-9, "{now}: {}", hours(night, now));
        }
        // To midnight, and from it.
        assert_eq!((hours(daily(20.0, 24.0), 1.0), hours(daily(20.0, 24.0), 23.5)), (20.0, 23.5));
        assert_eq!((hours(daily(0.0, 6.0), 7.0), hours(daily(24.0, 6.0), 7.0)), (24.0, 24.0));
        for other in [Availability::Always, Availability::Chance(0.5)] {
            assert_eq!(other.from(12_345.0), 12_345.0);
        }
    }

    #[test]
    fn the_moment_at_which_a_window_opens_is_inside_it() {
        for kind in [daily(22.1, 6.7), daily(8.3, 17.9), daily(0.1, 0.2)] {
            for tenth in 0..5_000 {
                let opens = kind.from(f64::from(tenth) * 1234.567);
                assert_eq!(kind.from(opens), opens, "{kind:?}");
            }
        }
    }

    #[test]
    fn what_a_file_says_is_read_and_written() {
        let read = |text: &str| serde_json::from_str::<Availability>(text).map_err(|error| error.to_string());
        assert_eq!(read("\"always\""), Ok(Availability::Always));
        assert_eq!((read("0.5"), read("1")), (Ok(Availability::Chance(0.5)), Ok(Availability::Chance(1.0))));
        assert_eq!(read(r#"{ "from": 22, "to": 6.5 }"#), Ok(daily(22.0, 6.5)));
        for wrong in ["\"nightly\"", r#"{ "from": 22 }"#, "true"] {
            assert!(read(wrong).expect_err(wrong).contains("expected \"always\", a probability"), "{wrong}");
        }
        assert!(!daily(6.0, 6.0).is_valid() && !daily(24.0, 0.0).is_valid() && !daily(22.0, 25.0).is_valid());
        assert!(daily(22.0, 6.0).is_valid() && !Availability::Chance(0.0).is_valid());
    }
}
